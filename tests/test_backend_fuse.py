"""What a `fuse` vpoll is to the kernel's pollers, and what read(2), write(2), ioctl(2) do."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import select
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_helpers import KINDS, asleep_in_epoll, wait_until
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.base import ADD, DEL, SET
from vpoll_asyncio.backends.device import request
from vpoll_asyncio.backends.eventfd import encode
from vpoll_asyncio.backends.fuse import CHOICE, FuseBackend
from vpoll_asyncio.events import KEPT, to_select
from vpoll_helpers import DEADLINE, by_epoll, by_poll, by_select

pytestmark = [
    pytest.mark.needs("fuse"),
    pytest.mark.usefixtures("no_fd_leak", "daemon_kind"),
]

IN, PRI, OUT, ERR, HUP = (
    EventMask.IN,
    EventMask.PRI,
    EventMask.OUT,
    EventMask.ERR,
    EventMask.HUP,
)
NAMED = FuseBackend.exact


@pytest.fixture(scope="module", params=KINDS)
def daemon_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """One daemon of each kind serves every test."""
    with pytest.MonkeyPatch.context() as patch, VPoll(backend="fuse") as keeper:
        patch.setenv(CHOICE, request.param)
        keeper.fileno()
        yield request.param


masks = st.integers(0, KEPT)
operations = st.lists(st.tuples(st.sampled_from([ADD, DEL, SET]), masks), max_size=20)


def model(mask: int, command: int, argument: int) -> int:
    return {ADD: mask | argument, DEL: mask & ~argument, SET: argument}[command]


def read_mask(fd: int) -> int:
    return int.from_bytes(os.read(fd, 8), sys.byteorder)


def test_random_masks_are_read_back_exactly(daemon_kind: str) -> None:
    generator = random.Random(0)
    count = 100_000 if daemon_kind == "compiled" else 5_000
    poll = select.poll()
    with VPoll(backend="fuse") as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, KEPT)
        poll.register(fd, 0xFFFF)
        for turn in range(count):
            mask = generator.getrandbits(14) & NAMED
            vpoll.set_events(mask)
            assert epoll.poll(0) == ([(fd, mask)] if mask else [])
            assert poll.poll(0) == ([(fd, mask)] if mask else [])
            if turn % 16 == 0:
                assert by_select(fd) == to_select(mask)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=masks, steps=operations)
def test_every_way_to_operate_and_to_look_agrees_with_a_plain_mask(
    first: int, steps: list[tuple[int, int]]
) -> None:
    mask = first
    with VPoll(first, backend="fuse") as vpoll:
        fd = vpoll.fileno()
        for number, (command, argument) in enumerate(steps):
            mask = model(mask, command, argument)
            if number % 2:
                assert fcntl.ioctl(fd, request(command), argument) == mask
            else:
                assert os.write(fd, encode(command, argument)) == 8
            assert vpoll.events == read_mask(fd) == mask
            assert by_epoll(fd) == mask & NAMED
            assert by_poll(fd) == mask & NAMED & 0xFFFF
            assert by_select(fd) == to_select(mask & NAMED)


@pytest.mark.parametrize("size", [1, 7, 9, 16, 1 << 16])
def test_a_write_of_other_than_eight_bytes_is_refused(size: int) -> None:
    with VPoll(HUP, backend="fuse") as vpoll:
        with pytest.raises(OSError) as fault:
            os.write(vpoll.fileno(), (encode(ADD, IN) * (size // 8 + 1))[:size])
        assert fault.value.errno == errno.EINVAL
        assert vpoll.events == HUP


@pytest.mark.parametrize("command", [0, 4, 0x5E01, 0xFFFF_FFFF])
def test_an_unknown_command_is_refused(command: int) -> None:
    with VPoll(HUP, backend="fuse") as vpoll:
        with pytest.raises(OSError) as fault:
            os.write(vpoll.fileno(), encode(command, IN))
        assert fault.value.errno == errno.EINVAL
        assert vpoll.events == HUP


@pytest.mark.parametrize("bit", range(28, 32))
@pytest.mark.parametrize("command", [ADD, DEL, SET])
def test_bits_above_the_kept_ones_are_refused(command: int, bit: int) -> None:
    with VPoll(HUP, backend="fuse") as vpoll:
        fd = vpoll.fileno()
        with pytest.raises(OSError) as by_write:
            os.write(fd, encode(command, 1 << bit | IN))
        with pytest.raises(OSError) as by_ioctl:
            # A C int, as ioctl takes it.
            fcntl.ioctl(fd, request(command), (1 << bit) - (1 << 32 if bit == 31 else 0))
        assert by_write.value.errno == by_ioctl.value.errno == errno.EINVAL
        assert vpoll.events == HUP


def test_an_unknown_ioctl_is_refused() -> None:
    with VPoll(HUP, backend="fuse") as vpoll:
        with pytest.raises(OSError) as fault:
            fcntl.ioctl(vpoll.fileno(), request(4), 0)
        assert fault.value.errno == errno.ENOTTY
        assert vpoll.events == HUP


@pytest.mark.parametrize("size", [1, 7, 9, 64, 1 << 16])
def test_a_read_of_other_than_eight_bytes_is_refused(size: int) -> None:
    with VPoll(IN, backend="fuse") as vpoll:
        with pytest.raises(OSError) as fault:
            os.read(vpoll.fileno(), size)
        assert fault.value.errno == errno.EINVAL


def test_a_read_returns_the_mask_at_once_and_leaves_it() -> None:
    with VPoll(0, backend="fuse") as vpoll:
        fd = vpoll.fileno()
        assert read_mask(fd) == 0
        vpoll.set_events(KEPT)
        assert read_mask(fd) == read_mask(fd) == KEPT
        assert by_epoll(fd) == NAMED


def test_the_descriptor_is_none_that_has_a_position() -> None:
    with VPoll(backend="fuse") as vpoll:
        with pytest.raises(OSError) as fault:
            os.lseek(vpoll.fileno(), 0, os.SEEK_SET)
        assert fault.value.errno == errno.ESPIPE
        assert not os.get_inheritable(vpoll.fileno())


def test_a_vpoll_opened_anew_is_another_one() -> None:
    with VPoll(IN, backend="fuse") as vpoll:
        again = os.open(f"/proc/self/fd/{vpoll.fileno()}", os.O_RDWR)
        try:
            os.write(again, encode(ADD, HUP))
            assert read_mask(again) == HUP
            assert vpoll.events == IN
        finally:
            os.close(again)


OPERATIONS: list[Callable[[VPoll], int]] = [
    lambda vpoll: vpoll.add_events(IN),
    lambda vpoll: vpoll.del_events(OUT),
    lambda vpoll: vpoll.set_events(IN),
    lambda vpoll: os.write(vpoll.fileno(), encode(ADD, IN)),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=["add", "del", "set", "write"])
def test_every_operation_is_an_edge_to_every_poller(operation: Callable[[VPoll], int]) -> None:
    with VPoll(IN, backend="fuse") as vpoll, select.epoll() as one, select.epoll() as other:
        fd = vpoll.fileno()
        for epoll in (one, other):
            epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            assert epoll.poll(0) == [(fd, IN)]
        for _ in range(3):
            operation(vpoll)
            for epoll in (one, other):
                assert epoll.poll(0) == [(fd, IN)]
                assert epoll.poll(0) == []


def test_an_edge_without_an_event_that_was_asked_for_is_none() -> None:
    with VPoll(backend="fuse") as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        vpoll.add_events(OUT)
        assert epoll.poll(0) == []
        vpoll.add_events(ERR)
        assert epoll.poll(0) == [(fd, ERR)]


def test_level_triggered_tells_until_the_bit_is_cleared() -> None:
    with VPoll(IN | PRI, backend="fuse") as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN | select.EPOLLPRI)
        assert epoll.poll(0) == epoll.poll(0) == [(fd, IN | PRI)]
        vpoll.del_events(IN)
        assert epoll.poll(0) == epoll.poll(0) == [(fd, PRI)]
        vpoll.del_events(PRI)
        assert epoll.poll(0) == []


def test_a_one_shot_registration_tells_once_until_it_is_armed_again() -> None:
    with VPoll(IN, backend="fuse") as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        assert epoll.poll(0) == [(fd, IN)]
        vpoll.add_events(IN | HUP)
        assert epoll.poll(0) == []
        epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        assert epoll.poll(0) == [(fd, IN | HUP)]


def test_exclusive_registrations_wake_one_sleeper_an_operation() -> None:
    woken: Queue[int] = Queue()

    def sleep(number: int, epoll: select.epoll) -> None:
        if epoll.poll(DEADLINE):
            woken.put(number)

    with VPoll(backend="fuse") as vpoll, select.epoll() as one, select.epoll() as other:
        sleepers = []
        for number, epoll in enumerate((one, other)):
            epoll.register(vpoll, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            sleepers.append(threading.Thread(target=sleep, args=(number, epoll)))
            sleepers[-1].start()
        for sleeper in sleepers:
            wait_until(lambda sleeper=sleeper: asleep_in_epoll(sleeper), "sleep")  # type: ignore[misc]
        vpoll.add_events(IN)
        first = woken.get(timeout=DEADLINE)
        sleepers[first].join()
        assert asleep_in_epoll(sleepers[1 - first])
        assert woken.empty()
        vpoll.add_events(IN)
        assert woken.get(timeout=DEADLINE) == 1 - first
        sleepers[1 - first].join()


def test_an_epoll_of_epolls_sees_the_events() -> None:
    with VPoll(backend="fuse") as vpoll, select.epoll() as outer, select.epoll() as inner:
        inner.register(vpoll, select.EPOLLPRI)
        outer.register(inner, select.EPOLLIN)
        assert outer.poll(0) == []
        vpoll.add_events(PRI)
        assert outer.poll(0) == [(inner.fileno(), IN)]
        assert inner.poll(0) == [(vpoll.fileno(), PRI)]
        vpoll.del_events(PRI)
        assert outer.poll(0) == []


def sleep_in_poll(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    return poll.poll(DEADLINE * 1000)[0][1]


def sleep_in_select(fd: int) -> int:
    return PRI if select.select([fd], [], [fd], DEADLINE)[2] else 0


def sleep_in_epoll(fd: int) -> int:
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLPRI)
        return epoll.poll(DEADLINE)[0][1]


@pytest.mark.parametrize("sleep", [sleep_in_poll, sleep_in_select, sleep_in_epoll])
def test_a_sleeper_of_any_kind_is_woken(sleep: Callable[[int], int]) -> None:
    seen: Queue[int] = Queue()
    with VPoll(backend="fuse") as vpoll:
        fd = vpoll.fileno()
        thread = threading.Thread(target=lambda: seen.put(sleep(fd)))
        thread.start()
        while seen.empty() and thread.is_alive():
            # An event that was not asked for wakes nobody.
            vpoll.add_events(OUT)
            vpoll.add_events(PRI)
        assert seen.get(timeout=DEADLINE) == PRI
        thread.join()


def test_setters_and_waiters_in_threads_lose_no_wake_up(daemon_kind: str) -> None:
    rounds = 500 if daemon_kind == "compiled" else 100
    bits = [1 << number for number in (0, 1, 2, 6, 7, 8)]
    raised = dict.fromkeys(bits, False)
    lock = threading.Lock()
    consumed = {bit: threading.Semaphore(0) for bit in bits}
    failures: Queue[str] = Queue()

    def set_events(vpoll: VPoll, bit: int) -> None:
        for turn in range(rounds):
            with lock:
                raised[bit] = True
                vpoll.add_events(bit)
            if not consumed[bit].acquire(timeout=DEADLINE):
                failures.put(f"bit {bit:#x}, round {turn}: nobody was woken")
                return

    def wait(vpoll: VPoll, epoll: select.epoll, done: threading.Event) -> None:
        while not done.is_set():
            for _, seen in epoll.poll(DEADLINE):
                for bit in bits:
                    with lock:
                        if seen & bit and raised[bit]:
                            raised[bit] = False
                            vpoll.del_events(bit)
                            consumed[bit].release()

    done = threading.Event()
    with VPoll(backend="fuse") as vpoll:
        epolls = [select.epoll() for _ in range(3)]
        for number, epoll in enumerate(epolls):
            epoll.register(vpoll, NAMED | (select.EPOLLET if number else 0))
        waiters = [threading.Thread(target=wait, args=(vpoll, epoll, done)) for epoll in epolls]
        setters = [threading.Thread(target=set_events, args=(vpoll, bit)) for bit in bits]
        for thread in waiters + setters:
            thread.start()
        for thread in setters:
            thread.join()
        done.set()
        vpoll.add_events(HUP)
        for thread in waiters:
            thread.join()
        for epoll in epolls:
            epoll.close()
    assert failures.empty(), failures.get()


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    import uvloop

    return uvloop.new_event_loop()


LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]


@pytest.mark.parametrize("loop_kind", LOOPS)
def test_a_stock_loop_is_told_of_events_that_another_thread_sets(loop_kind: str) -> None:
    rounds = 20
    seen: list[int] = []
    with VPoll(backend="fuse") as vpoll:
        loop = new_loop(loop_kind)
        consumed = threading.Semaphore(1)

        def on_readable() -> None:
            seen.append(vpoll.peek())
            vpoll.del_events(IN)
            consumed.release()
            if len(seen) == rounds:
                loop.stop()

        def set_events() -> None:
            for _ in range(rounds):
                assert consumed.acquire(timeout=DEADLINE)
                vpoll.add_events(IN)

        loop.add_reader(vpoll.fileno(), on_readable)
        setter = threading.Thread(target=set_events)
        setter.start()
        loop.run_forever()
        setter.join()
        loop.remove_reader(vpoll.fileno())
        loop.close()
    assert seen == [IN] * rounds


@pytest.mark.needs("uvloop")
def test_a_transport_of_uvloop_that_reads_the_descriptor_fails_and_receives_nothing() -> None:
    class Recorder(asyncio.Protocol):
        def __init__(self) -> None:
            self.received: list[bytes] = []
            self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.received.append(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def main(vpoll: VPoll, pipe: BinaryIO) -> None:
        _, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, pipe)
        async with asyncio.timeout(DEADLINE):
            exc = await protocol.lost
        assert isinstance(exc, OSError)
        assert exc.errno == errno.EINVAL
        assert protocol.received == []
        assert vpoll.events == IN | OUT

    import uvloop

    with VPoll(IN | OUT, backend="fuse") as vpoll:
        with (
            open(os.dup(vpoll.fileno()), "r+b", buffering=0) as pipe,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(main(vpoll, pipe))
