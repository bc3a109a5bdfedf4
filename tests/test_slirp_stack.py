"""lwIP behind slirp, with the host's kernel on the other side, on one and the same loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import vpoll_asyncio as va
from processes import free_port
from vpoll_asyncio.stacks.host import host_stack

pytestmark = pytest.mark.needs("lwip", "slirp")

Run = Callable[[Coroutine[Any, Any, None], str], None]


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))])
def run_on_lwip(request: pytest.FixtureRequest, no_fd_leak: None) -> Run:
    """Run a coroutine on a loop made with lwIP behind slirp; the argument is slirp's options."""

    def run(main: Coroutine[Any, Any, None], options: str = "") -> None:
        with va.open_stack(
            "lwip", vnl=f"slirp://{options}", ip="10.0.2.15/24", gw="10.0.2.2"
        ) as stack:
            va.run(main, loop=request.param, stack=stack)

    return run


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_a_client_on_lwip_reaches_a_server_of_the_host(run_on_lwip: Run) -> None:
    async def main() -> None:
        with host_stack().activate():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(60), server:
            reader, writer = await asyncio.open_connection("10.0.2.2", port)
            assert writer.get_extra_info("sockname")[0] == "10.0.2.15"
            sent = bytes(range(256)) * 4096

            async def send() -> None:
                writer.write(sent)
                await writer.drain()
                writer.write_eof()

            _, received = await asyncio.gather(send(), reader.read())
            assert received == sent
            writer.close()
            await writer.wait_closed()

    run_on_lwip(main(), "")


def test_a_port_of_the_host_that_nobody_listens_on_refuses(run_on_lwip: Run) -> None:
    port = free_port()

    async def main() -> None:
        async with asyncio.timeout(60):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("10.0.2.2", port)

    run_on_lwip(main(), "")


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


def test_a_udp_echo_on_lwip_answers_a_client_of_the_host(run_on_lwip: Run) -> None:
    port = free_port("udp")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=("0.0.0.0", 7))
        with host_stack().activate(), socket.socket(type=socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            async with asyncio.timeout(60):
                for number in range(100):
                    datagram = b"%d" % number * (number % 14 + 1) * 50
                    await loop.sock_sendall(client, datagram)
                    assert await loop.sock_recv(client, 65536) == datagram
        transport.close()

    run_on_lwip(main(), f"/udpfwd=127.0.0.1:{port}:10.0.2.15:7")


def test_kernel_sockets_made_before_still_go_to_the_kernel(run_on_lwip: Run) -> None:
    left, right = socket.socketpair()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left.setblocking(False)
        right.setblocking(False)
        await loop.sock_sendall(left, b"kernel")
        assert await loop.sock_recv(right, 100) == b"kernel"

    with left, right:
        run_on_lwip(main(), "")
