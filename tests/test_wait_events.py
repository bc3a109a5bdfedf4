"""wait_events: any event of any file, on every loop."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exact_backends import WAYS, showing, shown_by
from memory_helpers import DEAD, Lab, R, error_of, settles
from ourloops import LoopFactory, when_asleep
from vpoll_asyncio import EventMask, VPoll, wait_events
from vpoll_asyncio.events import KEPT
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.vpoll import Waiter
from wait_helpers import LOOPS, UNMODIFIED, Run, given_up, runner, turns, waiting

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP
EVERY = EventMask(sum(EventMask))

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run[Any]]:
    with runner(request.param) as run:
        yield run


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


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
@pytest.mark.parametrize("loop", UNMODIFIED)
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

    with runner(loop) as run:
        run(main())


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
