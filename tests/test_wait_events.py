"""wait_events: any event of any file, on every loop."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import itertools
import os
import select
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exact_backends import WAYS, showing, shown_by
from memory_helpers import DEAD, Lab, R, error_of, settles
from ourloops import ALL, LoopFactory, new_vpoll, when_asleep
from vpoll_asyncio import EventMask, VPoll, VPollSelector, wait_events
from vpoll_asyncio.events import KEPT
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.vpoll import Waiter
from vpoll_helpers import DEADLINE, by_epoll, descriptors_left

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP
EVERY = EventMask(sum(EventMask))

_Result = TypeVar("_Result")
Run = Callable[[Coroutine[Any, Any, _Result]], _Result]

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def unmodified_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def over_poll() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.PollSelector())


LOOPS = [
    *ALL,
    pytest.param(asyncio.SelectorEventLoop, id="unmodified-asyncio"),
    pytest.param(over_poll, id="unmodified-asyncio-poll"),
    pytest.param(unmodified_uvloop, id="unmodified-uvloop", marks=pytest.mark.needs("uvloop")),
]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run[Any]]:
    """Runs a coroutine on one of the loops; what takes too long fails."""
    factory: LoopFactory = request.param

    async def bounded(main: Coroutine[Any, Any, _Result]) -> _Result:
        async with asyncio.timeout(DEADLINE):
            return await main

    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda main: runner.run(bounded(main))


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(fileobj: Any, mask: int) -> asyncio.Task[EventMask]:
    """A task that waits, and that nothing pending has ended."""
    task = asyncio.create_task(wait_events(fileobj, mask))
    await turns()
    assert not task.done(), task
    return task


async def given_up(task: asyncio.Task[EventMask]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Each event alone.


@pytest.mark.parametrize("backend", WAYS)
def test_each_event_ends_the_wait_for_it_and_no_other_does(
    run: Run[None], backend: str | None
) -> None:
    exact = shown_by(backend)

    async def main() -> None:
        with VPoll(backend=backend) as vpoll:
            fileobj = vpoll.fileno() if backend else vpoll
            for event in exact:
                vpoll.set_events(0)
                task = await waiting(fileobj, event)
                vpoll.set_events(exact & ~(event | ERR | HUP))
                await turns()
                assert not task.done(), event
                with when_asleep(functools.partial(vpoll.add_events, event)):
                    assert await task == event
            assert vpoll.backend == backend

    run(main())


def test_error_and_hang_up_end_every_wait(run: Run[None]) -> None:
    async def main() -> None:
        with VPoll() as vpoll:
            for event, mask in itertools.product((ERR, HUP), (0, IN, PRI)):
                task = await waiting(vpoll, mask)
                vpoll.set_events(event)
                assert await task == event
                vpoll.set_events(0)

    run(main())


def test_urgent_data_wakes_a_waiter_for_pri(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        client, server = lab.pair()
        task = await waiting(server, PRI)
        client.send(b"ordinary")
        settles(server, R | OUT | EventMask.WRNORM)
        await turns()
        assert not task.done()
        client.send(b"!", socket.MSG_OOB)
        assert await task == PRI
        assert server.recv(1, socket.MSG_OOB) == b"!"
        await given_up(await waiting(server, PRI))

    run(main())


def test_half_close_of_the_peer_wakes_a_waiter_for_rdhup(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        client, server = lab.pair()
        task = await waiting(server, RDHUP)
        client.send(b"data")
        await turns()
        assert not task.done()
        client.shutdown(socket.SHUT_WR)
        assert await task == RDHUP

    run(main())


def test_refused_datagram_wakes_a_waiter_for_err(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        sock, gone = lab.datagram(), lab.bound(lab.datagram())
        sock.connect(gone.getsockname())
        gone.close()
        task = await waiting(sock, ERR)
        sock.send(b"anybody there?")
        assert await task == ERR
        assert error_of(sock) == errno.ECONNREFUSED
        await given_up(await waiting(sock, ERR))

    run(main())


def test_reset_shows_all_that_was_asked_for(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        client, server = lab.pair()
        client.send(b"unread")
        settles(server, R | OUT | EventMask.WRNORM)
        task = await waiting(client, EVERY & ~(OUT | EventMask.WRNORM))
        server.close()
        assert await task == (DEAD | ERR) & ~(OUT | EventMask.WRNORM)

    run(main())


# Level-triggered, and nobody's business but the waiter's.


def test_what_is_pending_returns_at_once_and_stays_pending(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        client, server = lab.pair()
        client.send(b"!")
        for _ in range(3):
            assert await wait_events(server, IN | PRI) == IN
        assert server.recv(2) == b"!"
        await given_up(await waiting(server, IN | PRI))

    run(main())


def test_waiters_for_one_file_each_get_their_own(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        client, server = lab.pair()
        masks = [IN, IN, PRI, RDHUP, IN | PRI, EventMask.RDNORM]
        tasks = [await waiting(server, mask) for mask in masks]
        client.send(b"!")
        client.shutdown(socket.SHUT_WR)
        settles(server, R | OUT | EventMask.WRNORM | RDHUP)
        await asyncio.wait([task for task, mask in zip(tasks, masks, strict=True) if mask != PRI])
        assert not tasks[2].done()
        await given_up(tasks[2])
        for task, mask in zip(tasks, masks, strict=True):
            if mask != PRI:
                assert task.result()
                assert not task.result() & ~mask

    run(main())


def test_wait_does_not_disturb_a_transport_of_the_same_socket(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        fd = ours.fileno()
        task = await waiting(fd, PRI)
        theirs.send(b"one\n")
        assert await reader.readline() == b"one\n"
        hung_up = await waiting(fd, RDHUP)
        await given_up(task)
        theirs.send(b"two\n")
        assert await reader.readline() == b"two\n"
        theirs.close()
        assert await hung_up & RDHUP
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(main())


MASKS = st.integers(0, EVERY).map(lambda mask: mask & EVERY) | st.sampled_from(list(EventMask))


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.tuples(MASKS, MASKS), max_size=8), by_number=st.booleans())
@pytest.mark.parametrize("loop", LOOPS[-3::2])
@pytest.mark.parametrize("backend", ["virtual", *showing(EVERY)])
def test_any_wait_for_any_mask_ends_as_the_model_says(
    loop: LoopFactory, backend: str, steps: list[tuple[int, int]], by_number: bool
) -> None:
    async def main() -> None:
        with VPoll(backend=backend) as vpoll:
            fileobj = vpoll.fileno() if by_number else vpoll
            for asked, pending in steps:
                vpoll.set_events(pending)
                expected = pending & (asked | ERR | HUP)
                if expected:
                    assert await wait_events(fileobj, asked) == expected
                else:
                    task = await waiting(fileobj, asked)
                    vpoll.add_events(asked | HUP)
                    seen = await task
                    assert seen == asked | HUP

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())


def test_bits_without_a_name_are_waited_for(run: Run[None]) -> None:
    async def main() -> None:
        with VPoll() as vpoll:
            task = await waiting(vpoll, 1 << 27)
            vpoll.set_events(KEPT & ~(1 << 27 | ERR | HUP))
            await turns()
            vpoll.add_events(1 << 27)
            assert await task == 1 << 27

    run(main())


# Cancelling.


class Queue(VPoll):
    """A vpoll that knows who waits for it."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        super().__init__()
        self.waiters: list[Waiter] = []

    def add_waiter(self, waiter: Waiter) -> None:
        super().add_waiter(waiter)
        self.waiters.append(waiter)

    def remove_waiter(self, waiter: Waiter) -> bool:
        if super().remove_waiter(waiter):
            self.waiters.remove(waiter)
            return True
        return False


def test_cancelled_wait_leaves_the_wait_queue(run: Run[None]) -> None:
    async def main() -> None:
        with Queue() as vpoll:
            for steps in range(4):
                task = asyncio.create_task(wait_events(vpoll, IN))
                await turns(steps)
                await given_up(task)
                assert not vpoll.waiters

    run(main())


def test_ended_wait_leaves_the_wait_queue(run: Run[None]) -> None:
    async def main() -> None:
        with Queue() as vpoll:
            task = await waiting(vpoll, IN)
            assert len(vpoll.waiters) == 1
            vpoll.add_events(IN)
            await task
            assert not vpoll.waiters

    run(main())


def test_cancelled_wait_for_a_descriptor_leaves_none(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            before = os.listdir("/proc/self/fd")
            for steps in range(4):
                task = asyncio.create_task(wait_events(ours, PRI))
                await turns(steps)
                await given_up(task)
                assert os.listdir("/proc/self/fd") == before

    run(main())


def test_wait_that_is_cancelled_as_the_event_comes_leaves_it_pending(
    run: Run[None], lab: Lab
) -> None:
    async def main() -> None:
        client, server = lab.pair()
        task = await waiting(server, IN)
        client.send(b"!")
        settles(server, R | OUT | EventMask.WRNORM)
        await given_up(task)
        assert await wait_events(server, IN) == IN

    run(main())


def test_time_out_ends_the_wait(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        _, server = lab.pair()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wait_events(server, PRI)

    run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_wait_that_its_loop_leaves_behind_gives_back_its_descriptor(factory: LoopFactory) -> None:
    ours, theirs = socket.socketpair()
    loop = factory()
    wait = wait_events(ours, PRI)
    task = loop.create_task(wait)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    # Quietly: nobody but this test looks at a task whose loop is closed.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    wait.close()
    del task, wait
    gc.collect()
    ours.close()
    theirs.close()


# Files that are always ready.


def test_file_on_disk_is_ready_as_poll_has_it(run: Run[None], tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"")
        with path.open("rb") as file:
            assert await wait_events(file, IN | PRI | RDHUP) == IN
            assert await wait_events(file.fileno(), OUT | EventMask.WRNORM) == (
                OUT | EventMask.WRNORM
            )
            await given_up(await waiting(file, PRI | ERR))

    run(main())


# What goes wrong.


def test_bits_that_are_no_events_are_a_value_error(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        for mask in (1 << 28, select.EPOLLET, IN | select.EPOLLONESHOT, -1):
            with pytest.raises(ValueError, match="event mask"):
                await wait_events(lab.stream(), mask)

    run(main())


def test_what_is_no_file_is_a_type_error(run: Run[None]) -> None:
    nothing: list[Any] = [None, "name", 1.5, object()]

    async def main() -> None:
        for fileobj in nothing:
            with pytest.raises(TypeError, match="is no file"):
                await wait_events(fileobj, IN)

    run(main())


def closed_descriptor() -> Any:
    fd = os.dup(0)
    os.close(fd)
    return fd


def closed_socket() -> Any:
    sock = socket.socket()
    sock.close()
    return sock


def closed_vpoll() -> Any:
    vpoll = VPoll()
    vpoll.close()
    return vpoll


def gone_number() -> Any:
    with new_vpoll() as vpoll:
        return vpoll.fileno()


def closed_user_socket() -> Any:
    with MemoryStack() as stack:
        sock = stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.close()
    return sock


CLOSED: list[Callable[[], Any]] = [
    closed_descriptor,
    closed_socket,
    closed_vpoll,
    gone_number,
    closed_user_socket,
    lambda: -1,
]


def test_closed_file_is_ebadf(run: Run[None]) -> None:
    async def main() -> None:
        for closed in CLOSED:
            with pytest.raises(OSError) as caught:
                await wait_events(closed(), IN)
            assert caught.value.errno == errno.EBADF, closed

    run(main())


def test_number_that_a_file_got_meanwhile_is_another_file(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        task = await waiting(ours, IN)
        fd = ours.fileno()
        ours.close()
        theirs.close()
        reader, writer = os.pipe()
        os.dup2(reader, fd)
        os.write(writer, b"!")
        await turns()
        assert not task.done()
        assert await wait_events(fd, IN) == IN
        await given_up(task)
        assert await wait_events(fd, IN) == IN
        for number in {reader, writer, fd}:
            os.close(number)

    run(main())


def test_file_whose_number_is_closed_is_waited_for_while_a_duplicate_lives(
    run: Run[None],
) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, ours.dup():
            task = await waiting(ours, IN)
            ours.close()
            theirs.send(b"!")
            assert await task == IN

    run(main())


def test_vpoll_that_is_closed_during_the_wait_ends_it_by_its_duplicate_only(
    run: Run[None],
) -> None:
    async def main() -> None:
        vpoll = VPoll()
        with vpoll.dup() as twin:
            task = await waiting(vpoll, IN)
            vpoll.close()
            await turns()
            assert not task.done()
            twin.add_events(IN)
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF

    run(main())


def test_user_socket_that_is_closed_during_the_wait_is_ebadf(run: Run[None]) -> None:
    async def main() -> None:
        with MemoryStack() as stack:
            lab = Lab(stack)
            _, server = lab.pair()
            task = await waiting(server, PRI)
            server.close()
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF
            lab.close()

    run(main())


def test_want_of_descriptors_is_emfile_and_leaves_nothing(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with descriptors_left(0):
                with pytest.raises(OSError) as caught:
                    await wait_events(ours, PRI)
                assert caught.value.errno == errno.EMFILE
            theirs.send(b"!")
            assert await wait_events(ours, IN) == IN

    run(main())


# Every form of a file.


class Wrapper:
    """An object that has a fileno() and nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def test_object_with_a_virtual_number_is_its_vpoll(run: Run[None]) -> None:
    async def main() -> None:
        with new_vpoll() as vpoll:
            for fileobj in (vpoll, vpoll.fileno(), Wrapper(vpoll.fileno())):
                task = await waiting(fileobj, PRI)
                vpoll.add_events(PRI)
                assert await task == PRI
                vpoll.del_events(PRI)

    run(main())


def test_epoll_that_holds_an_epoll_can_be_waited_for(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, select.epoll() as epoll:
            epoll.register(ours, PRI | RDHUP)
            task = await waiting(epoll, IN)
            theirs.shutdown(socket.SHUT_WR)
            assert await task == IN
            assert by_epoll(epoll.fileno()) & IN

    run(main())


def test_selector_can_be_waited_for(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, VPollSelector() as selector:
            selector.register_mask(ours, RDHUP)
            task = await waiting(selector, IN)
            theirs.shutdown(socket.SHUT_WR)
            assert await task == IN

    run(main())
