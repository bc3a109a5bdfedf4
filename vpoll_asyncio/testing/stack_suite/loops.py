"""The stack's sockets on event loops: ours, stock asyncio, and uvloop where there is one."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ... import streams, waiting
from ...events import EventMask
from ...loops import EventLoop, new_event_loop
from ...selector import VPollSelector
from ...transports import create_datagram_endpoint
from .base import SuiteBase
from .lab import Hosts, Lab

DATA = bytes(range(256)) * 4000
CLIENTS = 20

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _stock_over_our_selector() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(VPollSelector())


def _our_uvloop() -> asyncio.AbstractEventLoop:
    return new_event_loop(loop="uvloop")


def _stock_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = importlib.import_module("uvloop")
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made


_needs_uvloop = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None, reason="no Python package uvloop"
)

LOOPS = [
    pytest.param(EventLoop, id="EventLoop"),
    pytest.param(_our_uvloop, id="UvloopEventLoop", marks=_needs_uvloop),
    pytest.param(asyncio.SelectorEventLoop, id="asyncio"),
    pytest.param(_stock_over_our_selector, id="asyncio with VPollSelector"),
    pytest.param(_stock_uvloop, id="uvloop", marks=_needs_uvloop),
]

# Stock uvloop is given no user socket in sock_*, which would read its descriptor.
LOOPS_WITH_SOCK_CALLS = LOOPS[:-1]


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.queue.put_nowait(data)


class LoopTests(SuiteBase):
    """Streams, servers, datagrams and ``sock_*`` on every loop."""

    def run(
        self, factory: LoopFactory, hosts: Hosts, main: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Run `main` on a new loop that drives both hosts."""

        async def bounded() -> None:
            loop = asyncio.get_running_loop()
            for stack in {hosts.server, hosts.client}:
                stack.attach(loop)
            try:
                await asyncio.wait_for(main(), 3 * self.bound)
            finally:
                for stack in {hosts.server, hosts.client}:
                    stack.detach(loop)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    @pytest.mark.parametrize("factory", LOOPS)
    def test_streams_echo_and_end(self, hosts: Hosts, factory: LoopFactory) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(50_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def ask(port: int, data: bytes) -> None:
            reader, writer = await streams.open_connection(
                hosts.server_address, port, stack=hosts.client
            )

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            assert await reader.read() == data
            await sending
            assert writer.get_extra_info("peername")[:2] == (hosts.server_address, port)
            writer.close()
            await writer.wait_closed()

        async def main() -> None:
            # What a loop returns for kernel sockets is of a class of its own.
            server: Any = await streams.start_server(
                echo, hosts.server_address, 0, stack=hosts.server
            )
            async with server:
                port = server.sockets[0].getsockname()[1]
                await ask(port, DATA)
                await asyncio.gather(*(ask(port, DATA[: 100 * n]) for n in range(CLIENTS)))

        self.run(factory, hosts, main)

    @pytest.mark.parametrize("factory", LOOPS)
    def test_a_connection_is_refused(self, hosts: Hosts, factory: LoopFactory) -> None:
        lab = Lab(hosts, self.bound)
        port = lab.refusing_address()[1]

        async def main() -> None:
            with pytest.raises(ConnectionRefusedError):
                await streams.open_connection(hosts.server_address, port, stack=hosts.client)

        try:
            self.run(factory, hosts, main)
        finally:
            lab.close()

    @pytest.mark.parametrize("factory", LOOPS)
    def test_datagrams_are_answered(self, hosts: Hosts, factory: LoopFactory) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            server, _ = await create_datagram_endpoint(
                loop, _Echo, (hosts.server_address, 0), stack=hosts.server
            )
            address = server.get_extra_info("sockname")
            client, answers = await create_datagram_endpoint(
                loop, _Answers, remote_addr=address[:2], stack=hosts.client
            )
            assert isinstance(answers, _Answers)
            for data in (b"hello", b"?", bytes(1000)):
                client.sendto(data)
                assert await answers.queue.get() == data
            client.close()
            server.close()
            await asyncio.sleep(0)

        self.run(factory, hosts, main)

    @pytest.mark.parametrize("factory", LOOPS_WITH_SOCK_CALLS)
    def test_sock_calls(self, hosts: Hosts, factory: LoopFactory) -> None:
        lab = Lab(hosts, self.bound)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            listener, client = lab.listener(), lab.stream()
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, address = await accepting
            lab.keep(server)
            assert address == client.getsockname()
            sending = asyncio.ensure_future(loop.sock_sendall(client, DATA))
            got = bytearray()
            while len(got) < len(DATA):
                got += await loop.sock_recv(server, 100_000)
            await sending
            assert got == DATA
            client.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(server, 10) == b""

        try:
            self.run(factory, hosts, main)
        finally:
            lab.close()

    @pytest.mark.parametrize("factory", LOOPS)
    def test_any_event_can_be_waited_for(self, hosts: Hosts, factory: LoopFactory) -> None:
        lab = Lab(hosts, self.bound)

        async def main() -> None:
            client, server = lab.pair()
            waiting_for_end = asyncio.ensure_future(waiting.wait_events(server, EventMask.RDHUP))
            await asyncio.sleep(0)
            client.shutdown(socket.SHUT_WR)
            assert await waiting_for_end & EventMask.RDHUP

        try:
            self.run(factory, hosts, main)
        finally:
            lab.close()
