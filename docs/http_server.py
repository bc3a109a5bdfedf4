"""A small HTTP/1.1 server on asyncio streams, and nothing but the standard library.

    GET /            "hello"
    GET /bytes/N     N bytes that look random and are the same every time; their SHA-256 goes
                     ahead in the header X-SHA256
    PUT /anything    the size and the SHA-256 of the body that was sent

Connections are kept alive; bodies are read and written piece by piece, so a slow client holds
up nobody and a large body costs no memory.  Run it with ``python http_server.py [HOST [PORT]]``.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import NamedTuple

PIECE = 65536
LARGEST = 1 << 30
IDLE = 60.0
"""Seconds that a client may take over a request's head, or over one piece of a body."""


class Request(NamedTuple):
    """The head of a request; header names are in lower case."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection carries another request after this one."""
        options = [item.strip() for item in self.headers.get("connection", "").lower().split(",")]
        return "keep-alive" in options if self.version == "HTTP/1.0" else "close" not in options


class HTTPError(Exception):
    """A request that is answered with an error, after which the connection is closed."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


async def read_head(reader: asyncio.StreamReader) -> Request | None:
    """Read a request up to its empty line; None where the client has finished instead."""
    try:
        async with asyncio.timeout(IDLE):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise HTTPError(HTTPStatus.BAD_REQUEST) from None
        return None
    except asyncio.LimitOverrunError:
        raise HTTPError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    request_line, *lines = head.decode("latin-1").strip("\r\n").split("\r\n")
    words = request_line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/") or not words[0].isalpha():
        raise HTTPError(HTTPStatus.BAD_REQUEST)
    method, target, version = words
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise HTTPError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HTTPError(HTTPStatus.BAD_REQUEST)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if version == "HTTP/1.1" and "host" not in headers:
        raise HTTPError(HTTPStatus.BAD_REQUEST)
    return Request(method, target, version, headers)


def number(text: str, base: int = 10) -> int:
    """Return the unsigned number that `text` is; raises HTTPError for anything else."""
    digits = "0123456789abcdef"[:base]
    if not 0 < len(text) <= 16 or text.lower().strip(digits):
        raise HTTPError(HTTPStatus.BAD_REQUEST)
    return int(text, base)


async def read_body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[bytes]:
    """Yield a request's body in pieces, whether its length is told ahead or chunk by chunk."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None and (length is not None or coding.lower() != "chunked"):
        raise HTTPError(
            HTTPStatus.BAD_REQUEST if length is not None else HTTPStatus.NOT_IMPLEMENTED
        )
    left = 0 if length is None else number(length)
    if left > LARGEST:
        raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if request.headers.get("expect", "").lower() == "100-continue" and (left or coding):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def pieces(left: int) -> AsyncIterator[bytes]:
        while left:
            async with asyncio.timeout(IDLE):
                piece = await reader.read(min(left, PIECE))
            if not piece:
                raise ConnectionAbortedError("the client went away within a body")
            left -= len(piece)
            yield piece

    async def line() -> bytes:
        async with asyncio.timeout(IDLE):
            return await reader.readuntil(b"\r\n")

    if coding is None:
        async for piece in pieces(left):
            yield piece
        return
    total = 0
    while size := number((await line()).decode("latin-1").partition(";")[0].strip(), 16):
        total += size
        if total > LARGEST:
            raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        async for piece in pieces(size):
            yield piece
        if await line() != b"\r\n":
            raise HTTPError(HTTPStatus.BAD_REQUEST)
    while await line() != b"\r\n":
        pass  # trailer fields


def random_bytes(size: int) -> Iterator[bytes]:
    """Yield `size` bytes, the same ones every time."""
    for start in range(0, size, PIECE):
        block = hashlib.shake_128(b"%d" % start).digest(PIECE)
        yield block[: size - start]


def digest(size: int) -> str:
    """Return the SHA-256 of `random_bytes` of that size."""
    sha256 = hashlib.sha256()
    for block in random_bytes(size):
        sha256.update(block)
    return sha256.hexdigest()


def head(status: HTTPStatus, size: int, keep_alive: bool, **fields: str) -> bytes:
    """Return the head of an answer with a body of `size` bytes."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Length: {size}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    lines.append(f"Connection: {'keep-alive' if keep_alive else 'close'}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def drain(writer: asyncio.StreamWriter) -> None:
    """Wait until the client has taken most of what was written to it."""
    async with asyncio.timeout(IDLE):
        await writer.drain()


async def answer(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request; its body has been read to the end afterwards."""
    path = request.target.partition("?")[0]
    received, sha256 = 0, hashlib.sha256()
    async for piece in read_body(request, reader, writer):
        received += len(piece)
        sha256.update(piece)

    reads = request.method in ("GET", "HEAD")
    if request.method == "PUT":
        status, text = HTTPStatus.OK, f"{received} {sha256.hexdigest()}\n"
    elif reads and path == "/":
        status, text = HTTPStatus.OK, "hello\n"
    elif reads and path.startswith("/bytes/"):
        size = number(path.removeprefix("/bytes/"))
        if size > LARGEST:
            raise HTTPError(HTTPStatus.BAD_REQUEST)
        fields = {
            "Content_Type": "application/octet-stream",
            "X_SHA256": await asyncio.to_thread(digest, size),
        }
        writer.write(head(HTTPStatus.OK, size, request.keeps_alive, **fields))
        for block in random_bytes(size if request.method == "GET" else 0):
            writer.write(block)
            await drain(writer)
        return
    elif reads:
        status, text = HTTPStatus.NOT_FOUND, f"no such page: {path}\n"
    else:
        status, text = HTTPStatus.METHOD_NOT_ALLOWED, "expected GET, HEAD or PUT\n"
    fields = {"Content_Type": "text/plain; charset=utf-8"}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        fields["Allow"] = "GET, HEAD, PUT"
    body = text.encode()
    writer.write(head(status, len(body), request.keeps_alive, **fields))
    if request.method != "HEAD":
        writer.write(body)
    await drain(writer)


async def refuse(
    status: HTTPStatus, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send an error as the connection's last answer.

    What the client still sends is read for a while: closing on unread data would be a reset,
    and the client might lose the answer to it.
    """
    body = f"{status.value} {status.phrase}\n".encode()
    writer.write(head(status, len(body), False, Content_Type="text/plain") + body)
    writer.write_eof()
    async with asyncio.timeout(2):
        while await reader.read(PIECE):
            pass


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, request after request."""
    try:
        while request := await read_head(reader):
            await answer(request, reader, writer)
            if not request.keeps_alive:
                break
    except (HTTPError, asyncio.LimitOverrunError) as error:
        status = getattr(error, "status", HTTPStatus.BAD_REQUEST)
        try:
            await refuse(status, reader, writer)
        except OSError:
            pass
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client is gone, or might as well be
    except asyncio.CancelledError:
        # The program ends, and does not wait for clients that take nothing.  Some versions of
        # asyncio log a handler that ends cancelled.
        writer.transport.abort()
    finally:
        writer.close()


async def main(host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve until cancelled."""
    server = await asyncio.start_server(serve, host, port)
    for sock in server.sockets:
        address = sock.getsockname()
        print(f"listening on {address[0]} port {address[1]}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    try:
        asyncio.run(main(host, port))
    except KeyboardInterrupt:
        pass
