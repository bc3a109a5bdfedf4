"""Messages that come back, through asyncio's own streams, unchanged; and through ZeroMQ."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..clock import now
from ..contenders import Contender, Sample, running, sampler
from ..protocols import HOST

Exchange = Callable[[bytes], Awaitable[None]]
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextmanager
def streams(contender: Contender, *, messages: int, size: int = 64) -> Iterator[Sample]:
    """Measure a message of `size` bytes and its echo between two coroutines."""
    connect = _zmq if contender.via == "inproc" else _streams
    with running(contender) as runner:
        exchange, close = runner.run(connect(contender.via, size))
        message = bytes(size)

        async def measure() -> dict[str, float]:
            start = now()
            for _ in range(messages):
                await exchange(message)
            return {"echo": (now() - start) / messages}

        try:
            yield sampler(runner, measure)
        finally:
            runner.run(close())


async def _streams(via: str, size: int) -> tuple[Exchange, Any]:
    accepted: asyncio.Future[Pair] = asyncio.get_running_loop().create_future()
    if via == "socketpair":
        front, back = socket.socketpair()
        accepted.set_result(await asyncio.open_connection(sock=back))
        reader, writer = await asyncio.open_connection(sock=front)
    else:
        server = await asyncio.start_server(lambda *pair: accepted.set_result(pair), HOST, 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port)
        await accepted
        server.close()
    answering = asyncio.create_task(_answer(*accepted.result(), size))

    async def exchange(message: bytes) -> None:
        writer.write(message)
        await writer.drain()
        await reader.readexactly(size)

    async def close() -> None:
        writer.close()
        await writer.wait_closed()
        await answering

    return exchange, close


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    try:
        while True:
            writer.write(await reader.readexactly(size))
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()
        await writer.wait_closed()


async def _zmq(via: str, size: int) -> tuple[Exchange, Any]:
    import zmq
    import zmq.asyncio

    context = zmq.asyncio.Context()
    front, back = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    back.bind(f"{via}://bench")
    front.connect(f"{via}://bench")

    async def answer() -> None:
        while True:
            await back.send(await back.recv())

    answering = asyncio.create_task(answer())

    async def exchange(message: bytes) -> None:
        await front.send(message)
        await front.recv()

    async def close() -> None:
        answering.cancel()
        await asyncio.wait([answering])
        front.close(0)
        back.close(0)
        context.term()

    return exchange, close
