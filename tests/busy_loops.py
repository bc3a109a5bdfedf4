"""What keeps an event loop busy for ever, and the turns that the loop makes meanwhile.

A source always has something for the loop to do and counts how often the loop did it.
Turns are counted by a handle that schedules itself.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from lwip_frames import frame, icmp
from lwip_helpers import HOST4, PEER4, lwip_on_wire
from ourloops import new_vpoll
from vpoll_asyncio import EventMask, transports, wait_events
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.base import Stack

IN, OUT = EventMask.IN, EventMask.OUT

STARVED = 1000
"""Turns after which it is no use to wait any longer."""


class Turns:
    """Counts the turns that a loop begins after `since`, a time of the monotonic clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.since = 0.0
        self.count = 0
        self.all = 0
        self.waiting: asyncio.Future[int] | None = None
        """What is given up after `STARVED` turns."""
        self._handle = loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.all += 1
        if time.monotonic() >= self.since:
            self.count += 1
        if self.count > STARVED and self.waiting and not self.waiting.done():
            self.waiting.set_result(self.count)
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()


# Sources.


class Source(abc.ABC):
    """Counts what a source has the loop do."""

    per_turn: ClassVar[int] = 1
    """How much of it one turn may do."""
    members: ClassVar[int] = 1
    """How many vpolls take turns."""
    stock: ClassVar[bool] = True
    """Whether asyncio's own loop can do it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What the machine must have."""

    def __init__(self, turns: Turns) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns = turns
        self.calls = 0

    def call(self, *args: object) -> None:
        self.calls += 1

    @property
    def endless(self) -> bool:
        """Whether one turn does more than it may, and perhaps for ever: then it is to end."""
        return self.calls > 2 * (self.turns.all + 10) * self.per_turn

    @abc.abstractmethod
    def working(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Keep the loop busy until left."""


@contextlib.contextmanager
def ready_pipe() -> Any:
    reader, writer = os.pipe()
    os.write(writer, b"!")
    try:
        yield reader
    finally:
        os.close(reader)
        os.close(writer)


class ReadyReader(Source):
    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        with self.file() as file:
            self.loop.add_reader(file, self.call)
            yield
            self.loop.remove_reader(file)

    def file(self) -> Any:
        return new_vpoll(IN)


class ReadyPoller(ReadyReader):
    stock = False

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        loop: Any = self.loop
        with self.file() as file:
            loop.add_poller(file, IN, self.call)
            yield
            loop.remove_poller(file)


class ReadyWaiter(ReadyReader):
    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async def wait(file: Any) -> None:
            while True:
                await wait_events(file, IN)
                self.call()

        with self.file() as file:
            task = asyncio.create_task(wait(file))
            yield
            task.cancel()
            await asyncio.wait([task])


class ReadyDescriptor(ReadyReader):
    def file(self) -> Any:
        return ready_pipe()


class ReadyDescriptorPoller(ReadyPoller):
    def file(self) -> Any:
        return ready_pipe()


class ReadyDescriptorWaiter(ReadyWaiter):
    def file(self) -> Any:
        return ready_pipe()


class ThreeThousandReaders(Source):
    members = per_turn = 3000

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        vpolls = [new_vpoll(IN) for _ in range(self.members)]
        for vpoll in vpolls:
            self.loop.add_reader(vpoll, self.call)
        yield
        for vpoll in vpolls:
            self.loop.remove_reader(vpoll)
            vpoll.close()


class Echo(Source):
    """Two transports that send to each other what they receive."""

    # Several hops a turn are no fault: a bound there must be.
    per_turn = 256

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        with self.stack() as stack:
            async with self.echoing(stack) as protocol:
                protocol.transport.write(b"!")
                yield

    def echoing(self, stack: Stack) -> contextlib.AbstractAsyncContextManager[Any]:
        source = self

        class Echoing(asyncio.Protocol):
            transport: Any

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                source.call()
                if not source.endless:
                    self.transport.write(data)

        return connected(stack, Echoing, Echoing)

    def stack(self) -> Any:
        return open_stack("memory", ip="10.0.0.1/24")


@contextlib.contextmanager
def lwip() -> Any:
    with lwip_on_wire() as peer:
        yield peer.stack


class LwipEcho(Echo):
    needs = ("lwip",)

    def stack(self) -> Any:
        return lwip()


class Bulk(Echo):
    """A transport that sends as much as the other takes."""

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        count = self.call

        class Sender(asyncio.Protocol):
            transport: Any

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                self.writing = True
                asyncio.get_running_loop().call_soon(self.send)

            def send(self) -> None:
                while self.writing and not self.transport.is_closing():
                    self.transport.write(bytes(65536))

            def pause_writing(self) -> None:
                self.writing = False

            def resume_writing(self) -> None:
                self.writing = True
                self.send()

        class Receiver(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                count()

        with self.stack() as stack:
            async with connected(stack, Sender, Receiver):
                yield


class LwipBulk(Bulk):
    needs = ("lwip",)

    def stack(self) -> Any:
        return lwip()


class Datagrams(Source):
    per_turn = 256

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        count = self.call

        class Answering(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, address: Any) -> None:
                count()
                self.transport.sendto(data, address)

        with open_stack("memory", ip="10.0.0.1/24") as stack:
            ends = [
                await transports.create_datagram_endpoint(
                    self.loop, Answering, local_addr=("10.0.0.1", port), stack=stack
                )
                for port in (1, 2)
            ]
            # More than one turn may read.
            for _ in range(300):
                ends[0][0].sendto(b"!", ("10.0.0.1", 2))
            yield
            for transport, _ in ends:
                transport.abort()
            await asyncio.sleep(0)


class Accepts(Source):
    """As many clients as the server's backlog, each of which connects again and again."""

    per_turn = 30

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        waiting: list[socket.socket] = []
        with self.stack() as stack:

            def connect() -> None:
                client = stack.socket()
                client.setblocking(False)
                client.connect_ex(("10.0.0.1", 80))
                waiting.append(client)

            def accepted() -> asyncio.Protocol:
                self.call()
                if closing or self.endless:
                    return Aborting()
                waiting.pop(0).close()
                connect()
                return Aborting()

            class Aborting(asyncio.Protocol):
                def connection_made(self, transport: Any) -> None:
                    transport.abort()

            closing = False
            server = await transports.create_server(
                self.loop, accepted, "10.0.0.1", 80, stack=stack, backlog=self.per_turn
            )
            for _ in range(self.per_turn):
                connect()
            yield
            closing = True
            server.close()
            for client in waiting:
                client.close()
            for _ in range(10):
                await asyncio.sleep(0)

    def stack(self) -> Any:
        return open_stack("memory", ip="10.0.0.1/24")


class LwipAccepts(Accepts):
    needs = ("lwip",)

    def stack(self) -> Any:
        return lwip()


class Frames(Source):
    """A host on lwIP's link that asks for echoes without an end."""

    needs = ("lwip",)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        ping = frame(icmp(8, 0, b"\0\1\0\1" + bytes(1000), PEER4, HOST4))
        with lwip_on_wire() as peer:
            peer.stack.attach(self.loop)

            def flood() -> None:
                self.call()
                peer.link.recv_batch(4096)
                peer.link.send_batch([ping] * 256)

            self.loop.add_writer(peer.link.pollable, flood)
            yield
            self.loop.remove_writer(peer.link.pollable)


SOURCES: list[type[Source]] = [
    ReadyReader,
    ReadyPoller,
    ReadyWaiter,
    ReadyDescriptor,
    ReadyDescriptorPoller,
    ReadyDescriptorWaiter,
    ThreeThousandReaders,
    Echo,
    Bulk,
    Datagrams,
    Accepts,
    LwipEcho,
    LwipBulk,
    LwipAccepts,
    Frames,
]


# Connections.


@contextlib.asynccontextmanager
async def connected(
    stack: Stack, client: Callable[[], asyncio.Protocol], server: Callable[[], asyncio.Protocol]
) -> AsyncIterator[Any]:
    """Connect on `stack`; yields the client's protocol; both ends are gone afterwards."""
    loop = asyncio.get_running_loop()
    listening = await transports.create_server(loop, server, "10.0.0.1", 0, stack=stack)
    address = listening.sockets[0].getsockname()
    transport, protocol = await transports.create_connection(
        loop, client, *address[:2], stack=stack
    )
    try:
        yield protocol
    finally:
        listening.close()
        listening.abort_clients()
        transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
