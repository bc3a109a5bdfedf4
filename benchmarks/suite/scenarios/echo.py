"""Messages that come back, one at a time on each connection, between two protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..clock import now
from ..contenders import Contender, Sample, running, sampler
from ..protocols import EchoClient, EchoServer, connect_pair, raise_descriptor_limit


@contextmanager
def echo(
    contender: Contender, *, messages: int, size: int = 64, pairs: int = 1
) -> Iterator[Sample]:
    """Measure a message of `size` bytes and its echo; `pairs` connections at once."""
    raise_descriptor_limit(2 * pairs + 64)
    with running(contender) as runner:
        clients: list[EchoClient] = []
        servers: list[EchoServer] = []

        def server_side() -> EchoServer:
            servers.append(EchoServer())
            return servers[-1]

        def client_side() -> EchoClient:
            clients.append(EchoClient(bytes(size)))
            return clients[-1]

        async def connect() -> None:
            for _ in range(pairs):
                await connect_pair(contender.via, server_side, client_side)

        async def measure() -> dict[str, float]:
            left = pairs
            done = asyncio.get_running_loop().create_future()

            def finished() -> None:
                nonlocal left
                left -= 1
                if not left:
                    done.set_result(None)

            start = now()
            for client in clients:
                client.start(messages // pairs, finished)
            await done
            return {"echo": (now() - start) / (messages // pairs * pairs)}

        async def close() -> None:
            for protocol in clients:
                protocol.transport.close()
            await asyncio.gather(*(each.closed for each in [*clients, *servers]))

        runner.run(connect())
        try:
            yield sampler(runner, measure)
        finally:
            runner.run(close())
