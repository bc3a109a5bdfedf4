"""StreamTransport behaves as asyncio's own transport does, on every loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import itertools
import math
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest

from transport_helpers import Hosts, Recorder, Reports, connect, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.hot.relay import HOPS
from vpoll_asyncio.hot.stream import StreamIO
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
async def test_an_empty_buffer_of_the_protocol_is_an_error(hosts: Hosts, reports: Reports) -> None:
    pair = await connect(hosts, lambda: Buffered(0))
    pair.connected.transport.write(b"data")
    assert isinstance(await pair.accepted.lost, RuntimeError)
    assert reports.pop()["message"] == "Fatal error: protocol.get_buffer() call failed."
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
