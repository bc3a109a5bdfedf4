"""Signal handlers and finalizers that come in at the middle of an operation."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scale import SCALE
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.base import Mirror
from vpoll_asyncio.backends.tcppair import TcpPairBackend
from vpoll_asyncio.backends.unixpair import UnixPairBackend
from vpoll_helpers import (
    DEADLINE,
    KERNEL_BACKENDS,
    PAIRS,
    by_epoll,
    by_poll,
    descriptors_left,
    in_child,
)

IN, OUT, PRI = int(EventMask.IN), int(EventMask.OUT), int(EventMask.PRI)

pytestmark = pytest.mark.usefixtures("no_fd_leak")

BACKENDS = [None, "virtual", *KERNEL_BACKENDS]


@contextlib.contextmanager
def signals_rain(handler: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Call `handler` from signal handlers, not nested; yields a counter of calls.

    Whoever looks at the counter gets on.  Until then each signal gives twice the time: a
    system call that is begun anew after each would never end on a machine that is busy.
    """
    count = 0
    # Where the handler takes as long as this, nothing else would ever run.
    shortest = interval = 200e-6 * SCALE
    raining = True

    def handle(number: int, frame: object) -> None:
        nonlocal count, interval
        count += 1
        handler()
        interval *= 2
        # One that came before the end may be handled after it.
        if raining:
            signal.setitimer(signal.ITIMER_REAL, interval)

    def looked() -> int:
        nonlocal interval
        interval = shortest
        return count

    old = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, interval)
    try:
        yield looked
    finally:
        raining = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_operation_of_a_rain_of_signals_is_lost(backend: str | None) -> None:
    theirs = 0
    deadline = time.monotonic() + DEADLINE
    with VPoll(backend=backend) as vpoll:
        if backend is not None:
            vpoll.fileno()

        def toggle() -> None:
            nonlocal theirs
            if theirs:
                assert not vpoll.del_events(OUT | 1 << 20) & (OUT | 1 << 20)
                theirs = 0
            else:
                theirs = OUT | 1 << 20
                assert vpoll.add_events(theirs) & theirs == theirs

        with signals_rain(toggle) as count:
            while count() < 400:
                assert time.monotonic() < deadline
                for _ in range(20):
                    assert vpoll.add_events(IN | 1 << 21) & (IN | 1 << 21) == IN | 1 << 21
                    before = count()
                    mask, expected = vpoll.peek(), IN | 1 << 21 | theirs
                    assert mask == expected or before != count()
                    assert not vpoll.del_events(IN | 1 << 21) & (IN | 1 << 21)
            vpoll.add_events(IN)
        assert vpoll.events == IN | theirs
        if backend not in {None, "virtual"}:
            assert by_poll(vpoll.fileno()) & (IN | OUT) == (IN | theirs) & (IN | OUT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_waiters_come_and_go_in_a_rain_of_signals(backend: str | None) -> None:
    deadline = time.monotonic() + DEADLINE
    extra: list[Callable[[int], None]] = []
    with VPoll(backend=backend) as vpoll:

        def come_or_go() -> None:
            if len(extra) == 5:
                while extra:
                    assert vpoll.remove_waiter(extra.pop())
            else:

                def waiter(mask: int) -> None:
                    pass

                vpoll.add_waiter(waiter)
                extra.append(waiter)

        with signals_rain(come_or_go) as count:
            while count() < 400:
                assert time.monotonic() < deadline
                heard: list[int] = []
                vpoll.add_waiter(heard.append)
                vpoll.add_events(IN)
                assert vpoll.remove_waiter(heard.append)
                assert heard == [IN]
        for waiter in extra:
            assert vpoll.remove_waiter(waiter)


@pytest.mark.parametrize("backend", ["virtual", *KERNEL_BACKENDS])
def test_descriptors_and_duplicates_come_and_go_in_a_rain_of_signals(backend: str) -> None:
    deadline = time.monotonic() + DEADLINE
    vpoll = VPoll(backend=backend)
    vpoll.close()
    with signals_rain(lambda: use(vpoll)) as count:
        while count() < 300:
            assert time.monotonic() < deadline
            vpoll = VPoll(IN, backend=backend)
            fd = vpoll.fileno()
            assert vpoll.fileno() == fd
            use(vpoll)
            vpoll.close()


def test_what_a_signal_does_while_the_first_duplicate_is_made_is_not_lost() -> None:
    deadline = time.monotonic() + DEADLINE
    heard: list[int] = []
    vpoll = VPoll()
    vpoll.close()
    set_by_signals: set[VPoll] = set()

    def operate() -> None:
        if not vpoll.closed and vpoll not in set_by_signals:
            vpoll.add_waiter(heard.append)
            vpoll.add_events(IN)
            set_by_signals.add(vpoll)

    with signals_rain(operate) as count:
        while count() < 300:
            assert time.monotonic() < deadline
            vpoll = VPoll()
            with vpoll, vpoll.dup():
                vpoll.add_events(OUT)
                if vpoll in set_by_signals:
                    heard.clear()
                    assert vpoll.add_events(PRI) == IN | OUT | PRI
                    assert heard == [IN | OUT | PRI]
            set_by_signals.discard(vpoll)


def use(vpoll: VPoll) -> None:
    if not vpoll.closed:
        with vpoll.dup() as twin:
            twin.fileno()
            twin.add_events(IN)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handler_ends_the_wait_that_it_interrupts(backend: str | None) -> None:
    with VPoll(backend=backend) as vpoll:
        if backend is not None:
            vpoll.fileno()
        for _ in range(100):
            old = signal.signal(signal.SIGALRM, lambda number, frame: vpoll.add_events(IN))
            try:
                signal.setitimer(signal.ITIMER_REAL, 100e-6)
                assert vpoll.wait(IN, DEADLINE) == IN
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, old)
            vpoll.del_events(IN)


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_a_handler_ends_the_epoll_wait_that_it_interrupts(backend: str) -> None:
    with VPoll(backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN)
        old = signal.signal(signal.SIGALRM, lambda number, frame: vpoll.add_events(IN))
        try:
            # Handlers nest: what takes longer than this would recurse without end.
            signal.setitimer(signal.ITIMER_REAL, 1e-3 * SCALE, 1e-3 * SCALE)
            assert epoll.poll(DEADLINE) == [(vpoll.fileno(), IN)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("backend", BACKENDS)
def test_finalizers_that_the_collector_runs_anywhere_set_events(backend: str | None) -> None:
    finalized = 0

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            nonlocal finalized
            finalized += 1
            operate = vpoll.add_events if finalized % 2 else vpoll.del_events
            operate(OUT)

    with VPoll(backend=backend) as vpoll:
        if backend is not None:
            vpoll.fileno()
        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        try:
            while finalized < 201:
                Garbage()
                before = finalized
                mask = vpoll.add_events(IN)
                if finalized == before:
                    assert mask == (IN | OUT if finalized % 2 else IN)
                vpoll.del_events(IN)
        finally:
            gc.set_threshold(*thresholds)
        del Garbage
        gc.collect()
        assert vpoll.events == (OUT if finalized % 2 else 0)


class Interruption:
    """What a handler does at one chosen moment, once."""

    def __init__(self) -> None:
        self.action: Callable[[], object] = lambda: None

    def come_in(self) -> None:
        action, self.action = self.action, lambda: None
        action()


@pytest.fixture(params=["before", "after"])
def in_the_system_call(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Interruption:
    """Interrupts a pair before or after a system call that changes what it shows."""
    interruption = Interruption()

    def interrupted(name: str) -> Callable[..., int | bytes]:
        call: Callable[..., int | bytes] = getattr(socket.socket, name)

        def with_a_handler(*arguments: Any) -> int | bytes:
            if request.param == "before":
                interruption.come_in()
            answer = call(*arguments)
            if request.param == "after":
                interruption.come_in()
            return answer

        return with_a_handler

    for name in ("send", "recv", "recv_into"):
        monkeypatch.setattr(socket.socket, name, interrupted(name))
    return interruption


@pytest.fixture(params=["before", "after"])
def in_the_creation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Interruption:
    """Interrupts a backend before or after it makes its kernel object."""
    interruption = Interruption()
    create = UnixPairBackend.create

    def interrupted(backend: UnixPairBackend, mask: int) -> Mirror:
        if request.param == "before":
            interruption.come_in()
        mirror = create(backend, mask)
        if request.param == "after":
            interruption.come_in()
        return mirror

    monkeypatch.setattr(UnixPairBackend, "create", interrupted)
    return interruption


def test_an_operation_inside_an_operation_comes_after_it(
    in_the_system_call: Interruption,
) -> None:
    heard: list[int] = []
    returned: list[int] = []
    with VPoll(IN, backend="unixpair") as vpoll:
        vpoll.fileno()
        vpoll.add_waiter(heard.append)
        in_the_system_call.action = lambda: returned.append(vpoll.add_events(OUT))
        assert vpoll.set_events(0) & ~OUT == 0
        assert vpoll.events == OUT
        assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT
    assert returned == [OUT]
    assert OUT in heard


def test_three_operations_inside_one_another_keep_their_order(
    in_the_system_call: Interruption,
) -> None:
    with VPoll(backend="unixpair") as vpoll:
        vpoll.fileno()

        def nested() -> None:
            assert vpoll.set_events(IN | OUT) == IN | OUT
            assert vpoll.peek() == IN | OUT
            assert vpoll.del_events(IN) == OUT
            assert vpoll.events == OUT

        in_the_system_call.action = nested
        vpoll.set_events(IN)
        assert vpoll.events == OUT
        assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT


def test_the_vpoll_may_be_closed_inside_an_operation(in_the_system_call: Interruption) -> None:
    vpoll = VPoll(IN, backend="unixpair")
    fd = vpoll.fileno()
    in_the_system_call.action = vpoll.close
    vpoll.set_events(0)
    assert vpoll.closed
    with pytest.raises(OSError) as fault:
        os.fstat(fd)
    assert fault.value.errno == errno.EBADF


def test_a_duplicate_may_be_made_and_the_original_closed_inside_an_operation(
    in_the_system_call: Interruption,
) -> None:
    vpoll = VPoll(IN, backend="unixpair")
    vpoll.fileno()
    twins: list[VPoll] = []

    def swap() -> None:
        twins.append(vpoll.dup())
        twins[0].fileno()
        vpoll.close()

    in_the_system_call.action = swap
    vpoll.set_events(OUT)
    (twin,) = twins
    assert by_poll(twin.fileno()) & (IN | OUT) == OUT
    twin.set_events(IN)
    assert by_poll(twin.fileno()) & (IN | OUT) == IN
    twin.close()


def test_an_operation_that_an_exception_ends_is_made_up_for(
    in_the_system_call: Interruption,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with VPoll(IN, backend="unixpair") as vpoll:
        fd = vpoll.fileno()
        in_the_system_call.action = interrupt
        with pytest.raises(KeyboardInterrupt):
            vpoll.set_events(OUT)
        vpoll.add_events(0)
        assert vpoll.events == OUT
        assert by_poll(fd) & (IN | OUT) == OUT


def test_an_operation_inside_the_creation_is_shown(in_the_creation: Interruption) -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        in_the_creation.action = lambda: vpoll.set_events(OUT)
        assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT
        assert vpoll.events == OUT


def test_the_descriptor_that_is_asked_for_inside_its_creation_is_the_one(
    in_the_creation: Interruption,
) -> None:
    given: list[int] = []
    with VPoll(IN, backend="unixpair") as vpoll:
        in_the_creation.action = lambda: given.append(vpoll.fileno())
        assert [vpoll.fileno()] == given
        vpoll.set_events(OUT)
        assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT


def test_the_vpoll_may_be_closed_inside_the_creation(in_the_creation: Interruption) -> None:
    vpoll = VPoll(IN, backend="unixpair")
    in_the_creation.action = vpoll.close
    with pytest.raises(OSError) as fault:
        vpoll.fileno()
    assert fault.value.errno == errno.EBADF


def test_a_handle_may_be_closed_inside_the_creation_while_a_duplicate_lives(
    in_the_creation: Interruption,
) -> None:
    vpoll = VPoll(IN, backend="unixpair")
    with vpoll.dup() as twin:
        in_the_creation.action = vpoll.close
        with pytest.raises(OSError) as fault:
            vpoll.fileno()
        assert fault.value.errno == errno.EBADF
        assert by_poll(twin.fileno()) & (IN | OUT) == IN


@pytest.mark.parametrize("backend", PAIRS)
def test_operations_during_a_creation_that_fails_are_not_lost(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"unixpair": UnixPairBackend, "tcppair": TcpPairBackend}[backend]
    heard: list[int] = []
    with VPoll(IN, backend=backend) as vpoll:
        vpoll.add_waiter(heard.append)

        def fail(self: object, mask: int) -> Mirror:
            assert vpoll.add_events(OUT) == IN | OUT
            assert vpoll.del_events(IN) == OUT
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patched:
            patched.setattr(kind, "create", fail)
            with pytest.raises(OSError) as fault:
                vpoll.fileno()
        assert fault.value.errno == errno.EMFILE
        assert heard == [IN | OUT, OUT]
        assert vpoll.events == OUT
        assert vpoll.add_events(PRI) == OUT | PRI
        assert by_epoll(vpoll.fileno()) & OUT


def test_a_child_forked_by_a_handler_inside_an_operation_leaves_the_parent_alone(
    in_the_system_call: Interruption,
) -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        fd = vpoll.fileno()

        def child() -> None:
            assert vpoll.events == OUT
            with pytest.raises(PermissionError):
                vpoll.set_events(0)

        in_the_system_call.action = lambda: in_child(child)
        assert vpoll.set_events(OUT) == OUT
        assert by_poll(fd) & (IN | OUT) == OUT


@pytest.mark.parametrize("backend", PAIRS)
def test_closing_one_of_two_handles_never_fails_for_want_of_descriptors(backend: str) -> None:
    vpoll = VPoll(IN, backend=backend)
    fd = vpoll.fileno()
    with vpoll.dup() as twin:
        with descriptors_left(0):
            vpoll.close()
            assert twin.set_events(OUT) == OUT
            assert twin.fileno() == fd
        assert by_poll(twin.fileno()) & (IN | OUT) == OUT
        twin.set_events(IN)
        assert by_poll(twin.fileno()) & (IN | OUT) == IN
    with pytest.raises(OSError) as fault:
        os.fstat(fd)
    assert fault.value.errno == errno.EBADF
