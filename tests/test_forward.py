"""forward: ports of the host and of stacks, in every direction, TCP and UDP."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import random
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport_helpers import Hosts, Recorder, on_every_loop, turns, until
from vpoll_asyncio import streams
from vpoll_asyncio.forward import Forward, forward
from vpoll_asyncio.forward.address import parse_address
from vpoll_asyncio.stacks.host import host_stack

MEGABYTE = 1 << 20


class Way(NamedTuple):
    """The stacks of a forward: who listens, who is forwarded to, and who asks."""

    source: Any
    target: Any
    client: Any
    listen: str
    address: str

    async def forward(self, port: int, **options: Any) -> Forward:
        return await forward(
            self.source, self.listen, self.target, f"{self.address}:{port}", **options
        )

    async def serve(self, callback: Callable[..., Any]) -> tuple[asyncio.AbstractServer, int]:
        server: Any = await streams.start_server(callback, self.address, 0, stack=self.target)
        return server, server.sockets[0].getsockname()[1]

    async def dial(self, running: Forward) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await streams.open_connection(*running.sockname[:2], stack=self.client)


WAYS: dict[str, Callable[[Hosts], Way]] = {
    "host-to-stack": lambda hosts: Way(
        host_stack(), hosts.server, host_stack(), "127.0.0.1:0", "10.0.0.1"
    ),
    "stack-to-host": lambda hosts: Way(
        hosts.server, host_stack(), hosts.client, "10.0.0.1:0", "127.0.0.1"
    ),
    "stack-to-stack": lambda hosts: Way(
        hosts.server, hosts.client, hosts.client, "10.0.0.1:0", "10.0.0.2"
    ),
    "host-to-host": lambda hosts: Way(
        host_stack(), host_stack(), host_stack(), "127.0.0.1:0", "127.0.0.1"
    ),
}

every_way = pytest.mark.parametrize("way", WAYS)


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the digest of everything up to the end of the stream."""
    seen = hashlib.sha256()
    try:
        while data := await reader.read(65536):
            seen.update(data)
        writer.write(seen.digest())
        writer.close()
        await writer.wait_closed()
    except ConnectionResetError:
        writer.close()


@every_way
@on_every_loop
async def test_tcp_arrives_intact_and_each_direction_ends_by_itself(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    server, port = await path.serve(digest)
    data = random.Random(10).randbytes(3 * MEGABYTE)
    async with await path.forward(port) as running:
        for part in (data, b"", b"x"):
            reader, writer = await path.dial(running)
            writer.write(part)
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(part).digest()
            writer.close()
            await writer.wait_closed()
        await until(lambda: not running.connections)
    server.close()


@every_way
@on_every_loop
async def test_tcp_from_the_target_to_the_client(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    data = random.Random(11).randbytes(3 * MEGABYTE)

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.write_eof()
        # The client ends only after it has read everything.
        assert await reader.read() == b"thanks"
        writer.close()
        await writer.wait_closed()

    server, port = await path.serve(send)
    async with await path.forward(port) as running:
        reader, writer = await path.dial(running)
        assert await reader.read() == data
        writer.write(b"thanks")
        writer.close()
        await writer.wait_closed()
        await until(lambda: not running.connections)
    server.close()


@pytest.mark.parametrize("way", ["stack-to-stack", "host-to-stack"])
@on_every_loop
async def test_tcp_many_connections_at_once(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    server, port = await path.serve(digest)
    async with await path.forward(port) as running:

        async def one(number: int) -> None:
            data = b"%d" % number * 1000
            reader, writer = await path.dial(running)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(data).digest()
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*map(one, range(50)))
    server.close()


@pytest.mark.parametrize("way", ["stack-to-stack", "host-to-stack", "stack-to-host"])
@on_every_loop
async def test_tcp_a_target_that_does_not_read_holds_the_client_back(
    hosts: Hosts, way: str
) -> None:
    path = WAYS[way](hosts)
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Stubborn(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            asyncio.get_running_loop().call_soon(transport.pause_reading)
            accepted.set_result(self)

    server: Any = await streams.create_server(Stubborn, path.address, 0, stack=path.target)
    port = server.sockets[0].getsockname()[1]
    data = bytes(32 * MEGABYTE)
    async with await path.forward(port) as running:
        _, client = await streams.create_connection(
            Recorder, *running.sockname[:2], stack=path.client
        )
        client.transport.write(data)
        target = await accepted
        # What is under way settles: sockets' buffers and the forward's own.
        left = -1
        while left != client.transport.get_write_buffer_size():
            left = client.transport.get_write_buffer_size()
            await asyncio.sleep(0.02)
        assert left > len(data) // 2
        target.transport.resume_reading()
        await until(lambda: len(target.data) == len(data))
        client.transport.close()
        await target.lost
    server.close()


@every_way
@on_every_loop
async def test_tcp_a_refused_target_resets_the_client(
    hosts: Hosts, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = WAYS[way](hosts)
    server, port = await path.serve(digest)
    server.close()
    await server.wait_closed()
    async with await path.forward(port) as running:
        reader, writer = await path.dial(running)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        await until(lambda: not running.connections)
    assert "no connection to the target" in caplog.text


@every_way
@pytest.mark.parametrize("who", ["client", "target"])
@on_every_loop
async def test_tcp_a_reset_is_passed_on(hosts: Hosts, way: str, who: str) -> None:
    path = WAYS[way](hosts)
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    class Accepting(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            accepted.set_result(self)

    server: Any = await streams.create_server(Accepting, path.address, 0, stack=path.target)
    async with await path.forward(server.sockets[0].getsockname()[1]) as running:
        _, client = await streams.create_connection(
            Recorder, *running.sockname[:2], stack=path.client
        )
        client.transport.write(b"hello")
        target = await accepted
        await until(lambda: target.data)
        resetting, other = (client, target) if who == "client" else (target, client)
        sock = resetting.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        resetting.transport.abort()
        assert isinstance(await other.lost, ConnectionResetError)
        await until(lambda: not running.connections)
    server.close()


@every_way
@on_every_loop
async def test_tcp_closing_resets_what_is_being_forwarded(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    server, port = await path.serve(digest)
    running = await path.forward(port)
    address = running.sockname[:2]
    reader, writer = await path.dial(running)
    writer.write(b"x")
    await until(lambda: running.connections == 1)
    assert "running" in repr(running)
    running.close()
    running.close()
    assert running.closing
    await running.wait_closed()
    assert running.connections == 0
    assert running.sockets == ()
    with pytest.raises(OSError, match="closed"):
        _ = running.sockname
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await streams.open_connection(*address, stack=path.client)
    server.close()


@pytest.mark.parametrize("step", range(10))
@on_every_loop
async def test_tcp_closing_at_any_turn_of_a_connection_leaves_nothing(
    hosts: Hosts, step: int
) -> None:
    path = WAYS["stack-to-stack"](hosts)
    server, port = await path.serve(digest)
    running = await path.forward(port)
    dialling = asyncio.create_task(path.dial(running))
    await turns(step)
    running.close()
    await running.wait_closed()
    (result,) = await asyncio.gather(dialling, return_exceptions=True)
    if not isinstance(result, BaseException):
        result[1].transport.abort()
    server.close()


@on_every_loop
async def test_tcp_closing_the_stack_listened_on_ends_the_forward(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    path = WAYS["stack-to-host"](hosts)
    running = await path.forward(9)
    hosts.server.close()
    await running.wait_closed()
    assert "no longer listening" in caplog.text


@on_every_loop
async def test_tcp_a_closed_target_stack_resets_clients(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    path = WAYS["host-to-stack"](hosts)
    async with await path.forward(9) as running:
        hosts.server.close()
        reader, writer = await path.dial(running)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
    assert "is closed" in caplog.text


@on_every_loop
async def test_ipv6_addresses_go_in_brackets(hosts: Hosts) -> None:
    server: Any = await streams.start_server(digest, "fd00::1", 80, stack=hosts.server)
    async with await forward(hosts.client, "[fd00::2]:8080", hosts.server, "[fd00::1]:80") as way:
        assert way.sockname[:2] == ("fd00::2", 8080)
        reader, writer = await streams.open_connection("fd00::2", 8080, stack=hosts.server)
        writer.write_eof()
        assert await reader.read() == hashlib.sha256().digest()
        writer.close()
        await writer.wait_closed()
    server.close()


@on_every_loop
async def test_a_port_without_a_host_is_every_address(hosts: Hosts) -> None:
    async with await forward(hosts.server, ":80", "127.0.0.1:9") as running:
        assert len(running.sockets) == 2


@on_every_loop
async def test_what_cannot_be_forwarded_is_refused(hosts: Hosts) -> None:
    stack = hosts.server
    with pytest.raises(TypeError, match="two addresses"):
        await forward("127.0.0.1:80")
    with pytest.raises(TypeError, match="two addresses"):
        await forward("127.0.0.1:80", "127.0.0.1:81", stack)
    with pytest.raises(TypeError, match="followed by an address"):
        await forward(stack, stack, "127.0.0.1:80")
    number: Any = 81
    with pytest.raises(TypeError, match="expected a stack or an address"):
        await forward("127.0.0.1:80", number)
    with pytest.raises(ValueError, match="expected a host and a port"):
        await forward("127.0.0.1:0", stack, "10.0.0.1:0")
    with pytest.raises(ValueError, match="expected 'tcp' or 'udp'"):
        await forward("127.0.0.1:0", stack, "10.0.0.1:1", proto="sctp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="for UDP name the address"):
        await forward(stack, ":53", "127.0.0.1:53", proto="udp")
    for option, value in (("idle_timeout", 0), ("max_clients", 0)):
        bad: Any = {option: value}
        with pytest.raises(ValueError, match=f"{option} 0: expected"):
            await forward(stack, "10.0.0.1:53", "127.0.0.1:53", proto="udp", **bad)
    with pytest.raises(OSError, match="could not bind"):
        await forward(stack, "192.0.2.1:80", "127.0.0.1:80")


hosts_and_ports = st.tuples(
    st.one_of(
        st.none(),
        st.ip_addresses().map(str),
        st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True),
    ),
    st.integers(0, 65535),
)


@given(hosts_and_ports)
def test_addresses_are_read_as_they_are_written(pair: tuple[str | None, int]) -> None:
    host, port = pair
    text = "" if host is None else f"[{host}]" if ":" in host else host
    assert parse_address(f"{text}:{port}") == pair
    assert parse_address(pair) == pair


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
    assert text.endswith(f":{port}") or text.rpartition(":")[2].lstrip("0") in ("", str(port))
    assert host is None or ":" not in host or text.startswith("[")


@pytest.mark.parametrize(
    "text", ["", "80", "host:", "host:port", "::1:80", "host:65536", "host:-1", "h:٣"]
)
def test_bad_addresses_are_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


# UDP.


class Peer(asyncio.DatagramProtocol):
    """A UDP client or server that remembers, and answers with a prefix if it has one."""

    def __init__(self, prefix: bytes | None = None) -> None:
        self.prefix = prefix
        self.received: list[bytes] = []
        self.senders: list[Any] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        self.senders.append(addr)
        if self.prefix is not None:
            self.transport.sendto(self.prefix + data, addr)


async def udp_server(way: Way, port: int = 0) -> tuple[Peer, int]:
    transport, peer = await streams.create_datagram_endpoint(
        lambda: Peer(b"re: "), local_addr=(way.address, port), stack=way.target
    )
    return peer, transport.get_extra_info("socket").getsockname()[1]


async def udp_client(way: Way, running: Forward) -> Peer:
    _, peer = await streams.create_datagram_endpoint(
        Peer, remote_addr=running.sockname[:2], stack=way.client
    )
    return peer


async def end(*peers: Peer) -> None:
    for peer in peers:
        peer.transport.close()
    await turns(3)


@every_way
@on_every_loop
async def test_udp_replies_go_to_who_asked(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    server, port = await udp_server(path)
    async with await path.forward(port, proto="udp") as running:
        clients = [await udp_client(path, running) for _ in range(5)]
        for number, client in enumerate(clients):
            for part in range(3):
                client.transport.sendto(b"%d-%d" % (number, part))
        await until(lambda: all(len(client.received) == 3 for client in clients))
        for number, client in enumerate(clients):
            assert client.received == [b"re: %d-%d" % (number, part) for part in range(3)]
        assert running.connections == 5
        assert len(set(server.senders)) == 5
        await end(*clients)
    assert running.connections == 0
    await end(server)


@on_every_loop
async def test_udp_idle_clients_are_forgotten(hosts: Hosts) -> None:
    path = WAYS["stack-to-stack"](hosts)
    server, port = await udp_server(path)
    async with await path.forward(port, proto="udp", idle_timeout=0.05) as running:
        client = await udp_client(path, running)
        client.transport.sendto(b"one")
        await until(lambda: client.received)
        assert running.connections == 1
        await until(lambda: not running.connections)
        client.transport.sendto(b"two")
        await until(lambda: len(client.received) == 2)
        assert server.senders[0] != server.senders[1]
        await end(client)
    await end(server)


@on_every_loop
async def test_udp_one_client_too_many_displaces_the_idlest(hosts: Hosts) -> None:
    path = WAYS["stack-to-stack"](hosts)
    server, port = await udp_server(path)
    async with await path.forward(port, proto="udp", max_clients=2) as running:
        first, second, third = [await udp_client(path, running) for _ in range(3)]
        for client in (first, second, first, third, first):
            before = len(client.received)
            client.transport.sendto(b"x")
            await until(lambda: len(client.received) > before)  # noqa: B023
            assert running.connections <= 2
        # `second` was displaced, so `first` had one and the same socket throughout.
        assert server.senders[0] == server.senders[2] == server.senders[4]
        await end(first, second, third)
    await end(server)


@pytest.mark.parametrize("way", ["stack-to-stack", "host-to-host", "host-to-stack"])
@on_every_loop
async def test_udp_a_refused_target_is_counted_and_may_come_back(hosts: Hosts, way: str) -> None:
    path = WAYS[way](hosts)
    server, port = await udp_server(path)
    await end(server)
    async with await path.forward(port, proto="udp") as running:
        client = await udp_client(path, running)
        client.transport.sendto(b"nobody")
        await until(lambda: running.errors)  # type: ignore[attr-defined]
        server, _ = await udp_server(path, port)
        client.transport.sendto(b"somebody")
        await until(lambda: client.received)
        assert client.received == [b"re: somebody"]
        await end(client)
    await end(server)


@on_every_loop
async def test_udp_empty_datagrams_are_forwarded_between_stacks(hosts: Hosts) -> None:
    path = WAYS["stack-to-stack"](hosts)
    server, port = await udp_server(path)
    async with await path.forward(port, proto="udp") as running:
        client = await udp_client(path, running)
        client.transport.sendto(b"")
        await until(lambda: client.received)
        assert (server.received, client.received) == ([b""], [b"re: "])
        await end(client)
    await end(server)


@on_every_loop
async def test_udp_what_comes_before_the_socket_is_made_is_bounded(hosts: Hosts) -> None:
    path = WAYS["stack-to-stack"](hosts)
    server, port = await udp_server(path)
    async with await path.forward(port, proto="udp") as running:
        client = await udp_client(path, running)
        state: Any = running
        waiting = state.client(("10.0.0.2", 9999))
        for number in range(100):
            waiting.send(b"%d" % number)
        assert state.dropped == 100 - 64
        await until(lambda: len(server.received) == 64)
        assert server.received == [b"%d" % number for number in range(64)]
        await end(client)
    await end(server)


@on_every_loop
async def test_udp_closing_the_stack_listened_on_ends_the_forward(hosts: Hosts) -> None:
    running = await forward(hosts.server, "10.0.0.1:53", "127.0.0.1:53", proto="udp")
    hosts.server.close()
    await running.wait_closed()
    assert running.sockets == ()


@on_every_loop
async def test_udp_ipv6(hosts: Hosts) -> None:
    path = Way(hosts.server, hosts.client, hosts.client, "[fd00::1]:53", "fd00::2")
    server, port = await udp_server(path)
    running = await forward(
        hosts.server, "[fd00::1]:53", hosts.client, f"[fd00::2]:{port}", proto="udp"
    )
    client = await udp_client(path, running)
    client.transport.sendto(b"six")
    await until(lambda: client.received)
    assert ipaddress.ip_address(server.senders[0][0]).version == 6
    await end(client, server)
    running.close()
    await running.wait_closed()
