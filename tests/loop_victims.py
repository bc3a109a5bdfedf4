"""What waits for its turn of an event loop that something keeps busy.

A victim waits for one thing after the other, and what is measured is how many turns of
the loop each took, and what the loop did for others in the meantime.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, NamedTuple

from busy_loops import STARVED, Source, connected
from ourloops import new_vpoll
from vpoll_asyncio import EventMask
from vpoll_asyncio.stacks import open_stack

IN = EventMask.IN

ROUNDS = 4
"""How often a victim waits."""


class Wait(NamedTuple):
    """How long a victim waited: in turns of the loop, and in calls of the source."""

    turns: int
    calls: int


async def waits(victim: type[Victim], busy: Source) -> list[Wait]:
    """Have `victim` wait `ROUNDS` times."""
    turns = busy.turns
    loop = asyncio.get_running_loop()
    found: list[Wait] = []
    async with victim(loop).ready() as begin:
        for _ in range(ROUNDS):
            done: asyncio.Future[int] = loop.create_future()

            def came(done: asyncio.Future[int] = done) -> None:
                if not done.done():
                    done.set_result(turns.count)

            turns.waiting = done
            before = busy.calls
            begin(came)
            # It is due so long after it was begun, however long that itself took.
            turns.since = time.monotonic() + victim.delay
            turns.count = 0
            found.append(Wait(await done, busy.calls - before))
            turns.waiting = None
            if found[-1].turns > STARVED:
                break
    return found


Begin = Callable[[Callable[[], None]], None]
"""Begins something; its argument is to be called when that has come."""


class Victim(abc.ABC):
    """Something that waits for its turn."""

    delay: ClassVar[float] = 0.0
    """Seconds until it is due."""
    vpolls: ClassVar[int] = 0
    """How many vpolls must have their turn until it is over, one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    @abc.abstractmethod
    def ready(self) -> contextlib.AbstractAsyncContextManager[Begin]:
        """Prepare everything; yields what begins a wait."""


class Handle(Victim):
    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[Begin]:
        def begin(done: Callable[[], None]) -> None:
            self.loop.call_soon(done)

        yield begin


class Timer(Victim):
    # libuv counts whole milliseconds, and begins with those of the turn before.
    delay = 0.003

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[Begin]:
        def begin(done: Callable[[], None]) -> None:
            self.loop.call_later(0.001, done)

        yield begin


class Descriptor(Victim):
    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[Begin]:
        ours, theirs = socket.socketpair()

        def begin(done: Callable[[], None]) -> None:
            def receive() -> None:
                ours.recv(1)
                done()

            self.loop.add_reader(ours, receive)
            theirs.send(b"!")

        with ours, theirs:
            yield begin
            self.loop.remove_reader(ours)


class Readable(Victim):
    vpolls = 1

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[Begin]:
        def begin(done: Callable[[], None]) -> None:
            def read() -> None:
                vpoll.del_events(IN)
                done()

            self.loop.add_reader(vpoll, read)
            vpoll.add_events(IN)

        with new_vpoll() as vpoll:
            yield begin
            self.loop.remove_reader(vpoll)


class Connection(Victim):
    """An echo over the memory stack."""

    vpolls = 2

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[Begin]:
        answered: list[Callable[[], None]] = []

        class Waiting(asyncio.Protocol):
            transport: Any

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                answered.pop()()

        class Answering(Waiting):
            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        with open_stack("memory", ip="10.0.0.1/24") as stack:
            async with connected(stack, Waiting, Answering) as protocol:

                def begin(done: Callable[[], None]) -> None:
                    answered.append(done)
                    protocol.transport.write(b"!")

                yield begin


VICTIMS: list[type[Victim]] = [Handle, Timer, Descriptor, Readable, Connection]
