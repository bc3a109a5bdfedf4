"""The compiled calls of every message: what a transport and a loop's reader see of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import select
import socket
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from lwip_frames import MAC, frame, udp
from lwip_helpers import HOST4, PEER4, lab_on
from memory_helpers import Lab, R, W, mask_of
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.events import IN
from vpoll_asyncio.links import FdLink
from vpoll_asyncio.relay import relay_of
from vpoll_asyncio.stacks import Stack

pytestmark = pytest.mark.needs("lwip")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_on("lwip") as lab:
        yield lab


def pair(lab: Lab) -> tuple[va.UserSocket, va.UserSocket]:
    client, server = lab.pair()
    assert isinstance(client, va.UserSocket)
    assert isinstance(server, va.UserSocket)
    return client, server


def test_what_is_sent_is_received_until_the_end(lab: Lab) -> None:
    client, server = pair(lab)
    receive, send = client.stream_calls()[0], server.stream_calls()[1]
    assert send(b"0123456789", 0, None) == 10
    assert receive(4) == b"0123"
    assert mask_of(client) == R | W
    assert receive(65536) == b"456789"
    assert mask_of(client) == W
    server.shutdown(socket.SHUT_WR)
    assert receive(65536) == b""


def test_a_transport_begins_with_both_names_and_without_delay(lab: Lab) -> None:
    client, _ = pair(lab)
    assert client.begin_stream(None)[2:] == (client.getsockname(), client.getpeername())
    assert client.begin_stream(("10.0.0.9", 9))[3] == ("10.0.0.9", 9)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()
    assert client.begin_stream(None)[2:] == (None, None)


def test_a_buffer_is_sent_as_bytes_are(lab: Lab) -> None:
    client, server = pair(lab)
    send = server.stream_calls()[1]
    assert send(memoryview(bytearray(b"hello")), 0, None) == 5
    assert client.recv(10) == b"hello"


def test_a_stream_that_would_block_says_so(lab: Lab) -> None:
    _, server = pair(lab)
    receive, send = server.stream_calls()
    with pytest.raises(BlockingIOError) as caught:
        receive(10)
    assert caught.value.errno == errno.EAGAIN
    while mask_of(server) & W:
        send(bytes(65536), 0, None)
    with pytest.raises(BlockingIOError) as caught:
        send(bytes(65536), 0, None)
    assert caught.value.errno == errno.EAGAIN


def test_a_stream_that_has_ended_says_so(lab: Lab) -> None:
    _, server = pair(lab)
    receive, send = server.stream_calls()
    server.shutdown(socket.SHUT_RDWR)
    assert receive(10) == b""
    with pytest.raises(BrokenPipeError):
        send(b"!", 0, None)
    server.close()
    for call in (lambda: receive(10), lambda: send(b"!", 0, None)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("arguments", [(), (b"!",), (b"!", 0), (b"!", 0, None, None)])
def test_arguments_that_are_missing_are_a_type_error(
    lab: Lab, arguments: tuple[object, ...]
) -> None:
    receive, send = pair(lab)[0].stream_calls()
    with pytest.raises(TypeError):
        send(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        receive(*arguments)  # type: ignore[arg-type]


def test_messages_leave_no_memory_behind(lab: Lab) -> None:
    client, server = pair(lab)
    # Nagle's algorithm would keep the second message until the first is acknowledged.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receive, send = client.stream_calls()[0], server.stream_calls()[1]

    def exchange(count: int) -> int:
        for _ in range(count):
            send(b"hello", 0, None)
            assert receive(100) == b"hello"
            with contextlib.suppress(BlockingIOError):
                receive(100)
        gc.collect()
        return sys.getallocatedblocks()

    before = exchange(100)
    assert exchange(2000) - before < 500


def test_a_stack_and_its_sockets_are_freed_with_their_calls() -> None:
    with lab_on("lwip") as lab:
        client, server = pair(lab)
        calls = [client.stream_calls(), server.stream_calls()]
        references = [weakref.ref(client.vpoll), weakref.ref(server.vpoll)]
    del lab, client, server, calls
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_threads_share_one_stream(lab: Lab) -> None:
    client, server = pair(lab)
    receive, send = client.stream_calls()[0], server.stream_calls()[1]
    total = 400_000
    got = bytearray()

    def feed() -> None:
        left = total
        while left:
            try:
                left -= send(bytes(min(left, 5000)), 0, None)
            except BlockingIOError:
                select.select([], [server], [], 60)

    feeder = threading.Thread(target=feed)
    feeder.start()
    while len(got) < total:
        try:
            got += receive(3000)
        except BlockingIOError:
            select.select([client], [], [], 60)
    feeder.join()
    assert len(got) == total


# The reader of a link with a descriptor.


@contextlib.contextmanager
def lwip_on_socketpair() -> Iterator[tuple[Stack, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far, va.open_stack("lwip", link=FdLink(near), ip=f"{HOST4}/24", mac=MAC) as stack:
        yield stack, far


def datagram() -> bytes:
    return frame(udp((PEER4, 1000), (HOST4, 7), b"hello"))


@pytest.mark.parametrize("factory", LOOPS)
def test_what_a_readable_link_brings_reaches_the_protocol(factory: LoopFactory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stack.attach(loop)
        sock = stack.socket(type=socket.SOCK_DGRAM)
        with sock:
            sock.bind((HOST4, 7))
            got = loop.create_future()

            class Protocol(asyncio.DatagramProtocol):
                def datagram_received(self, data: bytes, addr: object) -> None:
                    got.set_result(data)

            transport, _ = await va.create_datagram_endpoint(Protocol, sock=sock, stack=stack)
            far.send(datagram())
            assert await got == b"hello"
            transport.close()

    with lwip_on_socketpair() as (stack, far), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_an_interrupted_turn_hides_no_event_and_blocks_no_relay() -> None:
    with lwip_on_socketpair() as (stack, far), asyncio.Runner() as runner:
        loop = runner.get_loop()
        stack.attach(loop)
        sock = stack.socket(type=socket.SOCK_DGRAM)
        assert isinstance(sock, va.UserSocket)
        sock.bind((HOST4, 7))

        def interrupt(mask: int) -> None:
            sock.vpoll.remove_waiter(interrupt)
            raise KeyboardInterrupt

        sock.vpoll.add_waiter(interrupt)
        far.send(datagram())
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert not relay_of(loop).due
        far.send(datagram())

        def look(mask: int) -> None:
            if mask & IN:
                loop.stop()

        sock.vpoll.add_waiter(look)
        loop.run_forever()
        assert mask_of(sock) & IN
        sock.vpoll.remove_waiter(look)
        sock.close()
