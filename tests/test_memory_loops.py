"""Event loops in several threads over one memory network."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Callable

import pytest

from memory_helpers import BOUND
from vpoll_asyncio import streams
from vpoll_asyncio.stacks.memory import MemoryStack

ROUNDS = 5


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.SelectorEventLoop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_two_loops_in_two_threads_exchange_data(
    no_fd_leak: None, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    data = random.Random(2).randbytes(1 << 20)
    with (
        MemoryStack(vnl="mem://loops", ip="10.0.0.1/24") as server_stack,
        MemoryStack(vnl="mem://loops", ip="10.0.0.2/24") as client_stack,
    ):
        listening, done = threading.Event(), threading.Event()

        async def serve() -> None:
            server = await streams.start_server(_echo, "10.0.0.1", 80, stack=server_stack)
            async with server:
                listening.set()
                await asyncio.to_thread(done.wait, 2 * BOUND)

        async def ask() -> str:
            reader, writer = await streams.open_connection("10.0.0.1", 80, stack=client_stack)
            digest = hashlib.sha256()

            async def send() -> None:
                for start in range(0, len(data), 50_000):
                    writer.write(data[start : start + 50_000])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            while chunk := await reader.read(65536):
                digest.update(chunk)
            await sending
            writer.close()
            await writer.wait_closed()
            return digest.hexdigest()

        def run_server() -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run_server)
        thread.start()
        try:
            assert listening.wait(BOUND)
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                for _ in range(ROUNDS):
                    answer = runner.run(asyncio.wait_for(ask(), 2 * BOUND))
                    assert answer == hashlib.sha256(data).hexdigest()
        finally:
            done.set()
            thread.join(2 * BOUND)
