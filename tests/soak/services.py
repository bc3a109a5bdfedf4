"""The servers and their clients: unmodified packages, an echo each.

A `Service` runs a server; its `Client` makes one exchange at a time over one
connection.  How an exchange ends its connection: not at all, in order, or by leaving in
the middle of the answer.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import uvicorn
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from websockets.exceptions import ConnectionClosed

__all__ = ["SERVICES", "Client", "Ending", "Service"]

_PORT = 80
# All clients may connect at once: beyond it stacks drop, and the clients wait seconds.
_BACKLOG = 1024
# Longer than any pause between rounds: nobody closes a connection but the clients.
_KEEP_ALIVE = 600


class Ending(enum.Enum):
    """What becomes of the connection after an exchange."""

    STAYS = enum.auto()
    CLOSED = enum.auto()
    """Closed by both sides in order."""
    DROPPED = enum.auto()
    """The client is gone before it has sent the body or read the answer."""


class Client(abc.ABC):
    """A client with one connection, which it opens when it has none or it was ended."""

    @abc.abstractmethod
    async def exchange(self, body: bytes, ending: Ending) -> bytes | None:
        """Send `body`; return the answer, None when the connection was dropped before."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the connection, if there is one."""


class Service(abc.ABC):
    """A server, to be entered, and what makes its clients."""

    @abc.abstractmethod
    def running(self, host: str, clients: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Serve on `host`, to as many clients, until left."""

    @abc.abstractmethod
    def client(self, host: str) -> Client:
        """Return a client of the server on `host`, which must be running."""


class _AiohttpClient(Client):
    def __init__(self, session: aiohttp.ClientSession, host: str) -> None:
        self._session = session
        self._url = f"http://{host}:{_PORT}/echo"

    async def exchange(self, body: bytes, ending: Ending) -> bytes | None:
        headers = {"Connection": "close"} if ending is Ending.CLOSED else {}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            if ending is Ending.DROPPED:
                response.close()
                return None
            return await response.read()

    async def close(self) -> None:
        pass


class _Aiohttp(Service):
    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    async def _echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    @contextlib.asynccontextmanager
    async def running(self, host: str, clients: int) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/echo", self._echo)
        runner = web.AppRunner(app, keepalive_timeout=_KEEP_ALIVE, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, _PORT, backlog=_BACKLOG).start()
            connector = aiohttp.TCPConnector(limit=clients, keepalive_timeout=_KEEP_ALIVE)
            async with aiohttp.ClientSession(connector=connector) as self._session:
                yield
        finally:
            await runner.cleanup()

    def client(self, host: str) -> Client:
        assert self._session is not None
        return _AiohttpClient(self._session, host)


class _WebsocketsClient(Client):
    def __init__(self, host: str) -> None:
        self._uri = f"ws://{host}:{_PORT}/"
        self._connection: websockets.asyncio.client.ClientConnection | None = None

    async def exchange(self, body: bytes, ending: Ending) -> bytes | None:
        if self._connection is None:
            self._connection = await websockets.asyncio.client.connect(
                self._uri, compression=None, proxy=None, open_timeout=60
            )
        connection = self._connection
        await connection.send(body)
        if ending is Ending.DROPPED:
            self._connection = None
            connection.transport.abort()
            await connection.wait_closed()
            return None
        answer = await connection.recv()
        if ending is Ending.CLOSED:
            await self.close()
        assert isinstance(answer, bytes)
        return answer

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Websockets(Service):
    @staticmethod
    async def _echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            # Some clients leave without a word.
            pass

    @contextlib.asynccontextmanager
    async def running(self, host: str, clients: int) -> AsyncIterator[None]:
        serve = websockets.asyncio.server.serve(
            self._echo, host, _PORT, backlog=_BACKLOG, compression=None, open_timeout=60
        )
        async with serve:
            yield

    def client(self, host: str) -> Client:
        return _WebsocketsClient(host)


class _StreamsClient(Client):
    """HTTP/1.1 by hand over asyncio's streams."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, body: bytes, ending: Ending) -> bytes | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, _PORT)
        reader, writer = self._streams
        connection = "close" if ending is Ending.CLOSED else "keep-alive"
        head = (
            f"POST / HTTP/1.1\r\nHost: {self._host}\r\nConnection: {connection}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode())
        writer.write(body[: len(body) // 2] if ending is Ending.DROPPED else body)
        await writer.drain()
        if ending is Ending.DROPPED:
            # Not later: uvicorn forgets to cancel the keep-alive timer of a connection
            # that was reset after an answer, and so keeps it until then.
            self._streams = None
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            return None
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert status.startswith("HTTP/1.1 200 "), status
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        answer = await reader.readexactly(int(headers["content-length"]))
        if ending is Ending.CLOSED:
            # The server closes: only then is everything read.
            assert await reader.read() == b""
            await self.close()
        return answer

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            await streams[1].wait_closed()


class _Uvicorn(Service):
    @staticmethod
    async def _echo(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", scope
        body = b""
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        length = str(len(body)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", length)],
            }
        )
        await send({"type": "http.response.body", "body": body})

    @contextlib.asynccontextmanager
    async def running(self, host: str, clients: int) -> AsyncIterator[None]:
        server = uvicorn.Server(
            uvicorn.Config(
                self._echo,
                host=host,
                port=_PORT,
                backlog=_BACKLOG,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE,
            )
        )
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = True
            await serving

    def client(self, host: str) -> Client:
        return _StreamsClient(host)


SERVICES: dict[str, type[Service]] = {
    "aiohttp": _Aiohttp,
    "websockets": _Websockets,
    "uvicorn": _Uvicorn,
}
