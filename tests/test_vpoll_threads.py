"""Several threads on one vpoll: no operation and no wake-up is lost."""

from __future__ import annotations

import errno
import select
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from scale import fewer
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.vpoll import Waiter
from vpoll_helpers import DEADLINE, KERNEL_BACKENDS, by_poll, in_child, running

IN, OUT, PRI, ERR = EventMask.IN, EventMask.OUT, EventMask.PRI, EventMask.ERR

pytestmark = pytest.mark.usefixtures("no_fd_leak")

BACKENDS = [None, "virtual", *KERNEL_BACKENDS]
"""None: no descriptor is asked for."""


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Threads take turns after some ten bytecodes instead of five milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def make(backend: str | None, events: int = 0) -> VPoll:
    vpoll = VPoll(events, backend=backend)
    if backend is not None:
        vpoll.fileno()
    return vpoll


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_operation_of_several_setters_is_lost(backend: str | None) -> None:
    bits = [1 << n for n in (0, 2, 14, 15, 16, 17)]
    rounds = fewer(300, least=50)
    start = threading.Barrier(len(bits))
    with make(backend) as vpoll:

        def setter(bit: int) -> None:
            start.wait(DEADLINE)
            for _ in range(rounds):
                assert vpoll.add_events(bit) & bit
                assert not vpoll.del_events(bit) & bit
            vpoll.add_events(bit)

        with running(*(lambda bit=bit: setter(bit) for bit in bits)):
            pass
        assert vpoll.events == sum(bits)
        if backend not in {None, "virtual"}:
            assert by_poll(vpoll.fileno()) & (IN | OUT) == IN | OUT


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_wake_up_between_two_waiting_threads_is_lost(backend: str | None) -> None:
    rounds = fewer(300, least=50)
    with make(backend) as vpoll:

        def pong() -> None:
            for _ in range(rounds):
                assert vpoll.wait(IN, DEADLINE) & IN
                vpoll.set_events(OUT)

        with running(pong):
            for _ in range(rounds):
                vpoll.set_events(IN)
                assert vpoll.wait(OUT, DEADLINE) & OUT


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
@pytest.mark.parametrize("edge", [0, select.EPOLLET])
def test_no_wake_up_of_an_epoll_waiter_is_lost(backend: str, edge: int) -> None:
    rounds = fewer(200, least=50)
    with make(backend) as vpoll, VPoll() as back, select.epoll() as epoll:
        epoll.register(vpoll, IN | edge)

        def waiter() -> None:
            for _ in range(rounds):
                assert epoll.poll(DEADLINE)
                vpoll.del_events(IN)
                back.add_events(IN)

        with running(waiter):
            for _ in range(rounds):
                vpoll.add_events(IN)
                assert back.wait(IN, DEADLINE)
                back.del_events(IN)


class Noticing(VPoll):
    """Counts the waiters that have sat down on its wait queue."""

    __slots__ = ("sitting",)

    def __init__(self, backend: str | None) -> None:
        self.sitting = threading.Semaphore(0)
        super().__init__(backend=backend)

    def add_waiter(self, waiter: Waiter) -> None:
        super().add_waiter(waiter)
        self.sitting.release()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_one_of_many_waiting_threads_is_woken(backend: str | None) -> None:
    seen: list[EventMask] = []
    with Noticing(backend) as vpoll:
        if backend is not None:
            vpoll.fileno()
        works = [lambda: seen.append(vpoll.wait(IN, DEADLINE))] * 8
        with running(*works):
            for _ in works:
                assert vpoll.sitting.acquire(timeout=DEADLINE)
            vpoll.add_events(IN)
    assert seen == [IN] * 8


def use_for_ever(handle: VPoll) -> None:
    while True:
        handle.add_events(IN)
        handle.fileno()
        handle.set_events(OUT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_while_other_threads_set_ends_them_with_ebadf_alone(backend: str | None) -> None:
    for _ in range(fewer(25, least=5)):
        vpoll = make(backend)
        twin = vpoll.dup()
        begun = threading.Barrier(4)

        def setter(handle: VPoll = vpoll, begun: threading.Barrier = begun) -> None:
            begun.wait(DEADLINE)
            with pytest.raises(OSError) as fault:
                use_for_ever(handle)
            assert fault.value.errno == errno.EBADF

        with running(setter, setter, lambda: setter(twin)):  # noqa: B023
            begun.wait(DEADLINE)
            vpoll.close()
            twin.close()


@pytest.mark.parametrize("backend", ["virtual", *KERNEL_BACKENDS])
def test_all_threads_that_ask_first_get_one_descriptor(backend: str) -> None:
    for _ in range(fewer(25, least=5)):
        with VPoll(IN, backend=backend) as vpoll:
            start = threading.Barrier(4)
            numbers: set[int] = set()

            def ask(vpoll: VPoll = vpoll, start: threading.Barrier = start) -> None:
                start.wait(DEADLINE)
                numbers.add(vpoll.fileno())  # noqa: B023

            with running(ask, ask, ask, ask):
                pass
            assert numbers == {vpoll.fileno()}


def test_a_child_forked_in_the_middle_of_an_operation_can_look_wait_and_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped, go_on = threading.Semaphore(0), threading.Event()
    send = socket.socket.send

    def stopping(end: socket.socket, data: bytes, flags: int) -> int:
        stopped.release()
        assert go_on.wait(DEADLINE)
        return send(end, data, flags)

    with make("unixpair") as vpoll:
        fd = vpoll.fileno()
        monkeypatch.setattr(socket.socket, "send", stopping)

        def child() -> None:
            assert vpoll.events == IN
            assert vpoll.wait(IN, 0) == IN
            with pytest.raises(PermissionError):
                vpoll.add_events(OUT)
            with vpoll.dup() as twin:
                assert twin.fileno() != fd
            vpoll.close()

        with running(lambda: vpoll.add_events(IN)):
            assert stopped.acquire(timeout=DEADLINE)
            try:
                in_child(child)
            finally:
                go_on.set()
        assert by_poll(fd) & (IN | OUT) == IN


@pytest.mark.parametrize("first", ["the same thread", "another thread"])
def test_an_operation_that_returns_is_shown_though_another_thread_was_in_the_middle_of_one(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    stopped, go_on = threading.Semaphore(0), threading.Event()
    send = socket.socket.send

    def stopping(end: socket.socket, data: bytes, flags: int) -> int:
        stopped.release()
        assert go_on.wait(DEADLINE)
        return send(end, data, flags)

    def slow(vpoll: VPoll) -> None:
        if first == "the same thread":
            vpoll.add_events(0)
        vpoll.add_events(IN)

    def quick(vpoll: VPoll) -> None:
        assert vpoll.add_events(OUT) == IN | OUT
        assert by_poll(vpoll.fileno()) & (IN | OUT) == IN | OUT

    with make("unixpair") as vpoll:
        if first == "another thread":
            vpoll.add_events(0)
        monkeypatch.setattr(socket.socket, "send", stopping)
        with running(lambda: slow(vpoll)):
            assert stopped.acquire(timeout=DEADLINE)
            with running(lambda: quick(vpoll)):
                assert vpoll.peek() & IN
                assert not by_poll(vpoll.fileno()) & (IN | OUT)
                go_on.set()


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_a_handle_may_be_closed_by_another_thread_than_the_one_that_operates(backend: str) -> None:
    with make(backend) as vpoll:
        vpoll.add_events(IN)
        twin = vpoll.dup()
        twin.fileno()
        with running(twin.close):
            pass
        vpoll.set_events(OUT)
        assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT
