"""PacketLink: bare IP packets out by a function and in by a method, or by asyncio."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from link_helpers import PATIENCE, is_ready, packets, receive, send_all, wait_link
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import PacketLink
from vpoll_asyncio.links.packet import PacketProtocol


@pytest.fixture
def sent() -> list[bytes]:
    return []


@pytest.fixture
def link(sent: list[bytes]) -> Iterator[PacketLink]:
    with PacketLink(sent.append, queue=16) as opened:
        yield opened


def test_packets_go_out_by_the_function_in_order(link: PacketLink, sent: list[bytes]) -> None:
    assert link.medium == "ip"
    assert link.send_batch(packets(20)) == 20
    assert sent == packets(20)


def test_packets_come_in_by_receive(link: PacketLink) -> None:
    assert not is_ready(link, EventMask.IN)
    assert link.receive(packets(2)[0]) is True
    assert link.receive_batch(packets(2)[1:]) == 1
    assert is_ready(link, EventMask.IN)
    assert link.recv_batch(limit=1) == packets(1)
    assert is_ready(link, EventMask.IN)
    assert link.recv_batch() == packets(2)[1:]
    assert not is_ready(link, EventMask.IN)


def test_a_batch_is_one_wake_up(link: PacketLink) -> None:
    seen: list[int] = []
    link.pollable.add_waiter(seen.append)
    link.receive_batch(packets(10))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_copied(link: PacketLink, kind: Callable[[bytearray], Any]) -> None:
    source = bytearray(packets(1)[0])
    link.receive(kind(source))
    source[0] = 0
    [got] = link.recv_batch()
    assert type(got) is bytes
    assert got == packets(1)[0]


@given(st.binary(max_size=1400), st.integers(1280, 1350))
def test_only_what_may_be_a_packet_passes_either_way(data: bytes, mtu: int) -> None:
    header = {4: 20, 6: 40}.get(data[0] >> 4 if data else 0)
    good = header is not None and header <= len(data) <= mtu
    sent: list[bytes] = []
    with PacketLink(sent.append, mtu=mtu) as link:
        assert link.receive(data) is good
        assert link.recv_batch() == ([data] if good else [])
        assert link.send_batch([data]) == 1
        assert sent == ([data] if good else [])
        assert link.dropped == (0 if good else 2)
        assert link.errors == 0


@pytest.mark.parametrize(("version", "size"), [(4, 20), (4, 1500), (6, 40), (6, 1500)])
def test_the_shortest_and_the_longest_packet_pass(
    link: PacketLink, version: int, size: int
) -> None:
    [packet] = packets(1, version=version, size=size)
    assert link.receive(packet)
    assert not link.receive(packet + b"x" * (1501 - size))
    assert link.dropped == 1


def test_a_full_queue_drops_and_counts(link: PacketLink) -> None:
    assert link.receive_batch(packets(20)) == 16
    assert link.dropped == 4
    assert link.receive(packets(1)[0]) is False
    assert link.recv_batch() == packets(16)
    assert link.receive(packets(1)[0]) is True


def refuse_by_false(packet: bytes) -> object:
    return False


def refuse_by_raising(packet: bytes) -> object:
    raise BlockingIOError(errno.EAGAIN, "full")


@pytest.mark.parametrize("refusal", [refuse_by_false, refuse_by_raising])
def test_a_refused_packet_stays_with_the_stack(refusal: Callable[[bytes], object]) -> None:
    sent: list[bytes] = []
    room = 3

    def send(packet: bytes) -> object:
        if len(sent) == room:
            return refusal(packet)
        sent.append(packet)
        return None

    with PacketLink(send) as link:
        assert link.send_batch(packets(10)) == 3
        assert not is_ready(link, EventMask.OUT)
        assert link.send_batch(packets(10)[3:]) == 0
        room = 10
        assert link.send_batch(packets(10)[3:]) == 0
        link.resume()
        assert is_ready(link, EventMask.OUT)
        assert link.send_batch(packets(10)[3:]) == 7
        assert sent == packets(10)
        assert link.dropped == link.errors == 0


def test_a_resume_during_the_refusal_is_not_lost() -> None:
    sent: list[bytes] = []
    refusals = 1

    def send(packet: bytes) -> object:
        nonlocal refusals
        if refusals:
            refusals -= 1
            # As another thread's would, between the refusal and its being noticed.
            own.resume()
            return False
        sent.append(packet)
        return True

    with PacketLink(send) as own:
        send_all(own, packets(2))
        assert sent == packets(2)


@pytest.mark.parametrize("answer", [None, True, 0, 60, b"", []])
def test_only_false_itself_is_a_refusal(answer: object) -> None:
    with PacketLink(lambda packet: answer) as link:
        assert link.send_batch(packets(2)) == 2


def test_an_exception_costs_its_packet_only(
    sent: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    def send(packet: bytes) -> None:
        if packet[4] % 2:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the tunnel's peer refuses")
        sent.append(packet)

    with PacketLink(send) as link, caplog.at_level(logging.ERROR):
        assert link.send_batch(packets(10)) == 10
        assert sent == packets(10)[::2]
        assert (link.errors, link.dropped) == (5, 5)
        assert isinstance(link.last_error, ConnectionRefusedError)
        assert is_ready(link, EventMask.OUT)
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.args[1] for record in logged if isinstance(record.args, tuple)] == [1, 2, 4]


def test_on_error_gets_every_exception(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Exception] = []

    def send(packet: bytes) -> None:
        raise RuntimeError(packet[4])

    with PacketLink(send, on_error=seen.append) as link:
        assert link.send_batch(packets(5)) == 5
    assert [error.args[0] for error in seen] == [0, 1, 2, 3, 4]
    assert not caplog.records


def test_an_on_error_that_fails_is_logged_with_the_error_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def send(packet: bytes) -> None:
        raise RuntimeError("first")

    def on_error(error: Exception) -> None:
        raise LookupError("second")

    with PacketLink(send, on_error=on_error) as link:
        assert link.send_batch(packets(1)) == 1
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        LookupError,
        RuntimeError,
    ]


def test_ctrl_c_in_the_function_goes_through() -> None:
    def send(packet: bytes) -> None:
        raise KeyboardInterrupt

    with PacketLink(send) as link:
        with pytest.raises(KeyboardInterrupt):
            link.send_batch(packets(1))
        assert link.errors == 0


def test_a_function_may_answer_by_receiving() -> None:
    def send(packet: bytes) -> None:
        own.receive(packet)

    with PacketLink(send) as own:
        own.send_batch(packets(5))
        assert own.recv_batch() == packets(5)


def test_a_function_may_close_the_link() -> None:
    own = PacketLink(lambda packet: own.close())
    assert own.send_batch(packets(5)) == 1
    assert own.closed


def test_threads_may_receive_and_resume(sent: list[bytes]) -> None:
    with PacketLink(sent.append, queue=4000) as link:
        link.pause()

        def tunnel(version: int) -> None:
            for packet in packets(500, version=version):
                assert link.receive(packet)
            link.resume()

        threads = [threading.Thread(target=tunnel, args=(v,)) for v in (4, 6, 4, 6)]
        for thread in threads:
            thread.start()
        got = receive(link, 2000)
        for thread in threads:
            thread.join()
        assert sorted(got) == sorted(packets(500, version=4) * 2 + packets(500) * 2)
        wait_link(link, EventMask.OUT)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mtu": 1279}, "1280 to 65535"), ({"mtu": 65536}, "1280 to"), ({"queue": 0}, "at least")],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PacketLink(print, **options)


def test_a_coroutine_function_is_refused() -> None:
    async def send(packet: bytes) -> None:
        await asyncio.sleep(0)

    with pytest.raises(TypeError, match="plain function"):
        PacketLink(send)


def test_a_closed_link_says_ebadf_and_flow_control_is_ignored(link: PacketLink) -> None:
    link.close()
    link.close()
    link.pause()
    link.resume()
    for use in (
        lambda: link.pollable,
        link.recv_batch,
        lambda: link.send_batch([]),
        lambda: link.receive(b""),
        link.protocol,
    ):
        with pytest.raises(OSError, match="is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF


LOOPS: list[Any] = [asyncio.new_event_loop]
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS.append(uvloop.new_event_loop)
    # libuv makes its signal pipe with the process's first loop, and keeps it.
    uvloop.new_event_loop().close()


def run(factory: Callable[[], asyncio.AbstractEventLoop], main: Any) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def connected(link: PacketLink) -> tuple[socket.socket, asyncio.DatagramTransport]:
    """Give `link` a UDP endpoint; return the socket at its other end."""
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    far.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(link.protocol, remote_addr=far.getsockname())
    far.connect(transport.get_extra_info("sockname"))
    return far, transport


async def until(state: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if state():
                return
            await asyncio.sleep(0)


async def take(far: socket.socket, count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        return [await loop.sock_recv(far, 65535) for _ in range(count)]


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("factory", LOOPS)
def test_a_protocol_carries_packets_both_ways(factory: Any) -> None:
    async def main() -> None:
        with PacketLink() as link:
            assert not is_ready(link, EventMask.OUT)
            assert link.send_batch(packets(1)) == 0
            far, transport = await connected(link)
            with far:
                assert link.send_batch(packets(10)) == 10
                assert await take(far, 10) == packets(10)
                for packet in packets(5, version=4):
                    far.send(packet)
                far.send(b"no packet")
                await until(lambda: link.dropped == 1)
                assert link.recv_batch() == packets(5, version=4)
        await until(transport.is_closing)

    run(factory, main())


@pytest.mark.parametrize("factory", LOOPS)
def test_a_protocol_sends_to_an_address(factory: Any) -> None:
    async def main() -> None:
        with (
            PacketLink() as link,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        ):
            far.bind(("127.0.0.1", 0))
            far.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(
                lambda: link.protocol(far.getsockname()), local_addr=("127.0.0.1", 0)
            )
            link.send_batch(packets(2))
            assert await take(far, 2) == packets(2)

    run(factory, main())


@pytest.mark.parametrize("factory", LOOPS)
def test_a_protocol_sends_from_another_thread_in_order(factory: Any) -> None:
    async def main() -> None:
        with PacketLink(queue=16) as link:
            far, _ = await connected(link)
            with far:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                full = threading.Event()
                link.pollable.add_waiter(
                    lambda events: None if events & EventMask.OUT else full.set()
                )
                sender = threading.Thread(target=send_all, args=(link, packets(300)))
                sender.start()
                # The loop stands still, so 16 packets are on their way and the rest waits.
                assert full.wait(PATIENCE)
                assert await take(far, 300) == packets(300)
                await asyncio.to_thread(sender.join)
                assert link.errors == link.dropped == 0

    run(factory, main())


def test_pause_writing_makes_the_link_full() -> None:
    async def main() -> None:
        with PacketLink() as link:
            far, transport = await connected(link)
            protocol = transport.get_protocol()
            assert isinstance(protocol, PacketProtocol)
            with far:
                protocol.pause_writing()
                assert not is_ready(link, EventMask.OUT)
                assert link.send_batch(packets(1)) == 0
                protocol.resume_writing()
                assert is_ready(link, EventMask.OUT)
                assert link.send_batch(packets(1)) == 1

    run(asyncio.new_event_loop, main())


def test_an_endpoint_that_does_not_keep_up_holds_the_link(tmp_path: Path) -> None:
    async def main() -> None:
        near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        far.bind(str(tmp_path / "far"))
        near.connect(str(tmp_path / "far"))
        with PacketLink() as link, far:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(link.protocol, sock=near)
            frames = packets(2000, size=1400)
            taken = link.send_batch(frames)
            assert 0 < taken < 2000
            assert not is_ready(link, EventMask.OUT)
            far.setblocking(False)
            got: list[bytes] = []
            rest = frames[taken:]
            while len(got) < len(frames):
                got += await take(far, 1)
                if rest and is_ready(link, EventMask.OUT):
                    rest = rest[link.send_batch(rest) :]
            assert got == frames
            assert link.dropped == link.errors == 0
            transport.close()

    run(asyncio.new_event_loop, main())


def test_a_lost_endpoint_makes_the_link_full_until_the_next_one() -> None:
    async def main() -> None:
        with PacketLink() as link:
            far, transport = await connected(link)
            far.close()
            transport.close()
            await until(lambda: not is_ready(link, EventMask.OUT))
            far, _ = await connected(link)
            with far:
                assert link.send_batch(packets(1)) == 1
                assert await take(far, 1) == packets(1)

    run(asyncio.new_event_loop, main())


def test_an_endpoints_error_is_counted_and_the_link_goes_on() -> None:
    async def main() -> None:
        seen: list[Exception] = []
        with PacketLink(on_error=seen.append) as link:
            far, _ = await connected(link)
            far.close()
            link.send_batch(packets(1))
            await until(lambda: link.errors > 0)
            assert isinstance(seen[0], ConnectionRefusedError)
            assert is_ready(link, EventMask.OUT)

    run(asyncio.new_event_loop, main())


@pytest.mark.parametrize("factory", LOOPS)
def test_an_endpoint_without_a_peer_is_refused(factory: Any) -> None:
    async def main() -> None:
        seen: list[BaseException] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        with PacketLink() as link:
            transport, _ = await loop.create_datagram_endpoint(
                link.protocol, local_addr=("127.0.0.1", 0)
            )
            await until(transport.is_closing)
            assert [str(error) for error in seen if "has no peer" in str(error)]
            assert not is_ready(link, EventMask.OUT)

    run(factory, main())


def test_one_protocol_at_a_time() -> None:
    async def main() -> None:
        with PacketLink() as link:
            far, _ = await connected(link)
            with far, pytest.raises(RuntimeError, match="is in use by"):
                link.protocol()

    run(asyncio.new_event_loop, main())


def test_a_link_with_a_function_has_no_protocol(link: PacketLink) -> None:
    with pytest.raises(ValueError, match="has a send function"):
        link.protocol()


def test_closing_the_link_from_another_thread_closes_the_endpoint() -> None:
    async def main() -> None:
        link = PacketLink()
        far, transport = await connected(link)
        with far:
            await asyncio.to_thread(link.close)
            await until(transport.is_closing)

    run(asyncio.new_event_loop, main())
