"""StreamTransport behaves as asyncio's own transport does, on every loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import io
import itertools
import logging
import math
import random
import socket
import struct
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import pytest

from transport_helpers import Hosts, Recorder, Reports, connect, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.hot.relay import HOPS
from vpoll_asyncio.hot.stream import StreamIO
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.base import activated
from vpoll_asyncio.transports import StreamTransport

MEGABYTE = 1 << 20


class Buffered(asyncio.BufferedProtocol):
    """Receives into a small buffer of its own."""

    def __init__(self, size: int = 1000) -> None:
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Hashing(Recorder):
    """Keeps a digest of what it receives instead of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self.count = 0

    def data_received(self, data: bytes) -> None:
        self.digest.update(data)
        self.count += len(data)


@on_every_loop
async def test_a_large_transfer_arrives_intact_with_bounded_buffers(hosts: Hosts) -> None:
    pair = await connect(hosts, Hashing, Hashing)
    sender, receiver = pair.connected, pair.accepted
    block = random.Random(1).randbytes(100_003)
    digest = hashlib.sha256()
    largest = 0
    for _ in range(300):
        sender.transport.write(block)
        digest.update(block)
        largest = max(largest, sender.transport.get_write_buffer_size())
        await until(lambda: not sender.paused)
    sender.transport.close()
    await asyncio.gather(sender.lost, receiver.lost)
    assert receiver.count == 300 * len(block)
    assert receiver.digest.digest() == digest.digest()
    assert largest <= 64 * 1024 + len(block)
    await pair.finish()


@on_every_loop
@pytest.mark.parametrize("size", [100, 20_000])
async def test_a_socket_that_is_closed_in_data_received_is_lost(hosts: Hosts, size: int) -> None:
    with hosts.server.socket() as listener, hosts.client.socket() as client:
        listener.bind(("10.0.0.1", 80))
        listener.listen()
        client.connect(("10.0.0.1", 80))
        server, _ = listener.accept()

        class Closing(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                client.close()

        with server:
            for _ in range(4):
                server.send(bytes(size))
            loop = asyncio.get_running_loop()
            _, protocol = await transports.create_connection(loop, Closing, sock=client)
            lost = await protocol.lost
    assert isinstance(lost, OSError)
    assert lost.errno == errno.EBADF
    assert protocol.events == ["made", "data", "lost"]


@on_every_loop
async def test_both_directions_carry_data_at_once(hosts: Hosts) -> None:
    pair = await connect(hosts, Hashing, Hashing)
    data = random.Random(2).randbytes(3 * MEGABYTE)
    for end in (pair.accepted, pair.connected):
        end.transport.write(data)
    await until(lambda: pair.accepted.count == pair.connected.count == len(data))
    expected = hashlib.sha256(data).digest()
    assert pair.accepted.digest.digest() == pair.connected.digest.digest() == expected
    await pair.finish()


@on_every_loop
async def test_many_small_writes_stay_in_order(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.accepted.transport.pause_reading()
    pieces = [b"%d," % number for number in range(200_000)]
    for piece in pieces:
        pair.connected.transport.write(piece)
    expected = b"".join(pieces)
    assert pair.connected.transport.get_write_buffer_size() > 0
    pair.accepted.transport.resume_reading()
    await until(lambda: len(pair.accepted.data) >= len(expected))
    assert pair.accepted.data == expected
    assert pair.connected.transport.get_write_buffer_size() == 0
    await pair.finish()


@on_every_loop
async def test_buffered_protocol_receives_into_its_buffer(hosts: Hosts) -> None:
    pair = await connect(hosts, Buffered)
    data = random.Random(3).randbytes(50_000)
    pair.connected.transport.write(data)
    await until(lambda: len(pair.accepted.data) == len(data))
    assert pair.accepted.data == data
    await pair.finish()


@on_every_loop
async def test_protocols_are_switched_while_connected(hosts: Hosts) -> None:
    pair = await connect(hosts)
    second = Buffered()
    pair.accepted.transport.set_protocol(second)
    assert pair.accepted.transport.get_protocol() is second
    pair.connected.transport.write(b"for the second")
    await until(lambda: second.data)
    assert (bytes(second.data), bytes(pair.accepted.data)) == (b"for the second", b"")
    pair.accepted.transport.set_protocol(pair.accepted)
    await pair.finish()


@on_every_loop
async def test_paused_reading_holds_the_sender_back(hosts: Hosts) -> None:
    pair = await connect(hosts)
    sender, receiver = pair.connected, pair.accepted
    receiver.transport.pause_reading()
    assert not receiver.transport.is_reading()
    data = bytes(8 * MEGABYTE)
    sender.transport.write(data)
    await turns(50)
    assert sender.paused
    assert not receiver.data
    assert len(data) > sender.transport.get_write_buffer_size() > 64 * 1024
    receiver.transport.resume_reading()
    await until(lambda: len(receiver.data) == len(data))
    assert not sender.paused
    await pair.finish()


@on_every_loop
async def test_write_buffer_limits_say_when_to_pause(hosts: Hosts) -> None:
    pair = await connect(hosts)
    transport = pair.connected.transport
    pair.accepted.transport.pause_reading()
    transport.set_write_buffer_limits(high=1000, low=10)
    assert transport.get_write_buffer_limits() == (10, 1000)
    while not transport.get_write_buffer_size():
        transport.write(bytes(65536))
    transport.write(bytes(1001))
    assert pair.connected.paused
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)
    await pair.finish()


@on_every_loop
async def test_write_buffer_limits_may_be_out_of_reach(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.accepted.transport.pause_reading()
    pair.connected.transport.set_write_buffer_limits(high=math.inf, low=0)
    pair.connected.transport.write(bytes(MEGABYTE))
    pair.connected.transport.write(bytes(MEGABYTE))
    assert not pair.connected.paused
    await pair.finish()


@on_every_loop
async def test_blocks_of_any_size_arrive_in_order(hosts: Hosts) -> None:
    pair = await connect(hosts)
    block = random.Random(7).randbytes(300_000)
    sizes = itertools.cycle([1, 70_000, 16_384, 300_000, 10, 262_144, 65_537])
    expected = bytearray()
    while len(expected) < 6 * MEGABYTE:
        part = block[: next(sizes)]
        pair.connected.transport.write(part)
        expected += part
        if pair.connected.paused:
            await until(lambda: not pair.connected.paused)
    await until(lambda: len(pair.accepted.data) == len(expected))
    assert pair.accepted.data == expected
    await pair.finish()


@on_every_loop
async def test_a_mutable_buffer_may_be_changed_right_after_the_write(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.accepted.transport.pause_reading()
    original = random.Random(4).randbytes(4 * MEGABYTE)
    data = bytearray(original)
    pair.connected.transport.write(memoryview(data))
    pair.connected.transport.write(data)
    data[:] = bytes(len(data))
    pair.accepted.transport.resume_reading()
    await until(lambda: len(pair.accepted.data) == 2 * len(original))
    assert pair.accepted.data == original * 2
    await pair.finish()


@on_every_loop
async def test_writelines_sends_the_concatenation(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.connected.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three")])
    await until(lambda: len(pair.accepted.data) == 13)
    assert pair.accepted.data == b"one two three"
    await pair.finish()


@on_every_loop
async def test_a_view_of_wide_items_is_sent_as_bytes(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.connected.transport.write(memoryview(struct.pack("4I", 1, 2, 3, 4)).cast("I"))
    await until(lambda: len(pair.accepted.data) == 16)
    assert pair.accepted.data == struct.pack("4I", 1, 2, 3, 4)
    await pair.finish()


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
async def test_an_empty_buffer_of_the_protocol_is_an_error(hosts: Hosts, reports: Reports) -> None:
    pair = await connect(hosts, lambda: Buffered(0))
    pair.connected.transport.write(b"data")
    assert isinstance(await pair.accepted.lost, RuntimeError)
    assert reports.pop()["message"] == "Fatal error: protocol.get_buffer() call failed."
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
async def test_extra_info_tells_the_addresses_and_the_socket(hosts: Hosts) -> None:
    pair = await connect(hosts)
    server, client = pair.accepted.transport, pair.connected.transport
    assert server.get_extra_info("sockname") == ("10.0.0.1", 80)
    assert server.get_extra_info("peername") == client.get_extra_info("sockname")
    assert client.get_extra_info("peername") == ("10.0.0.1", 80)
    sock = client.get_extra_info("socket")
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert sock.getpeername() == ("10.0.0.1", 80)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert "10.0.0.1" in repr(sock)
    assert not hasattr(sock, "recv")
    assert client.get_extra_info("nothing", "default") == "default"
    await pair.finish()


@on_every_loop
async def test_callbacks_run_in_the_context_of_the_connection(hosts: Hosts) -> None:
    seen: list[Any] = []

    class Looking(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            seen.append(activated.get())

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            seen.append(activated.get())

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            seen.append(activated.get())

    pair = await connect(hosts, Looking)
    pair.connected.transport.write(b"x")
    pair.connected.transport.close()
    await pair.accepted.lost
    assert seen == [hosts.server] * 3
    assert activated.get() is None
    await pair.finish()


@on_every_loop
async def test_a_flood_does_not_keep_the_loop_to_itself(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    pair = await connect(hosts, Hashing)
    flood = bytes(64 * MEGABYTE)
    received = []

    def tick() -> None:
        received.append(pair.accepted.count)
        if pair.accepted.count < len(flood):
            loop.call_soon(tick)

    pair.connected.transport.write(flood)
    loop.call_soon(tick)
    await until(lambda: received and received[-1] == len(flood))
    steps = [after - before for before, after in itertools.pairwise(received)]
    # One turn carries so many hops, not the whole.
    assert max(steps) <= HOPS * StreamTransport.max_size
    await pair.finish()


@on_every_loop
async def test_resume_writing_may_write_close_or_abort(hosts: Hosts) -> None:
    class Refilling(Recorder):
        rounds = 3

        def resume_writing(self) -> None:
            super().resume_writing()
            self.rounds -= 1
            if self.rounds:
                self.transport.write(bytes(MEGABYTE))
            else:
                self.transport.close()

    pair = await connect(hosts, Hashing, Refilling)
    pair.connected.transport.write(bytes(8 * MEGABYTE))
    assert await pair.connected.lost is None
    await pair.accepted.lost
    assert pair.accepted.count == 10 * MEGABYTE
    await pair.finish()


@on_every_loop
async def test_sendfile_goes_through_the_transport(hosts: Hosts, tmp_path: Any) -> None:
    loop = asyncio.get_running_loop()
    data = random.Random(6).randbytes(3 * MEGABYTE)
    (tmp_path / "file").write_bytes(data)
    pair = await connect(hosts)
    transport = pair.connected.transport
    transport.write(b"head")
    with (tmp_path / "file").open("rb") as file:
        assert await transports.sendfile(loop, transport, file, 1000, 2 * MEGABYTE) == 2 * MEGABYTE
        assert file.tell() == 1000 + 2 * MEGABYTE
        with pytest.raises(asyncio.SendfileNotAvailableError, match="fallback is disabled"):
            await transports.sendfile(loop, transport, file, fallback=False)
    transport.write(b"tail")
    transport.close()
    with pytest.raises(RuntimeError, match="closing"):
        await transports.sendfile(loop, transport, io.BytesIO(data))
    await pair.accepted.lost
    assert pair.accepted.data == b"head" + data[1000 : 1000 + 2 * MEGABYTE] + b"tail"
    await pair.finish()


@contextlib.contextmanager
def not_running() -> Iterator[None]:
    """Let the loop's thread see no running loop, as between two run_until_complete()."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


@on_every_loop
async def test_nobody_writes_into_a_file_that_is_being_sent(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    data = random.Random(7).randbytes(3 * MEGABYTE)
    pair = await connect(hosts)
    transport = pair.connected.transport
    sending = asyncio.create_task(transports.sendfile(loop, transport, io.BytesIO(data)))
    await until(lambda: pair.accepted.data)
    assert not sending.done()
    with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
        transport.write(b"between")
    with not_running(), pytest.raises(RuntimeError, match="unable to write; sendfile is in"):
        transport.write(b"between")
    with pytest.raises(RuntimeError, match="unable to writelines; sendfile is in progress"):
        transport.writelines([b"between"])
    with pytest.raises(RuntimeError, match="already in progress"):
        await transports.sendfile(loop, transport, io.BytesIO(data))
    assert await sending == len(data)
    transport.write(b"tail")
    transport.close()
    await pair.accepted.lost
    assert pair.accepted.data == data + b"tail"
    await pair.finish()


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


def test_a_stack_that_sends_less_than_nothing_is_told_so() -> None:
    raised: list[BaseException] = []

    class Owner:
        def write_raised(self, data: bytes, exc: BaseException) -> None:
            raised.append(exc)

        def flush_raised(self, exc: BaseException, mask: int) -> None:
            raised.append(exc)

        def waits(self) -> None: ...

        def is_full(self) -> bool:
            return False

    stream = StreamIO(cast(Any, Owner()), lambda *given: -1, lambda size: b"", 100, 100)
    stream.open = stream.direct = True
    stream.write(b"data")
    stream.keep(b"data")
    stream.flush(4)
    assert [type(each) for each in raised] == [ValueError, ValueError]
