"""How a connection of StreamTransport ends: closed, aborted, reset or with its stack."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import random
import socket
import struct
import warnings
import weakref
from typing import cast
from unittest import mock

import pytest

from transport_helpers import Hosts, Recorder, Reports, connect, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.transports import StreamTransport

MEGABYTE = 1 << 20


@on_every_loop
async def test_half_close_lets_the_other_direction_go_on(hosts: Hosts) -> None:
    pair = await connect(hosts, lambda: Recorder(keep_open=True), lambda: Recorder(keep_open=True))
    client, server = pair.connected.transport, pair.accepted.transport
    assert client.can_write_eof()
    client.write(b"x" * MEGABYTE)
    client.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        client.write(b"more")
    await pair.accepted.eof
    assert len(pair.accepted.data) == MEGABYTE
    server.write(b"answer")
    server.write_eof()
    await pair.connected.eof
    assert bytes(pair.connected.data) == b"answer"
    assert not pair.connected.lost.done()
    await pair.finish()


@on_every_loop
async def test_end_of_stream_closes_when_the_protocol_says_so(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.connected.transport.write(b"last")
    pair.connected.transport.close()
    assert await pair.accepted.lost is None
    assert await pair.connected.lost is None
    assert pair.accepted.events == ["made", "data", "eof", "lost"]
    assert pair.connected.events == ["made", "lost"]
    await pair.finish()


@on_every_loop
async def test_close_sends_what_is_buffered(hosts: Hosts) -> None:
    pair = await connect(hosts)
    data = random.Random(5).randbytes(2 * MEGABYTE)
    pair.accepted.transport.pause_reading()
    pair.connected.transport.write(data)
    pair.connected.transport.close()
    assert pair.connected.transport.is_closing()
    await turns(20)
    assert not pair.connected.lost.done()
    pair.accepted.transport.resume_reading()
    assert await pair.connected.lost is None
    await pair.accepted.lost
    assert pair.accepted.data == data
    await pair.finish()


@on_every_loop
async def test_abort_discards_what_is_buffered(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.accepted.transport.pause_reading()
    pair.connected.transport.write(bytes(2 * MEGABYTE))
    pair.connected.transport.abort()
    assert await pair.connected.lost is None
    pair.accepted.transport.resume_reading()
    await pair.accepted.lost
    assert len(pair.accepted.data) < 2 * MEGABYTE
    await pair.finish()


@on_every_loop
async def test_a_reset_is_told_to_the_protocol(hosts: Hosts) -> None:
    pair = await connect(hosts)
    linger = struct.pack("ii", 1, 0)
    sock = pair.connected.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    pair.connected.transport.abort()
    assert isinstance(await pair.accepted.lost, ConnectionResetError)
    assert pair.accepted.events == ["made", "lost"]
    await pair.finish()


@on_every_loop
async def test_a_reset_after_the_end_of_stream_is_told_too(hosts: Hosts) -> None:
    pair = await connect(hosts, lambda: Recorder(keep_open=True))
    pair.connected.transport.write_eof()
    await pair.accepted.eof
    sock = pair.connected.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.connected.transport.abort()
    assert isinstance(await pair.accepted.lost, ConnectionError)
    await pair.finish()


@on_every_loop
async def test_writing_to_a_lost_connection_is_counted_and_warned_of(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await connect(hosts)
    pair.connected.transport.abort()
    with caplog.at_level(logging.WARNING, "asyncio"):
        for _ in range(5):
            pair.connected.transport.write(b"x")
        assert "socket.send() raised exception." in caplog.text
    await pair.finish()


@on_every_loop
async def test_write_refuses_what_is_no_bytes(hosts: Hosts) -> None:
    pair = await connect(hosts)
    for bad in ("text", 5, None, [1]):
        with pytest.raises(TypeError, match="bytes-like"):
            pair.connected.transport.write(bad)
    pair.connected.transport.write(b"")
    await turns(5)
    assert pair.accepted.events == ["made"]
    await pair.finish()


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
@on_every_loop
async def test_an_exception_of_the_protocol_ends_the_connection(
    hosts: Hosts, reports: Reports, method: str
) -> None:
    pair = await connect(hosts)
    error = ZeroDivisionError("on purpose")
    setattr(pair.accepted, method, mock.Mock(side_effect=error))
    pair.connected.transport.write(b"data")
    pair.connected.transport.write_eof()
    assert await pair.accepted.lost is error
    report = reports.pop()
    assert report["message"] == f"Fatal error: protocol.{method}() call failed."
    assert report["exception"] is error
    assert report["protocol"] is pair.accepted
    await pair.finish()


@on_every_loop
async def test_a_hung_up_connection_that_is_kept_open_does_not_spin(hosts: Hosts) -> None:
    with mock.patch.object(StreamTransport, "_ready", autospec=True) as ready:
        ready.side_effect = original_ready
        pair = await connect(
            hosts, lambda: Recorder(keep_open=True), lambda: Recorder(keep_open=True)
        )
        # Both directions shut: the kernel's mask is IN, OUT, HUP and RDHUP for ever.
        pair.accepted.transport.write_eof()
        pair.connected.transport.write_eof()
        await asyncio.gather(pair.accepted.eof, pair.connected.eof)
        await turns(20)
        seen = ready.call_count
        await turns(200)
        assert ready.call_count == seen
        assert not pair.accepted.lost.done()
        await pair.finish()


@on_every_loop
async def test_a_reset_while_reading_is_paused_does_not_spin(hosts: Hosts) -> None:
    with mock.patch.object(StreamTransport, "_ready", autospec=True) as ready:
        ready.side_effect = original_ready
        pair = await connect(hosts)
        pair.connected.transport.write(b"before the reset")
        pair.accepted.transport.pause_reading()
        sock = pair.connected.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.connected.transport.abort()
        await turns(20)
        seen = ready.call_count
        await turns(200)
        assert ready.call_count == seen
        pair.accepted.transport.resume_reading()
        await pair.accepted.lost
        await pair.finish()


original_ready = StreamTransport._ready


@pytest.mark.parametrize("reading", [True, False])
@on_every_loop
async def test_closing_the_stack_ends_its_connections(
    hosts: Hosts, reports: Reports, reading: bool
) -> None:
    pair = await connect(hosts)
    if not reading:
        pair.connected.transport.pause_reading()
    hosts.client.close()
    lost = await pair.connected.lost
    assert isinstance(lost, OSError)
    assert lost.errno == errno.ENETDOWN
    await pair.accepted.lost
    await pair.finish()


@on_every_loop
async def test_closing_the_socket_under_the_transport_ends_it(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    pair = await connect(hosts)
    sock = cast(UserSocket, hosts.client.socket())
    sock.setblocking(False)
    await transports.sockops.sock_connect(loop, sock, ("10.0.0.1", 80))
    _, protocol = await transports.create_connection(loop, Recorder, sock=sock)
    sock.close()
    lost = await protocol.lost
    assert isinstance(lost, OSError)
    assert lost.errno == errno.EBADF
    await until(lambda: pair.server._clients == 1)
    await pair.finish()


@on_every_loop
async def test_a_connection_nobody_refers_to_stays_alive(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[bool] = loop.create_future()

    class Alone(asyncio.Protocol):
        def connection_lost(self, exc: BaseException | None) -> None:
            lost.set_result(True)

    server = await transports.create_server(loop, Alone, "10.0.0.1", 80, stack=hosts.server)
    client, _ = await transports.create_connection(
        loop, asyncio.Protocol, "10.0.0.1", 80, stack=hosts.client
    )
    await turns(5)
    gc.collect()
    await turns(5)
    assert not lost.done()
    client.close()
    assert await lost
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_a_closed_connection_frees_its_protocol_without_garbage(hosts: Hosts) -> None:
    pair = await connect(hosts)
    transport = pair.connected.transport
    transport.close()
    await pair.finish()
    protocol = weakref.ref(pair.connected)
    gc.disable()
    try:
        del pair
        await turns(3)
        assert protocol() is None
    finally:
        gc.enable()
    assert transport.is_closing()


class Silent(asyncio.Protocol):
    """Keeps no reference to anything."""


def test_an_abandoned_transport_is_warned_of_when_its_loop_is_closed() -> None:
    hosts = Hosts()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await transports.create_server(loop, Silent, "10.0.0.1", 80, stack=hosts.server)
        await transports.create_connection(loop, Silent, "10.0.0.1", 80, stack=hosts.client)
        await turns(5)
        server.close()

    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(main())
    loop.close()
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transports.release(loop)
        gc.collect()
    messages = [str(warning.message) for warning in caught]
    # Both ends; their sockets may be collected first, and then warn too.
    assert len([text for text in messages if "unclosed transport" in text]) == 2
    hosts.close()
