"""User sockets on stock loops: stock asyncio takes them, stock uvloop is kept from them."""

from __future__ import annotations

import asyncio
import errno
import io
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from memory_helpers import BOUND, Lab, small_buffers
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.memory import MemoryStack

Main = Callable[[], Coroutine[Any, Any, None]]

DATA = bytes(range(256)) * 2000


@pytest.fixture
def lab(no_fd_leak: None) -> Iterator[Lab]:
    with MemoryStack() as stack:
        lab = Lab(stack)
        yield lab
        lab.close()


def on_asyncio(main: Main) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(asyncio.wait_for(main(), BOUND))


def on_uvloop(main: Main) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), BOUND))


class Collector(asyncio.Protocol):
    """Keeps what comes; `ended` is done with the connection."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


# Stock asyncio.


def test_create_connection(lab: Lab) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        client, server = lab.pair(small_buffers)
        sender, _ = await loop.create_connection(Collector, sock=client)
        _, receiver = await loop.create_connection(Collector, sock=server)
        assert isinstance(sender, asyncio.Transport)
        sender.write(DATA)
        sender.close()
        assert await receiver.ended is None
        assert receiver.received == DATA

    on_asyncio(main)


def test_create_server(lab: Lab) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = lab.listener()
        server = await loop.create_server(Echo, sock=listener)
        async with server:
            client = lab.connecting(listener)
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(DATA)
            assert await reader.readexactly(len(DATA)) == DATA
            writer.close()
            await writer.wait_closed()

    on_asyncio(main)


def test_create_datagram_endpoint(lab: Lab) -> None:
    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # Before 3.12 the selector loop's is no instance of that class.
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data[::-1], addr)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        receiver, sender = lab.bound(lab.datagram()), lab.bound(lab.datagram())
        transport, _ = await loop.create_datagram_endpoint(Answering, sock=receiver)
        await loop.sock_sendto(sender, b"abc", receiver.getsockname())
        data, address = await loop.sock_recvfrom(sender, 10)
        assert data == b"cba"
        assert address == transport.get_extra_info("sockname")
        transport.close()

    on_asyncio(main)


def test_sock_methods(lab: Lab) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = lab.listener(0)
        first = lab.connecting(listener)
        client = lab.stream()
        small_buffers(client)
        # The backlog is full: the connection waits until the first is accepted.
        connecting = asyncio.ensure_future(loop.sock_connect(client, listener.getsockname()))
        accepted, address = await loop.sock_accept(listener)
        assert address == first.getsockname()
        accepted.close()
        await connecting
        server, _ = await loop.sock_accept(listener)
        lab.keep(server)
        sending = asyncio.ensure_future(loop.sock_sendall(client, DATA))
        received = bytearray()
        buffer = bytearray(1000)
        while len(received) < len(DATA):
            if len(received) % 2:
                received += await loop.sock_recv(server, 3001)
            else:
                count = await loop.sock_recv_into(server, buffer)
                received += buffer[:count]
        await sending
        assert received == DATA

    on_asyncio(main)


def test_sock_connect_that_is_refused(lab: Lab) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_connect(lab.stream(), lab.refusing_address())

    on_asyncio(main)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[io.BufferedReader]:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield file


async def _receive_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
        received += data
    return bytes(received)


def test_sock_sendfile_falls_back(lab: Lab, file: io.BufferedReader) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        client, server = lab.pair(small_buffers)
        receiving = asyncio.ensure_future(_receive_all(server))
        assert await loop.sock_sendfile(client, file) == len(DATA)
        client.close()
        assert await receiving == DATA

    on_asyncio(main)


def test_sock_sendfile_without_fallback_refuses(lab: Lab, file: io.BufferedReader) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        client, server = lab.pair()
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(client, file, fallback=False)
        client.close()
        assert await _receive_all(server) == b""

    on_asyncio(main)


def test_sendfile_of_a_transport_falls_back(lab: Lab, file: io.BufferedReader) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        client, server = lab.pair(small_buffers)
        transport, _ = await loop.create_connection(Collector, sock=client)
        receiving = asyncio.ensure_future(_receive_all(server))
        assert await loop.sendfile(transport, file) == len(DATA)
        transport.close()
        assert await receiving == DATA

    on_asyncio(main)


# Stock uvloop.

uvloop_leaks = pytest.mark.filterwarnings("ignore:unclosed resource <.*Transport:ResourceWarning")
"""uvloop leaves the transport open that could not have the descriptor."""


@pytest.fixture(params=["none", "unixpair", pytest.param("fuse", marks=pytest.mark.needs("fuse"))])
def shown(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[socket.socket], socket.socket]:
    """Makes a socket's descriptor before uvloop runs, of one kind or the other, or not at all."""
    if request.param != "none":
        monkeypatch.setenv("VPOLL_BACKEND", request.param)

    def show(sock: socket.socket) -> socket.socket:
        assert request.param == "none" or sock.fileno() >= 0
        return sock

    return show


Shown = Callable[[socket.socket], socket.socket]


@uvloop_leaks
@pytest.mark.needs("uvloop")
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_uvloop_is_refused_a_stream(lab: Lab, shown: Shown, method: str) -> None:
    client, server = lab.pair()
    shown(client)
    server.send(b"data")

    async def main() -> None:
        protocol = Collector()
        connect = getattr(asyncio.get_running_loop(), method)
        with pytest.raises(OSError, match=r"vpoll_asyncio\.open_connection") as caught:
            await connect(lambda: protocol, sock=client)
        assert caught.value.errno == errno.ENOTSUP
        assert not protocol.received
        assert client.recv(10) == b"data"

    on_uvloop(main)


@uvloop_leaks
@pytest.mark.needs("uvloop")
def test_uvloop_is_refused_a_server(lab: Lab, shown: Shown) -> None:
    listener = shown(lab.listener())

    async def main() -> None:
        with pytest.raises(OSError, match=r"vpoll_asyncio\.open_connection"):
            await asyncio.get_running_loop().create_server(Collector, sock=listener)

    on_uvloop(main)


@uvloop_leaks
@pytest.mark.needs("uvloop")
def test_uvloop_is_refused_datagrams(lab: Lab, shown: Shown) -> None:
    receiver = shown(lab.bound(lab.datagram()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match=r"vpoll_asyncio\.open_connection"):
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=receiver)

    on_uvloop(main)


@pytest.mark.needs("uvloop")
def test_a_socket_is_polled_under_uvloop_by_its_vpoll(lab: Lab) -> None:
    client, server = lab.pair()
    assert isinstance(client, UserSocket)

    async def main() -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(client.vpoll, readable.set)
        server.send(b"data")
        await readable.wait()
        loop.remove_reader(client.vpoll)

    on_uvloop(main)
