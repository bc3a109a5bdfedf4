"""Two lwIP hosts and Linux on one VDE switch that loses frames: everybody talks to everybody."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

import vpoll_asyncio as va
from link_helpers import ip, run_in_namespace
from scale import LONG
from vde_ends import vde_switch
from vpoll_asyncio.links import NetemLink
from vpoll_asyncio.stacks import Stack
from vpoll_asyncio.stacks.host import host_stack

PORT = 7000
SIZE = 20_000_000 if LONG else 300_000
QUESTIONS = 30
AGAIN = 0.3
"""Seconds after which a question is asked again."""


class Host(NamedTuple):
    stack: Stack
    addresses: tuple[str, str]


@contextlib.contextmanager
def three_hosts(loss: str) -> Iterator[list[Host]]:
    """Two lwIP hosts that lose `loss` of what they send and receive, and this namespace's Linux."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        switch = Path(folder, "switch")
        opened.enter_context(vde_switch(switch, "-tap", "tap0"))
        ip("link", "set", "lo", "up")
        ip("address", "add", "10.9.0.3/24", "dev", "tap0")
        ip("address", "add", "fd09::3/64", "dev", "tap0", "nodad")
        ip("link", "set", "tap0", "up")
        hosts = []
        for number in (1, 2):
            addresses = (f"10.9.0.{number}", f"fd09::{number}")
            stack = opened.enter_context(
                va.open_stack(
                    "lwip",
                    vnl=f"netem://loss={loss},seed={number}{{vde://{switch}}}",
                    ip=f"{addresses[0]}/24",
                    ip6=f"{addresses[1]}/64",
                )
            )
            hosts.append(Host(stack, addresses))
        yield [*hosts, Host(host_stack(), ("10.9.0.3", "fd09::3"))]
        for host in hosts:
            link = cast(NetemLink, cast(Any, host.stack).link)
            assert link.counters("in").lost
            assert link.counters("out").lost


async def digest(reader: asyncio.StreamReader) -> bytes:
    found = hashlib.sha256()
    while data := await reader.read(1 << 16):
        found.update(data)
    return found.digest()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()
    await writer.wait_closed()


async def transfer(client: Stack, address: str, seed: int) -> None:
    """Send random bytes to the echo at `address`, and read as many back meanwhile."""
    data = random.Random(seed).randbytes(SIZE)
    reader, writer = await va.open_connection(address, PORT, stack=client)

    async def send() -> None:
        for start in range(0, SIZE, 1 << 16):
            writer.write(data[start : start + (1 << 16)])
            await writer.drain()
        writer.write_eof()

    _, got = await asyncio.gather(send(), digest(reader))
    assert got == hashlib.sha256(data).digest()
    writer.close()
    await writer.wait_closed()


class Answers(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


class Questions(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.put_nowait(data)


async def ask(client: Stack, address: str) -> None:
    """Ask until each question is answered, as programs over UDP do."""
    transport, protocol = await va.create_datagram_endpoint(
        Questions, remote_addr=(address, PORT), stack=client
    )
    for number in range(QUESTIONS):
        question = number.to_bytes(4, "big") * 100
        answer = b""
        while answer != question:
            transport.sendto(question)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    while (answer := await protocol.answers.get()) != question:
                        pass
    transport.close()


async def everybody_talks(hosts: list[Host]) -> None:
    async with contextlib.AsyncExitStack() as servers:
        everywhere = [(host, address) for host in hosts for address in host.addresses]
        for host, address in everywhere:
            server = await va.start_server(echo, address, PORT, stack=host.stack)
            servers.push_async_callback(server.wait_closed)
            servers.callback(server.close)
            transport, _ = await va.create_datagram_endpoint(
                Answers, local_addr=(address, PORT), stack=host.stack
            )
            servers.callback(transport.close)
        async with asyncio.TaskGroup() as talks:
            seeds = itertools.count()
            for client, server_host in itertools.permutations(hosts, 2):
                for address in server_host.addresses:
                    talks.create_task(transfer(client.stack, address, next(seeds)))
                    talks.create_task(ask(client.stack, address))


def on_loop(loop: str) -> None:
    with three_hosts("2%") as hosts:
        va.run(everybody_talks(hosts), loop=loop)


def on_asyncio() -> None:
    on_loop("asyncio")


def on_uvloop() -> None:
    on_loop("uvloop")


@pytest.mark.needs("lwip", "vde", "tap", "netns", "ip")
@pytest.mark.parametrize(
    "body", [on_asyncio, pytest.param(on_uvloop, marks=pytest.mark.needs("uvloop"))]
)
def test_everybody_on_a_switch_that_loses_frames_gets_everything(
    body: Callable[[], None],
) -> None:
    run_in_namespace(body, seconds=1800 if LONG else 120)
