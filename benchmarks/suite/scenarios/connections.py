"""Connections that are opened, used once and closed; and what those that stay open take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..clock import now
from ..contenders import Contender, Sample, running, sampler
from ..memory import resident
from ..protocols import (
    HOST,
    EchoClient,
    EchoServer,
    client_context,
    raise_descriptor_limit,
    server_context,
)


class _Servers:
    """Makes the servers' protocols and waits until all of them have lost their connections."""

    def __init__(self) -> None:
        self._all: list[EchoServer] = []

    def __call__(self) -> EchoServer:
        self._all.append(EchoServer())
        return self._all[-1]

    async def closed(self) -> None:
        await asyncio.gather(*(server.closed for server in self._all))
        self._all.clear()


@contextmanager
def connections(contender: Contender, *, count: int, size: int = 64) -> Iterator[Sample]:
    """Measure one of `count` connections, one after the other: connect, echo, close.

    Each sample has a server of its own, which listens, accepts and is closed.
    """
    message = bytes(size)

    async def use_once(loop: Any, port: int) -> None:
        _, client = await loop.create_connection(lambda: EchoClient(message), HOST, port)
        done = loop.create_future()
        client.start(1, lambda: done.set_result(None))
        await done
        client.transport.close()
        await client.closed

    with running(contender) as runner:
        yield sampler(runner, _measured(count, "connection", use_once))


@contextmanager
def handshakes(contender: Contender, *, count: int) -> Iterator[Sample]:
    """Measure one of `count` TLS connections, one after the other: connect, handshake, close.

    No session is resumed.
    """
    client_ssl, server_ssl = client_context(), server_context()

    async def shake_hands(loop: Any, port: int) -> None:
        _, client = await loop.create_connection(
            lambda: EchoClient(b""), HOST, port, ssl=client_ssl, server_hostname="localhost"
        )
        client.transport.close()
        await client.closed

    with running(contender) as runner:
        yield sampler(runner, _measured(count, "handshake", shake_hands, ssl=server_ssl))


def _measured(count: int, name: str, use: Callable[[Any, int], Any], **options: Any) -> Any:
    async def measure() -> dict[str, float]:
        loop: Any = asyncio.get_running_loop()
        servers = _Servers()
        start = now()
        server = await loop.create_server(servers, HOST, 0, **options)
        port = server.sockets[0].getsockname()[1]
        for _ in range(count):
            await use(loop, port)
        await servers.closed()
        server.close()
        await server.wait_closed()
        return {name: (now() - start) / count}

    return measure


class _Slim(asyncio.Protocol):
    """As little as a protocol can be; calls `tell` for what arrives and for the end."""

    __slots__ = ("tell", "transport")

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.tell()


class _SlimServer(_Slim):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class _SlimClient(_Slim):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.tell()


@contextmanager
def connection_memory(contender: Contender, *, count: int) -> Iterator[Sample]:
    """Measure the bytes that one of `count` open connections takes in this process.

    Both ends, with their transports and slim protocols.  Each has been used once.  What
    the kernel keeps is not in it.
    """
    raise_descriptor_limit(3 * count + 64)
    with running(contender) as runner:
        # Once: a second time would find the memory that the first gave back.
        each = runner.run(_memory(count))
        yield lambda: {"bytes": each}


async def _memory(count: int) -> float:
    loop: Any = asyncio.get_running_loop()
    told = 0
    awaited = 0
    reached: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        nonlocal told
        told += 1
        if told == awaited:
            reached.set_result(None)

    def expect(more: int) -> asyncio.Future[None]:
        nonlocal awaited, reached
        awaited = told + more
        reached = loop.create_future()
        return reached

    server = await loop.create_server(lambda: _SlimServer(tell), HOST, 0)
    port = server.sockets[0].getsockname()[1]
    clients: list[_SlimClient] = []

    async def connect() -> None:
        _, client = await loop.create_connection(lambda: _SlimClient(tell), HOST, port)
        clients.append(client)
        answered = expect(1)
        client.transport.write(b"!")
        await answered

    # The first ones also find room in what was free before.
    for _ in range(count // 10):
        await connect()
    before = resident()
    for _ in range(count):
        await connect()
    each = (resident() - before) / count
    ended = expect(2 * len(clients))
    for client in clients:
        client.transport.close()
    await ended
    server.close()
    await server.wait_closed()
    return each
