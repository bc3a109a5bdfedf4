"""open_connection and its like name a stack, or mean the current one, on any running loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from unittest import mock

import pytest

import vpoll_asyncio as va
from transport_helpers import Hosts, Recorder, on_every_loop, until
from vpoll_asyncio import streams
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.transports import StreamTransport


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except ConnectionResetError:
        writer.close()


async def ask(text: bytes, *address: Any, **options: Any) -> bytes:
    reader, writer = await streams.open_connection(*address, **options)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@on_every_loop
async def test_a_stack_is_named(hosts: Hosts) -> None:
    async with await streams.start_server(shout, "10.0.0.1", 7, stack=hosts.server):
        assert await ask(b"hello\n", "10.0.0.1", 7, stack=hosts.client) == b"HELLO\n"
        assert await ask(b"name\n", "server.test", 7, stack=hosts.client) == b"NAME\n"


@on_every_loop
async def test_the_current_stack_is_meant_without_a_name(hosts: Hosts) -> None:
    with hosts.server.activate():
        server = await streams.start_server(shout, "10.0.0.1", 7)
    with hosts.client.activate():
        assert await ask(b"hello\n", "10.0.0.1", 7) == b"HELLO\n"
    server.close()


@on_every_loop
async def test_the_process_default_is_meant_where_nothing_else_is(hosts: Hosts) -> None:
    server = await streams.start_server(shout, "10.0.0.1", 7, stack=hosts.server)
    previous = set_default_stack(hosts.client)
    try:
        assert await ask(b"hello\n", "10.0.0.1", 7) == b"HELLO\n"
    finally:
        set_default_stack(previous)
    server.close()


@on_every_loop
async def test_the_host_is_reached_from_within_another_stack(hosts: Hosts) -> None:
    host = host_stack()
    with hosts.client.activate():
        server = await streams.start_server(shout, "127.0.0.1", 0, stack=host)
        address = server.sockets[0].getsockname()  # type: ignore[attr-defined]
        assert await ask(b"hello\n", *address, stack=host) == b"HELLO\n"
        with pytest.raises(ConnectionRefusedError):
            await ask(b"hello\n", *address)
        server.close()


@on_every_loop
async def test_connections_inherit_the_stack_of_their_server(hosts: Hosts) -> None:
    seen = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(va.current_stack())
        writer.close()
        await writer.wait_closed()

    async with await streams.start_server(look, "10.0.0.1", 7, stack=hosts.server):
        reader, writer = await streams.open_connection("10.0.0.1", 7, stack=hosts.client)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert seen == [hosts.server]
    assert va.current_stack() is not hosts.server


@on_every_loop
async def test_two_stacks_are_used_at_once_by_context(hosts: Hosts) -> None:
    async def work(stack: Any, own: str, other: str) -> bytes:
        with stack.activate():
            server = await streams.start_server(shout, own, 7)
            await ready.wait()
            answer = await ask(own.encode() + b"\n", other, 7)
            server.close()
            return answer

    ready = asyncio.Barrier(2)
    first, second = await asyncio.gather(
        work(hosts.server, "10.0.0.1", "10.0.0.2"), work(hosts.client, "10.0.0.2", "10.0.0.1")
    )
    assert (first, second) == (b"10.0.0.1\n", b"10.0.0.2\n")


@on_every_loop
async def test_a_socket_decides_for_itself(hosts: Hosts) -> None:
    sock = hosts.server.socket()
    sock.bind(("10.0.0.1", 7))
    with pytest.raises(ValueError, match="not a socket of the stack"):
        await streams.start_server(shout, sock=sock, stack=hosts.client)
    async with await streams.start_server(shout, sock=sock, stack=hosts.server):
        connection = hosts.client.socket()
        connection.connect(("10.0.0.1", 7))
        assert await ask(b"hello\n", sock=connection) == b"HELLO\n"


# Loops of ours warn, as test_host_sockets.py has it: the socket is the host's, the stack is not.
@pytest.mark.filterwarnings("ignore:create_connection.. got a socket of the host:RuntimeWarning")
@on_every_loop
async def test_a_kernel_socket_goes_to_the_loop(hosts: Hosts) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connection = socket.create_connection(listener.getsockname())
        with hosts.client.activate():
            transport, protocol = await streams.create_connection(Recorder, sock=connection)
        assert not isinstance(transport, StreamTransport)
        accepted, _ = listener.accept()
        accepted.sendall(b"from the kernel")
        accepted.close()
        await protocol.lost
        assert protocol.data == b"from the kernel"
        with pytest.raises(ValueError, match="not a socket of the stack"):
            await streams.create_connection(Recorder, sock=listener, stack=hosts.client)


@on_every_loop
async def test_datagrams_go_through_the_stack(hosts: Hosts) -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.set_result(data)

    server, _ = await streams.create_datagram_endpoint(
        Receiver, local_addr=("10.0.0.1", 53), stack=hosts.server
    )
    with hosts.client.activate():
        client, _ = await streams.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("10.0.0.1", 53)
        )
    client.sendto(b"query")
    assert await received == b"query"
    client.close()
    server.close()
    await until(lambda: isinstance(client.get_extra_info("socket"), object))


@on_every_loop
async def test_the_stack_is_attached_to_the_running_loop(hosts: Hosts) -> None:
    with mock.patch.object(hosts.client, "attach") as attach:
        with pytest.raises(ConnectionRefusedError):
            await streams.open_connection("10.0.0.1", 7, stack=hosts.client)
    attach.assert_called_with(asyncio.get_running_loop())


@on_every_loop
async def test_the_limit_of_the_reader_is_passed_on(hosts: Hosts) -> None:
    async with await streams.start_server(shout, "10.0.0.1", 7, stack=hosts.server):
        reader, writer = await streams.open_connection("10.0.0.1", 7, stack=hosts.client, limit=100)
        writer.write(b"x" * 500 + b"\n")
        with pytest.raises(ValueError, match="limit"):
            await reader.readline()
        writer.transport.abort()


@on_every_loop
async def test_no_vpoll_of_a_connection_has_a_backend(hosts: Hosts) -> None:
    made: list[Any] = []
    real = UserSocket.__init__

    def init(self: UserSocket, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        made.append(self.vpoll)

    with mock.patch.object(UserSocket, "__init__", init):
        async with await streams.start_server(shout, "10.0.0.1", 7, stack=hosts.server):
            reader, writer = await streams.open_connection("10.0.0.1", 7, stack=hosts.client)
            writer.write(b"hello\n")
            await reader.readline()
            assert len(made) == 3
            assert [vpoll.backend for vpoll in made] == [None] * 3
            writer.close()
            await writer.wait_closed()
