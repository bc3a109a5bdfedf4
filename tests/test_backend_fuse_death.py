"""A daemon of the `fuse` backend that is killed: everybody is told, and nobody spins."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import struct
import sys
import threading
from collections.abc import Callable
from queue import Queue

import pytest

import vpoll_asyncio as va
from fuse_helpers import asleep_in_epoll, daemon_kind, kill_the_daemon, the_daemon, wait_until
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.fuse import current_daemon
from vpoll_helpers import DEADLINE, by_epoll, by_poll, in_child

__all__ = ["daemon_kind"]

pytestmark = [
    pytest.mark.needs("fuse"),
    pytest.mark.usefixtures("no_fd_leak", "daemon_kind"),
]

IN, OUT, ERR, HUP = EventMask.IN, EventMask.OUT, EventMask.ERR, EventMask.HUP

OPERATIONS: list[Callable[[VPoll], int]] = [
    lambda vpoll: vpoll.add_events(IN),
    lambda vpoll: vpoll.del_events(IN),
    lambda vpoll: vpoll.set_events(IN),
]


def fails_with_enotconn(call: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as fault:
        call()
    return fault.value.errno == errno.ENOTCONN


@pytest.mark.parametrize("operation", OPERATIONS, ids=["add", "del", "set"])
def test_every_operation_fails_and_waiters_hear_of_the_error_once(
    operation: Callable[[VPoll], int],
) -> None:
    heard: list[int] = []
    with VPoll(OUT, backend="fuse") as vpoll:
        vpoll.fileno()
        vpoll.add_waiter(heard.append)
        kill_the_daemon()
        for _ in range(3):
            assert fails_with_enotconn(lambda: operation(vpoll))
        [mask] = heard
        assert mask & ERR
        assert vpoll.events == mask


def test_the_events_show_the_error_before_any_operation_has_failed() -> None:
    with VPoll(IN, backend="fuse") as vpoll:
        fd = vpoll.fileno()
        kill_the_daemon()
        assert by_epoll(fd) == by_poll(fd) == ERR
        assert vpoll.events == IN | ERR
        assert vpoll.wait(0, timeout=DEADLINE) == ERR


def test_a_duplicate_and_a_forked_child_are_told_too() -> None:
    with VPoll(IN, backend="fuse") as vpoll, vpoll.dup() as twin:
        assert vpoll.fileno() != twin.fileno()
        kill_the_daemon()
        assert fails_with_enotconn(lambda: twin.add_events(OUT))

        def child() -> None:
            assert fails_with_enotconn(lambda: vpoll.add_events(OUT))

        in_child(child)
        assert fails_with_enotconn(lambda: vpoll.add_events(OUT))


def test_the_next_vpoll_starts_a_new_daemon() -> None:
    with VPoll(IN, backend="fuse") as old, VPoll(OUT, backend="fuse") as new:
        old.fileno()
        first = the_daemon()
        kill_the_daemon()
        # Nothing has noticed yet.
        assert current_daemon() == first
        assert by_poll(new.fileno()) == OUT
        assert the_daemon() != first
        assert new.add_events(IN) == IN | OUT
        assert fails_with_enotconn(lambda: old.add_events(OUT))
        assert new.del_events(OUT) == IN


def test_a_wait_in_epoll_ends_with_an_error() -> None:
    seen: Queue[list[tuple[int, int]]] = Queue()
    with VPoll(backend="fuse") as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN)
        thread = threading.Thread(target=lambda: seen.put(epoll.poll(DEADLINE)))
        thread.start()
        wait_until(lambda: asleep_in_epoll(thread), "sleep in epoll")
        kill_the_daemon()
        assert seen.get(timeout=DEADLINE) == [(fd, ERR)]
        thread.join()


@pytest.mark.parametrize(
    "flags", [0, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE], ids=["level", "oneshot", "exclusive"]
)
def test_after_a_failed_operation_an_epoll_reports_the_error_once_more(flags: int) -> None:
    with (
        VPoll(backend="fuse") as vpoll,
        vpoll.dup() as twin,
        select.epoll() as one,
        select.epoll() as other,
    ):
        one.register(vpoll, select.EPOLLIN | flags)
        other.register(twin, select.EPOLLIN | flags)
        kill_the_daemon()
        assert one.poll(0) == [(vpoll.fileno(), ERR)]
        for _ in range(2):
            assert fails_with_enotconn(lambda: vpoll.add_events(IN))
        # What has been told is told again; what has not must be.
        assert one.poll(0) in ([(vpoll.fileno(), ERR)], [])
        assert other.poll(0) == [(twin.fileno(), ERR)]
        assert one.poll(0) == other.poll(0) == []
        assert fails_with_enotconn(lambda: vpoll.add_events(IN))
        assert one.poll(0) == other.poll(0) == []
        # The registrations are still there.
        one.unregister(vpoll)
        other.unregister(twin)


def test_what_another_library_has_registered_stays_as_it_is() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    layout = "=IQ" if os.uname().machine == "x86_64" else "@IQ"
    pointer = 0x7F00_1234_5678
    with VPoll(backend="fuse") as vpoll, select.epoll() as epoll:
        event = ctypes.create_string_buffer(struct.pack(layout, select.EPOLLIN, pointer))
        assert libc.epoll_ctl(epoll.fileno(), 1, vpoll.fileno(), event) == 0
        kill_the_daemon()
        assert fails_with_enotconn(lambda: vpoll.add_events(IN))
        for _ in range(3):
            assert epoll.poll(0) == [(pointer & 0xFFFF_FFFF, ERR)]


def stock_asyncio() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def asyncio_with_our_selector() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(va.VPollSelector())


def stock_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def ours_on_uvloop() -> asyncio.AbstractEventLoop:
    return va.new_event_loop(loop="uvloop")


uvloop = pytest.mark.needs("uvloop")
LOOPS = [
    stock_asyncio,
    asyncio_with_our_selector,
    va.EventLoop,
    pytest.param(stock_uvloop, marks=uvloop),
    pytest.param(ours_on_uvloop, marks=uvloop),
]


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("writer", [False, True], ids=["reader", "reader and writer"])
def test_no_loop_spins_on_the_descriptor(
    new_loop: Callable[[], asyncio.AbstractEventLoop], writer: bool
) -> None:
    calls: list[OSError] = []

    async def main(vpoll: VPoll) -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def on_ready() -> None:
            told.set()
            try:
                vpoll.del_events(IN)
            except OSError as error:
                calls.append(error)

        loop.add_reader(vpoll.fileno(), on_ready)
        if writer:
            loop.add_writer(vpoll.fileno(), on_ready)
        kill_the_daemon()
        async with asyncio.timeout(DEADLINE):
            await told.wait()
        for _ in range(100):
            # A turn of the loop with a look into the kernel each.
            await asyncio.sleep(0.001)
        loop.remove_reader(vpoll.fileno())
        loop.remove_writer(vpoll.fileno())

    with VPoll(backend="fuse") as vpoll:
        vpoll.fileno()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main(vpoll))
    assert 1 <= len(calls) <= 4
    assert {error.errno for error in calls} == {errno.ENOTCONN}


@pytest.mark.parametrize("new_loop", [va.EventLoop, pytest.param(ours_on_uvloop, marks=uvloop)])
def test_a_reader_of_the_vpoll_itself_is_told_when_an_operation_fails(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main(vpoll: VPoll) -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def on_ready() -> None:
            loop.remove_reader(vpoll)
            told.set()

        loop.add_reader(vpoll, on_ready)
        kill_the_daemon()
        assert fails_with_enotconn(lambda: vpoll.add_events(OUT))
        async with asyncio.timeout(DEADLINE):
            await told.wait()
        assert vpoll.peek() & ERR

    with VPoll(backend="fuse") as vpoll:
        vpoll.fileno()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main(vpoll))


def test_operations_under_way_in_threads_end() -> None:
    errors: Queue[int] = Queue()
    started = threading.Semaphore(0)

    def operate(vpoll: VPoll) -> None:
        try:
            vpoll.add_events(IN)
            started.release()
            while True:
                vpoll.add_events(IN)
        except OSError as error:
            errors.put(error.errno or 0)

    vpolls = [VPoll(backend="fuse") for _ in range(4)]
    for vpoll in vpolls:
        vpoll.fileno()
    threads = [threading.Thread(target=operate, args=(vpoll,)) for vpoll in vpolls]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert started.acquire(timeout=DEADLINE)
    kill_the_daemon()
    assert [errors.get(timeout=DEADLINE) for _ in threads] == [errno.ENOTCONN] * len(threads)
    for thread in threads:
        thread.join()
    for vpoll in vpolls:
        vpoll.close()


def test_raw_descriptors_answer_as_the_kernel_has_it() -> None:
    with VPoll(backend="fuse") as vpoll:
        fd = vpoll.fileno()
        kill_the_daemon()
        word = (1 << 32 | IN).to_bytes(8, sys.byteorder)
        assert fails_with_enotconn(lambda: os.write(fd, word))
        assert fails_with_enotconn(lambda: os.read(fd, 8))
