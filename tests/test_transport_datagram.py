"""DatagramTransport and create_datagram_endpoint, on every loop."""

from __future__ import annotations

import asyncio
import errno
import io
import socket
from typing import Any
from unittest import mock

import pytest

from transport_helpers import Hosts, Reports, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.transports import DatagramTransport

SERVER = ("10.0.0.1", 53)


class Collector(asyncio.DatagramProtocol):
    """Remembers what came in; answers in capitals when told to."""

    def __init__(self, *, answer: bool = False) -> None:
        self.answer = answer
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.transport: Any = None
        self.paused = 0
        self.resumed = 0
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        if self.answer:
            self.transport.sendto(data.upper(), addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def endpoint(stack: Any, *, answer: bool = False, **options: Any) -> Collector:
    _, protocol = await transports.create_datagram_endpoint(
        asyncio.get_running_loop(), lambda: Collector(answer=answer), stack=stack, **options
    )
    return protocol


async def end(*protocols: Collector) -> None:
    for protocol in protocols:
        protocol.transport.close()
    await asyncio.gather(*(protocol.lost for protocol in protocols))


@on_every_loop
async def test_datagrams_are_answered(hosts: Hosts) -> None:
    server = await endpoint(hosts.server, answer=True, local_addr=SERVER)
    client = await endpoint(hosts.client, remote_addr=SERVER)
    for text in (b"one", b"two", b""):
        client.transport.sendto(text)
    await until(lambda: len(client.received) == 3)
    assert client.received == [(b"ONE", SERVER), (b"TWO", SERVER), (b"", SERVER)]
    assert [data for data, _ in server.received] == [b"one", b"two", b""]
    assert client.transport.get_extra_info("peername") == SERVER
    assert server.transport.get_extra_info("peername") is None
    await end(client, server)


@on_every_loop
async def test_an_unconnected_endpoint_sends_anywhere(hosts: Hosts) -> None:
    server = await endpoint(hosts.server, answer=True, local_addr=SERVER)
    client = await endpoint(hosts.client, family=socket.AF_INET)
    client.transport.sendto(b"x", SERVER)
    await until(lambda: client.received)
    assert client.received == [(b"X", SERVER)]
    await end(client, server)


@on_every_loop
async def test_a_connected_endpoint_sends_to_its_peer_only(hosts: Hosts) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    with pytest.raises(ValueError, match="Invalid address"):
        client.transport.sendto(b"x", ("10.0.0.1", 54))
    with pytest.raises(TypeError, match="bytes-like"):
        client.transport.sendto("text")
    await end(client)


@on_every_loop
async def test_no_file_is_sent_over_datagrams(hosts: Hosts) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    file = io.BytesIO(b"content")
    with pytest.raises(RuntimeError, match="sendfile is not supported"):
        await transports.sendfile(asyncio.get_running_loop(), client.transport, file)
    assert file.tell() == 0
    await end(client)


@on_every_loop
async def test_a_refused_datagram_is_an_error_and_not_the_end(hosts: Hosts) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    client.transport.sendto(b"nobody there")
    await until(lambda: client.errors)
    assert isinstance(client.errors[0], ConnectionRefusedError)
    server = await endpoint(hosts.server, answer=True, local_addr=SERVER)
    client.transport.sendto(b"now")
    await until(lambda: client.received)
    assert client.received == [(b"NOW", SERVER)]
    await end(client, server)


@on_every_loop
async def test_what_cannot_be_sent_at_once_is_queued_under_flow_control(hosts: Hosts) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    server = await endpoint(hosts.server, local_addr=SERVER)
    sock = client.transport._sock
    blocked = True
    real = type(sock).do_send

    def do_send(self: Any, *args: Any) -> int:
        if blocked:
            raise BlockingIOError
        sent: int = real(self, *args)
        return sent

    with mock.patch.object(type(sock), "do_send", do_send):
        client.transport.set_write_buffer_limits(high=100, low=10)
        data = bytearray(b"60 bytes".ljust(60))
        client.transport.sendto(data)
        data[:] = bytes(60)
        assert client.transport.get_write_buffer_size() == 68
        before = client.paused
        client.transport.sendto(b"last".ljust(60))
        assert (before, client.paused) == (0, 1)
        client.transport.close()
        await turns(3)
        assert not client.lost.done()
        blocked = False
        sock.vpoll.add_events(0)
        assert await client.lost is None
        assert client.resumed == 1
    await until(lambda: len(server.received) == 2)
    assert [data.strip() for data, _ in server.received] == [b"60 bytes", b"last"]
    await end(server)


@on_every_loop
async def test_abort_drops_what_is_queued(hosts: Hosts) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    sock = client.transport._sock
    with mock.patch.object(type(sock), "do_send", side_effect=BlockingIOError):
        client.transport.sendto(b"queued")
        client.transport.abort()
        assert await client.lost is None
    client.transport.sendto(b"after the end")


@pytest.mark.parametrize("where", ["receive", "send"])
@on_every_loop
async def test_closing_the_stack_ends_the_endpoint(hosts: Hosts, where: str) -> None:
    client = await endpoint(hosts.client, remote_addr=SERVER)
    hosts.client.close()
    if where == "send":
        client.transport.sendto(b"x")
    lost = await client.lost
    assert isinstance(lost, OSError)
    assert lost.errno == errno.ENETDOWN


@on_every_loop
async def test_a_shut_down_socket_does_not_spin(hosts: Hosts) -> None:
    original = DatagramTransport._ready
    with mock.patch.object(DatagramTransport, "_ready", autospec=True) as ready:
        ready.side_effect = original
        server = await endpoint(hosts.server, local_addr=SERVER)
        client = await endpoint(hosts.client, remote_addr=SERVER)
        client.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        await turns(10)
        seen = ready.call_count
        await turns(100)
        assert ready.call_count == seen
        assert not client.received
        await end(client, server)


@on_every_loop
async def test_an_exception_of_the_protocol_is_reported_and_not_the_end(
    hosts: Hosts, reports: Reports
) -> None:
    server = await endpoint(hosts.server, local_addr=SERVER)
    client = await endpoint(hosts.client, remote_addr=SERVER)
    with mock.patch.object(server, "datagram_received", side_effect=ZeroDivisionError):
        client.transport.sendto(b"bad")
        await until(lambda: reports)
    assert isinstance(reports.pop()["exception"], ZeroDivisionError)
    client.transport.sendto(b"good")
    await until(lambda: server.received)
    await end(client, server)


@on_every_loop
async def test_a_flood_does_not_keep_the_loop_to_itself(hosts: Hosts) -> None:
    server = await endpoint(hosts.server, local_addr=SERVER)
    client = await endpoint(hosts.client, remote_addr=SERVER)
    server.transport.pause_reading()
    for _ in range(200):
        client.transport.sendto(b"x")
    server.transport.resume_reading()
    steps = []
    while len(server.received) < 200:
        before = len(server.received)
        await asyncio.sleep(0)
        steps.append(len(server.received) - before)
    assert max(steps) <= 16
    await end(client, server)


@on_every_loop
async def test_both_families_and_both_ends(hosts: Hosts) -> None:
    server = await endpoint(hosts.server, answer=True, local_addr=("fd00::1", 53))
    client = await endpoint(
        hosts.client, local_addr=("fd00::2", 5353), remote_addr=("server.test", 53)
    )
    assert client.transport.get_extra_info("sockname")[:2] == ("fd00::2", 5353)
    client.transport.sendto(b"six")
    await until(lambda: client.received)
    await end(client, server)
    with pytest.raises(ValueError, match="address information"):
        await endpoint(hosts.client, local_addr=("10.0.0.2", 0), remote_addr=("fd00::1", 53))


@on_every_loop
async def test_a_socket_is_taken_over(hosts: Hosts) -> None:
    sock = hosts.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(ValueError, match=r"remote_addr=\('10.0.0.1', 53\)"):
        await endpoint(None, sock=sock, remote_addr=SERVER)
    client = await endpoint(None, sock=sock)
    await end(client)
    with hosts.client.socket() as stream, pytest.raises(ValueError, match="datagram socket"):
        await endpoint(None, sock=stream)


@on_every_loop
async def test_bad_arguments_are_refused(hosts: Hosts) -> None:
    with pytest.raises(ValueError, match="unexpected address family"):
        await endpoint(hosts.client)
    with pytest.raises(TypeError, match="2-tuple"):
        await endpoint(hosts.client, local_addr="10.0.0.2")
    with pytest.raises(ValueError, match="needs a stack"):
        await endpoint(None, local_addr=SERVER)
    with pytest.raises(OSError) as caught:
        await endpoint(hosts.client, local_addr=("192.0.2.1", 1))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    server = await endpoint(hosts.server, local_addr=SERVER)
    with pytest.raises(OSError) as caught:
        await endpoint(hosts.server, local_addr=SERVER)
    assert caught.value.errno == errno.EADDRINUSE
    await end(server)


@pytest.mark.parametrize("allowed", [False, True])
@on_every_loop
async def test_a_broadcast_needs_leave(hosts: Hosts, allowed: bool) -> None:
    receiver = await endpoint(hosts.server, local_addr=("0.0.0.0", 53))
    sender = await endpoint(
        hosts.client, local_addr=("10.0.0.2", 0), allow_broadcast=allowed or None
    )
    sender.transport.sendto(b"anybody?", ("10.0.0.255", 53))
    if allowed:
        await until(lambda: receiver.received)
        assert receiver.received == [(b"anybody?", sender.transport.get_extra_info("sockname"))]
    else:
        await until(lambda: sender.errors)
        assert isinstance(sender.errors[0], PermissionError)
    await end(receiver, sender)


@on_every_loop
async def test_a_broadcast_address_is_a_peer_when_allowed(hosts: Hosts) -> None:
    """Answers come from other addresses: the socket is not connected."""
    receiver = await endpoint(hosts.server, local_addr=("0.0.0.0", 53), answer=True)
    sender = await endpoint(hosts.client, remote_addr=("10.0.0.255", 53), allow_broadcast=True)
    assert sender.transport.get_extra_info("peername") is None
    sender.transport.sendto(b"anybody?")
    await until(lambda: sender.received)
    assert sender.received == [(b"ANYBODY?", ("10.0.0.1", 53))]
    await end(receiver, sender)


@on_every_loop
async def test_two_endpoints_share_a_port_when_asked(hosts: Hosts) -> None:
    first = await endpoint(hosts.server, local_addr=SERVER, reuse_port=True)
    second = await endpoint(hosts.server, local_addr=SERVER, reuse_port=True)
    with pytest.raises(OSError, match="in use"):
        await endpoint(hosts.server, local_addr=SERVER)
    await end(first, second)


@on_every_loop
async def test_the_scope_of_a_link_local_address_is_kept(hosts: Hosts) -> None:
    with open_stack("memory", ip="fe80::1/64") as stack:
        server = await endpoint(stack, local_addr=("fe80::1", 53, 0, 2), answer=True)
        client = await endpoint(stack, remote_addr=("fe80::1%2", 53))
        assert server.transport.get_extra_info("sockname") == ("fe80::1", 53, 0, 2)
        assert client.transport.get_extra_info("peername") == ("fe80::1", 53, 0, 2)
        client.transport.sendto(b"a")
        await until(lambda: client.received)
        assert client.received == [(b"A", ("fe80::1", 53, 0, 2))]
        await end(server, client)
