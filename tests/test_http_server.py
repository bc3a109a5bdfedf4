"""docs/http_server.py, the demo's program, on the kernel's sockets and a stock loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transport_helpers import until

SOURCE = Path(__file__).parent.parent / "docs" / "http_server.py"

BOTH_FRAMINGS = (
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("http_server", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


http_server = load()


class Server:
    """The program's connection handler behind a port of 127.0.0.1."""

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(http_server.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def exchange(self, sent: bytes | Iterable[bytes]) -> bytes:
        """Send everything, finish, and return everything that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in (sent,) if isinstance(sent, bytes) else sent:
                writer.write(part)
                await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_root_says_hello(server: Server) -> None:
    answer = await server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status(answer), body(answer)) == (200, b"hello\n")


async def test_requests_sent_at_once_are_answered_in_order(server: Server) -> None:
    answer = await server.exchange(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"404"]


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
async def test_bytes_have_the_length_and_hash_of_the_header(server: Server, size: int) -> None:
    answer = await server.exchange(b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
    assert len(body(answer)) == size
    assert f"X-SHA256: {hashlib.sha256(body(answer)).hexdigest()}".encode() in answer


async def test_head_has_the_header_and_no_body(server: Server) -> None:
    answer = await server.exchange(b"HEAD /bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Content-Length: 9\r\n" in answer
    assert body(answer) == b""


def told_length(data: bytes, cut: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


def chunked(data: bytes, cut: int) -> bytes:
    parts = [part for part in (data[:cut], data[cut:]) if part]
    chunks = b"".join(b"%x;name=value\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("framing", [told_length, chunked])
@given(data=st.binary(max_size=4096), cut=st.integers(0, 4096))
@settings(max_examples=25, deadline=None)
def test_put_answers_size_and_hash(
    framing: Callable[[bytes, int], bytes], data: bytes, cut: int
) -> None:
    async def put() -> bytes:
        async with Server() as server:
            return await server.exchange(b"PUT /f HTTP/1.1\r\nHost: a\r\n" + framing(data, cut))

    answer = asyncio.run(put())
    assert body(answer) == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


async def test_large_body_is_received_whole(server: Server) -> None:
    piece = bytes(range(256)) * 256
    head = b"PUT /f HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * len(piece))
    answer = await server.exchange([head, *[piece] * 64])
    assert body(answer).split() == [
        str(64 * len(piece)).encode(),
        hashlib.sha256(piece * 64).hexdigest().encode(),
    ]


async def test_expectation_is_answered_before_the_body_is_sent(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"PUT /f HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(30):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /bytes/many HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /bytes/9999999999999 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (BOTH_FRAMINGS, 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: " + b"a" * 200_000, 431),
    ],
)
async def test_bad_requests_get_a_status(server: Server, request_: bytes, expected: int) -> None:
    assert status(await server.exchange(request_)) == expected


@given(junk=st.binary(max_size=300))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_answered_or_dropped(junk: bytes) -> None:
    async def throw() -> tuple[bytes, bytes]:
        async with Server() as server:
            first = await server.exchange(junk)
            return first, await server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    first, second = asyncio.run(throw())
    assert not first or first.startswith(b"HTTP/1.1 ")
    assert status(second) == 200


def test_program_ends_cleanly_when_interrupted_with_a_connection_open() -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(SOURCE), "127.0.0.1", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        port = int(program.stdout.readline().split()[-1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            program.send_signal(signal.SIGINT)
            for _ in range(10):
                try:
                    out, err = program.communicate(timeout=3)
                    break
                except subprocess.TimeoutExpired:
                    # asyncio sleeps on where a signal comes just before its system call: a
                    # connection wakes it, and then the handler runs.
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", port), timeout=3).close()
            else:
                program.kill()
                out, err = program.communicate()
    assert (program.returncode, out, err) == (0, "", "")


async def test_ending_does_not_wait_for_a_client_that_takes_nothing() -> None:
    handlers: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
        handlers.append((task, writer))
        await http_server.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    with client:
        client.sendall(b"GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(30):
            await until(lambda: handlers and handlers[0][1].transport.get_write_buffer_size())
            handler, writer = handlers[0]
            handler.cancel()
            await handler
            await writer.wait_closed()
    server.close()
    await server.wait_closed()
