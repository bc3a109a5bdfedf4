"""A million operations of several threads on one vpoll, and nobody sleeps through one.

Every setter has an event of its own, which it adds and deletes in bursts while the others
do the same.  At the end of a burst it adds the event, and goes on once the one waiter
that is interested has seen and deleted it.  A wake-up that is lost stops them all.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from exact_backends import name_of
from scale import LONG, fewer
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.selector import VPollSelector
from vpoll_asyncio.testing import TRAITS
from vpoll_helpers import DEADLINE, KERNEL_BACKENDS, running

pytestmark = pytest.mark.usefixtures("no_fd_leak")

EVENTS = [
    EventMask.IN,
    EventMask.OUT,
    EventMask.PRI,
    EventMask.RDBAND,
    EventMask.WRBAND,
    EventMask.RDHUP,
]
"""One a setter.  ERR and HUP would wake everybody."""

WAITERS = 3

BURST = 50

OPERATIONS = {
    None: 1_000_000,
    "virtual": 1_000_000,
    "eventfd": 1_000_000,
    "device": 1_000_000,
    "unixpair": 200_000,
    "tcppair": 30_000,
    "fuse": 100_000,
}
"""How many the setters do together, so that each backend takes some seconds; None: waiters
that sit on the wait queue itself.  With ``VPOLL_TEST_LONG`` a million on each, which takes
some 15 s on `unixpair`, a minute or two on `tcppair` and on `fuse`."""

if LONG:
    OPERATIONS = dict.fromkeys(OPERATIONS, 1_000_000)

Look = Callable[[], int]
"""Sleeps until one of a waiter's events is pending; returns those that are."""


@contextmanager
def looking(vpoll: VPoll, backend: str | None, wanted: int, edge: bool) -> Iterator[Look]:
    """A way to wait for the events of `wanted`, as suits the backend."""
    if backend is None:
        yield lambda: vpoll.wait(wanted, DEADLINE)
    elif backend == "virtual":
        with VPollSelector() as selector:
            selector.register_mask(vpoll, wanted)
            yield lambda: sum(events for _, events in selector.select(DEADLINE))
    else:
        with select.epoll() as epoll:
            epoll.register(vpoll, wanted | (select.EPOLLET if edge else 0))
            yield lambda: sum(events for _, events in epoll.poll(DEADLINE))


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


WAYS = [
    pytest.param(None, False, id="vpoll"),
    pytest.param("virtual", False, id="virtual"),
    *(
        pytest.param(
            name_of(param),
            edge,
            id=f"{name_of(param)}-{'edge' if edge else 'level'}",
            marks=getattr(param, "marks", ()),
        )
        for param in KERNEL_BACKENDS
        for edge in ([False, True] if TRAITS[name_of(param)].edges else [False])
    ),
]


def storm(
    vpoll: VPoll,
    events: list[int],
    bursts: int,
    look_for: Callable[[int], AbstractContextManager[Look]],
    patience: float = DEADLINE,
) -> None:
    """Let every setter raise `bursts` bursts; fail when one waits longer than `patience`."""
    asked: set[int] = set()
    answered = {event: threading.Lock() for event in events}
    for lock in answered.values():
        lock.acquire()
    done = threading.Event()
    answers = dict.fromkeys(events, 0)
    ended = threading.Semaphore(0)

    def setter(event: int) -> None:
        try:
            raise_bursts(event)
        finally:
            ended.release()

    def raise_bursts(event: int) -> None:
        for _ in range(bursts):
            for _ in range(BURST // 2 - 1):
                vpoll.add_events(event)
                vpoll.del_events(event)
            vpoll.add_events(event)
            # Before the event: whoever deletes it then looks whether it was asked for.
            asked.add(event)
            vpoll.add_events(event)
            assert answered[event].acquire(timeout=patience), "a wake-up is lost"

    def waiter(look: Look, own: list[int]) -> None:
        while not done.is_set():
            seen = look()
            for event in own:
                if seen & event:
                    vpoll.del_events(event)
                    if event in asked:
                        asked.remove(event)
                        answers[event] += 1
                        answered[event].release()

    with ExitStack() as stack:
        waiters = []
        for own in filter(None, (events[number::WAITERS] for number in range(WAITERS))):
            look = stack.enter_context(look_for(sum(own)))
            waiters.append(threading.Thread(target=waiter, args=(look, own), daemon=True))
        for thread in waiters:
            thread.start()
        try:
            with running(*(lambda event=event: setter(event) for event in events)):
                for _ in events:
                    # Each of them gives up when it gets no answer to a burst.
                    assert ended.acquire(timeout=bursts * patience)
        finally:
            done.set()
            vpoll.set_events(sum(events))
            for thread in waiters:
                thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in waiters)
    assert answers == dict.fromkeys(events, bursts)


def bursts_for(operations: int, events: list[int]) -> int:
    return fewer(operations // (len(events) * BURST), least=20)


@pytest.mark.parametrize(("backend", "edge"), WAYS)
def test_no_wake_up_is_lost_in_a_storm(backend: str | None, edge: bool) -> None:
    with VPoll(backend=backend) as vpoll:
        if backend is not None:
            vpoll.fileno()
        events = [int(event) for event in EVENTS if event & vpoll.exact]
        bursts = bursts_for(OPERATIONS[backend], events)
        storm(vpoll, events, bursts, lambda own: looking(vpoll, backend, own, edge))


@contextmanager
def looking_once(vpoll: VPoll, wanted: int) -> Iterator[Look]:
    """Look, then sit down on the wait queue, and not look again: the usual mistake."""

    def look() -> int:
        if seen := vpoll.peek() & wanted:
            return seen
        time.sleep(0)
        woken = threading.Event()

        def wake(mask: int) -> None:
            if mask & wanted:
                woken.set()

        vpoll.add_waiter(wake)
        woken.wait(DEADLINE)
        vpoll.remove_waiter(wake)
        return vpoll.peek() & wanted

    yield look


def test_a_waiter_that_loses_wake_ups_does_not_weather_the_storm() -> None:
    events = [int(event) for event in EVENTS]
    with VPoll() as vpoll, pytest.raises(AssertionError, match="a wake-up is lost"):
        storm(
            vpoll,
            events,
            bursts_for(1_000_000, events),
            lambda own: looking_once(vpoll, own),
            patience=DEADLINE / 10,
        )
