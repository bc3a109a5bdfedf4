"""lwIP gets through a bad network, however it is driven; a gigabyte, when there is time."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import vpoll_asyncio as va
from link_helpers import (
    PATIENCE,
    ip,
    run_in_namespace,
)
from scale import LONG
from vpoll_asyncio.links import NetemLink
from vpoll_asyncio.links.tap import TapLink
from vpoll_asyncio.stacks.host import host_stack

# lwIP gets through.


def transfer(words: dict[str, Any], size: int, loop: str) -> NetemLink:
    """Send `size` bytes from lwIP to the kernel and back, over TAP with a bad network."""
    ip("link", "set", "lo", "up")
    tap = TapLink("bad0")
    ip("address", "add", "10.5.5.1/24", "dev", "bad0")
    ip("link", "set", "bad0", "up")
    link = NetemLink(tap, **words)
    block = os.urandom(1 << 16)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        with host_stack().activate():
            server = await asyncio.start_server(serve, "10.5.5.1", 7000)
        async with server:
            reader, writer = await asyncio.open_connection("10.5.5.1", 7000)

            async def send() -> None:
                left = size
                while left:
                    writer.write(block[: min(left, len(block))])
                    left -= min(left, len(block))
                    await writer.drain()
                writer.write_eof()

            async def check() -> None:
                at = 0
                while data := await reader.read(len(block)):
                    while data:
                        piece = block[at % len(block) :][: len(data)]
                        assert data[: len(piece)] == piece
                        at += len(piece)
                        data = data[len(piece) :]
                assert at == size

            await asyncio.gather(send(), check())
            writer.close()
            await writer.wait_closed()

    with va.open_stack("lwip", link=link, ip="10.5.5.2/24") as stack:
        va.run(main(), loop=loop, stack=stack)
    return link


BAD = {"delay": "2ms", "jitter": "1ms", "loss": "1%", "duplicate": "1%", "corrupt": "0.5%"}


def lwip_over_a_bad_network(loop: str) -> None:
    link = transfer({**BAD, "seed": 1}, 300_000, loop)
    for direction in ("in", "out"):
        counters = link.counters(direction)
        assert counters.lost
        assert counters.duplicated
    assert link.closed


def on_asyncio() -> None:
    lwip_over_a_bad_network("asyncio")


def on_uvloop() -> None:
    lwip_over_a_bad_network("uvloop")


def without_a_loop() -> None:
    ip("link", "set", "lo", "up")
    tap = TapLink("bad0")
    ip("address", "add", "10.5.5.1/24", "dev", "bad0")
    ip("link", "set", "bad0", "up")
    with socket.create_server(("10.5.5.1", 7000)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        sent = os.urandom(50_000)
        with va.open_stack("lwip", link=NetemLink(tap, **BAD, seed=2), ip="10.5.5.2/24") as stack:
            with stack.socket() as sock:
                sock.settimeout(PATIENCE)
                sock.connect(("10.5.5.1", 7000))
                sock.sendall(sent)
                got = b""
                while len(got) < len(sent):
                    got += sock.recv(65536)
                assert got == sent
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
            thread.join()


def a_gigabyte() -> None:
    words = {"loss": "0.1%", "delay": "200us", "reorder": "1%", "duplicate": "0.1%", "seed": 1}
    link = transfer({**words, "limit": 10_000}, 1 << 30, "uvloop")
    assert link.counters("in").reordered
    assert link.counters("out").lost


UVLOOP = pytest.mark.needs("uvloop")
BODIES: list[Any] = [without_a_loop, on_asyncio, pytest.param(on_uvloop, marks=UVLOOP)]
if LONG:
    BODIES.append(pytest.param(a_gigabyte, marks=UVLOOP))


@pytest.mark.needs("lwip", "tap", "netns", "ip")
@pytest.mark.parametrize("body", BODIES)
def test_lwip_gets_everything_through_a_bad_network(body: Callable[[], None]) -> None:
    run_in_namespace(body, seconds=1800 if LONG else 120)
