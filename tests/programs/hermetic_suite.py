"""A suite that knows of `network` only: libraries as servers and clients, on stock loops too.

tests/test_hermetic_libraries.py runs it, sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn
import uvloop
import websockets
from aiohttp import web

import vpoll_asyncio as va
from vpoll_asyncio.testing import Network

APPS = Path(__file__).parent / "apps"

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "stock-asyncio": asyncio.SelectorEventLoop,
    "stock-uvloop": uvloop.new_event_loop,
    "asyncio": va.EventLoop,
    "uvloop": va.UvloopEventLoop,
}


@pytest.fixture(params=LOOPS)
def runner(
    request: pytest.FixtureRequest, network: Network, monkeypatch: pytest.MonkeyPatch
) -> Iterator[asyncio.Runner]:
    monkeypatch.syspath_prepend(APPS)
    network.host("server", "10.0.0.1", "fd00::1")
    network.host("client", "10.0.0.2", "fd00::2")
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@contextlib.asynccontextmanager
async def aiohttp_server(network: Network) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/", answer)
    site = web.AppRunner(app)
    await site.setup()
    with network["server"].activate():
        await web.TCPSite(site, port=80).start()
    yield "http://server/"
    await site.cleanup()


@contextlib.asynccontextmanager
async def uvicorn_server(network: Network) -> AsyncIterator[str]:
    started = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config("asgi_app:app", host="10.0.0.1", port=80, log_level="error")
    server = Server(config)
    with network["server"].activate():
        task = asyncio.create_task(server.serve())
    await started.wait()
    yield "http://server/"
    server.should_exit = True
    await task


SERVERS = [aiohttp_server, uvicorn_server]


@pytest.mark.parametrize("server", SERVERS)
def test_aiohttp(network: Network, runner: asyncio.Runner, server: Any) -> None:
    async def main() -> bytes:
        async with server(network) as url:
            with network["client"].activate():
                async with aiohttp.ClientSession() as session:
                    async with session.post(url, data=b"x" * 100_000) as response:
                        return await response.read()

    assert runner.run(main()) == b"x" * 100_000


@pytest.mark.parametrize("server", SERVERS)
def test_httpx(network: Network, runner: asyncio.Runner, server: Any) -> None:
    async def main() -> bytes:
        async with server(network) as url:
            with network["client"].activate():
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.get(url)
                    return (await client.post(url, content=b"x" * 100)).content

    assert runner.run(main()) == b"x" * 100


@pytest.mark.parametrize("server", SERVERS)
def test_requests_in_a_thread(network: Network, runner: asyncio.Runner, server: Any) -> None:
    # What it imports tries at once whether the kernel has IPv6.
    import requests

    def block(url: str) -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            found: bytes = session.post(url, data=b"x" * 100, timeout=30).content
            return found

    async def main() -> bytes:
        async with server(network) as url:
            with network["client"].activate():
                return await asyncio.to_thread(block, url)

    assert runner.run(main()) == b"x" * 100


def test_websockets(network: Network, runner: asyncio.Runner) -> None:
    async def shout(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            assert isinstance(message, str)
            await connection.send(message.upper())

    async def main() -> Any:
        with network["server"].activate():
            server = await websockets.serve(shout, "fd00::1", 80)
        async with server:
            with network["client"].activate():
                async with websockets.connect("ws://[fd00::1]/", proxy=None) as client:
                    await client.send("hello")
                    return await client.recv()

    assert runner.run(main()) == "HELLO"


@pytest.mark.asyncio
async def test_pytest_asyncio_over_a_lossy_path(network: Network) -> None:
    network.host("server", "10.0.0.1")
    network.set_path(delay="1ms", loss="5%")
    async with aiohttp_server(network) as url:
        with network.host("client", "10.0.0.2").activate():
            async with aiohttp.ClientSession() as session:
                async with session.post(url, data=b"x" * 100_000) as response:
                    assert await response.read() == b"x" * 100_000


def test_nothing_goes_round_the_network(network: Network) -> None:
    with pytest.raises(OSError, match="activate"):
        asyncio.run(asyncio.open_connection("127.0.0.1", 80))
