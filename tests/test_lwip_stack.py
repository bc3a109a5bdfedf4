"""The life of an lwIP stack: opening, driving, closing, and who does it."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import resource
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from link_helpers import PATIENCE
from lwip_frames import ACK, RST, SYN, frame, icmp, parse_tcp, tcp
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lwip_on_wire
from memory_helpers import DEAD, ERR, W, failure, mask_of
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.links import FdLink, PacketLink, wire_pair
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.lwip.ports import Port

pytestmark = pytest.mark.needs("lwip")

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    factory: LoopFactory = request.param

    def run(main: Coroutine[Any, Any, None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(60):
                await main

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited())

    return run


# Closing.


def test_sockets_of_a_closed_stack_are_dead(peer: Peer) -> None:
    stack = peer.stack
    listener, client, fresh = (peer.keep(stack.socket()) for _ in range(3))
    listener.bind((HOST4, 80))
    listener.listen()
    client.connect_ex((HOST4, 80))
    server = peer.keep(listener.accept()[0])
    datagrams = peer.keep(stack.socket(socket.AF_INET, socket.SOCK_DGRAM))
    woken: list[int] = []
    server.vpoll.add_waiter(woken.append)  # type: ignore[attr-defined]
    stack.close()
    for sock in (listener, client, server, fresh):
        assert mask_of(sock) == DEAD | ERR
    assert woken == [DEAD | ERR]
    assert failure(server.recv, 10) == errno.ENETDOWN
    assert server.recv(10) == b""
    assert failure(client.send, b"x") == errno.ENETDOWN
    assert failure(client.send, b"x") == errno.EPIPE
    assert failure(listener.accept) == errno.ENETDOWN
    assert failure(fresh.connect, (HOST4, 80)) == errno.ENETDOWN
    assert mask_of(datagrams) & ERR
    assert failure(datagrams.sendto, b"x", (PEER4, 1)) == errno.ENETDOWN
    assert failure(stack.socket) == errno.ENETDOWN


def test_closing_tells_the_peer(peer: Peer) -> None:
    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, 80))
    listener.listen()
    [synack] = [
        got
        for one in peer.send(frame(tcp((PEER4, 5000), (HOST4, 80), SYN, 1)))
        if (got := parse_tcp(one))
    ]
    assert isinstance(synack["seq"], int)
    peer.send(frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 2, synack["seq"] + 1)))
    peer.stack.close()
    flags = [got["flags"] for one in peer.link.recv_batch() if (got := parse_tcp(one))]
    assert flags == [RST | ACK]


def test_a_socket_that_outlives_its_stack_does_not_disturb_the_next() -> None:
    with lwip_on_wire() as first:
        old = first.stack.socket()
    with lwip_on_wire() as second:
        listener = second.keep(second.stack.socket())
        listener.bind((HOST4, 80))
        listener.listen()
        client = second.keep(second.stack.socket())
        client.connect_ex((HOST4, 80))
        assert failure(old.bind, (HOST4, 1)) in (errno.EINVAL, errno.ENETDOWN)
        old.close()
        assert mask_of(client) == W
        second.keep(listener.accept()[0])


def test_opening_and_closing_leaves_nothing(no_fd_leak: None) -> None:
    def cycle() -> None:
        with lwip_on_wire() as peer:
            listener = peer.keep(peer.stack.socket())
            listener.bind((HOST4, 80))
            listener.listen()
            client = peer.keep(peer.stack.socket())
            client.connect_ex((HOST4, 80))
            server = peer.keep(listener.accept()[0])
            server.send(bytes(60000))
            peer.send(frame(icmp(8, 0, bytes(4000)[:1400], PEER4, HOST4)))

    for _ in range(20):
        cycle()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        cycle()
    gc.collect()
    # A single connection's buffers, leaked 200 times, would be 24 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


def test_a_stack_that_is_dropped_open_is_closed_with_a_warning() -> None:
    near, far = wire_pair()
    held: list[Any] = [open_stack("lwip", link=near, ip="10.0.0.1/24")]
    with far:
        # Part of a cycle, as an abandoned stack may be.
        held.append(held)
        del held
        with pytest.warns(ResourceWarning, match="unclosed <LwipStack"):
            gc.collect()
    assert near.closed


def test_a_forked_child_leaves_the_connections_alone_and_opens_its_own(peer: Peer) -> None:
    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, 80))
    listener.listen()
    client = peer.keep(peer.stack.socket())
    client.connect_ex((HOST4, 80))
    server = peer.keep(listener.accept()[0])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert peer.stack.closed
            assert failure(client.send, b"from the child") == errno.ENETDOWN
            with lwip_on_wire() as own:
                own.keep(own.stack.socket()).bind((HOST4, 80))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.send(b"from the parent") == 15
    assert server.recv(100) == b"from the parent"
    assert [parse_tcp(one) for one in peer.link.recv_batch()] == []


def test_a_child_that_a_waiter_has_forked_shows_one_threads_masks_at_a_time(peer: Peer) -> None:
    """The call that was interrupted in the child gives back no lock that is not its own."""
    pids: list[int] = []

    def fork(mask: int) -> None:
        if not pids:
            pids.append(os.fork())

    client, server = connected(peer, 80)
    server.vpoll.add_waiter(fork)
    client.send(b"hello")
    if pids == [0]:
        status = 1
        try:
            with lwip_on_wire() as own:
                status = 0 if most_waiters_at_once(own) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pids[0], 0)[1] == 0
    assert most_waiters_at_once(peer) == 1


def connected(peer: Peer, port: int) -> tuple[UserSocket, UserSocket]:
    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, port))
    listener.listen()
    client = peer.keep(peer.stack.socket())
    client.connect_ex((HOST4, port))
    server = peer.keep(listener.accept()[0])
    assert isinstance(client, UserSocket)
    assert isinstance(server, UserSocket)
    return client, server


def most_waiters_at_once(peer: Peer) -> int:
    inside: list[int] = []
    most = 0
    first, second = threading.Event(), threading.Event()

    def waiter(mask: int) -> None:
        nonlocal most
        inside.append(mask)
        most = max(most, len(inside))
        first.set()
        # Long enough for a second thread to come in, if it can.
        second.wait(0.2)
        inside.pop()

    pairs = [connected(peer, 8000), connected(peer, 8001)]
    for _, server in pairs:
        server.vpoll.add_waiter(waiter)
    threads = [threading.Thread(target=client.send, args=(b"x",)) for client, _ in pairs]
    threads[0].start()
    assert first.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    return most


# Driving.


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("host", [HOST4, HOST6, "127.0.0.1", "::1"])
def test_streams_on_every_loop(run: Run, peer: Peer, no_fd_leak: None, host: str) -> None:
    async def main() -> None:
        server = await va.start_server(echo, host, 7, stack=peer.stack)
        sent = os.urandom(1_000_000)
        reader, writer = await va.open_connection(host, 7, stack=peer.stack)

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read())
        assert received == sent
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_fifty_megabytes_arrive_intact_and_memory_stays_bounded(peer: Peer) -> None:
    size = 50_000_000

    async def main() -> None:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sha256 = hashlib.sha256()
            while data := await reader.read(65536):
                sha256.update(data)
            writer.close()
            done.set_result(sha256.hexdigest())

        server = await va.start_server(take, HOST4, 7, stack=peer.stack)
        _, writer = await va.open_connection(HOST4, 7, stack=peer.stack)
        block = os.urandom(1 << 20)
        sha256 = hashlib.sha256()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for at in range(0, size, len(block)):
            piece = block[: size - at]
            sha256.update(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()
        assert await done == sha256.hexdigest()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16384
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize("host", [HOST4, HOST6])
def test_datagrams_on_every_loop(run: Run, peer: Peer, host: str) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    class Client(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.put_nowait(data)

    async def main() -> None:
        server, _ = await va.create_datagram_endpoint(Echo, local_addr=(host, 7), stack=peer.stack)
        transport, client = await va.create_datagram_endpoint(
            Client, remote_addr=(host, 7), stack=peer.stack
        )
        # Within one MTU, and as fragments; lwIP puts at most ten together.
        for size in (0, 1, 1400, 9000):
            data = os.urandom(size)
            transport.sendto(data)
            assert await client.got.get() == data
        transport.close()
        server.close()

    run(main())


def test_of_two_loops_the_one_that_runs_drives(peer: Peer) -> None:
    def driving() -> asyncio.AbstractEventLoop | None:
        driver = peer.stack.core.driver
        return None if driver is None else driver.loop

    async def comes(loop: asyncio.AbstractEventLoop) -> None:
        async with asyncio.timeout(PATIENCE):
            while driving() is not loop:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    peer.stack.attach(first)
    peer.stack.attach(first)
    peer.stack.attach(second)
    assert driving() is first
    for loop in (second, first, second):
        loop.run_until_complete(comes(loop))
    second.close()
    first.run_until_complete(comes(first))
    first.close()


def test_a_loop_that_is_attached_while_it_runs_drives_in_place_of_one_that_does_not(
    peer: Peer,
) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    peer.stack.attach(first)

    async def main() -> None:
        peer.stack.attach(second)
        assert peer.stack.core.driver is not None
        assert peer.stack.core.driver.loop is second

    second.run_until_complete(main())
    second.close()
    first.close()


def test_an_idle_stack_lets_the_loop_sleep(run: Run, peer: Peer) -> None:
    turns = 0
    turn = peer.stack.core.turn

    def counting(readable: Port | bool) -> None:
        nonlocal turns
        turns += 1
        turn(readable)

    peer.stack.core.turn = counting  # type: ignore[method-assign]

    async def main() -> None:
        peer.stack.attach(asyncio.get_running_loop())
        listener = peer.keep(peer.stack.socket())
        listener.bind((HOST4, 80))
        listener.listen()
        client = peer.keep(peer.stack.socket())
        client.connect_ex((HOST4, 80))
        peer.keep(listener.accept()[0])
        await asyncio.sleep(1)

    run(main())
    # TCP's timer is due four times a second, the others' once.
    assert turns <= 12


@pytest.mark.parametrize("native", [True, False])
def test_a_link_whose_other_end_goes_is_left_alone(
    run: Run, native: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)

    class PythonOnly(FdLink):
        native = None

    link = (FdLink if native else PythonOnly)(ours, medium="ip")
    descriptor = link.pollable
    with open_stack("lwip", link=link, ip="10.0.0.1/24") as stack:
        assert isinstance(stack, LwipStack)

        async def main() -> None:
            stack.attach(asyncio.get_running_loop())
            theirs.close()
            async with asyncio.timeout(30):
                while stack.link_error is None:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert not asyncio.get_running_loop().remove_reader(descriptor)

        run(main())
        assert isinstance(stack.link_error, ConnectionResetError)
    assert caplog.text.count("has lost its link") == 1


def test_a_full_link_loses_nothing(run: Run) -> None:
    """The queue to the link is bounded: TCP keeps what it refuses."""
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    # One or two frames at a time.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    theirs.setblocking(False)
    with theirs, open_stack("lwip", link=FdLink(ours, medium="ip"), ip="10.0.0.1/24") as stack:
        assert isinstance(stack, LwipStack)

        async def main() -> None:
            stack.attach(asyncio.get_running_loop())
            sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sent = 0
            while mask_of(sock) & va.EventMask.OUT:
                sock.sendto(sent.to_bytes(4, "big") + bytes(1000), ("10.0.0.2", 9))
                sent += 1
            assert failure(sock.sendto, b"more", ("10.0.0.2", 9)) == errno.EAGAIN
            assert sent > 256
            numbers: list[int] = []
            while len(numbers) < sent:
                try:
                    numbers.append(int.from_bytes(theirs.recv(2000)[28:32], "big"))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert numbers == list(range(sent))
            assert mask_of(sock) & va.EventMask.OUT
            sock.close()

        run(main())
        assert stack.counters["tx_dropped"] == 0


def test_sockets_of_a_driven_stack_block_in_other_threads(run: Run, peer: Peer) -> None:
    async def main() -> None:
        server = await va.start_server(echo, HOST4, 7, stack=peer.stack)

        def talk() -> bytes:
            with peer.stack.socket() as sock:
                sock.connect((HOST4, 7))
                sock.sendall(b"hello")
                return sock.recv(10)

        answers = await asyncio.gather(*(asyncio.to_thread(talk) for _ in range(8)))
        assert answers == [b"hello"] * 8
        server.close()
        await server.wait_closed()

    run(main())


def test_packets_through_a_function(no_fd_leak: None) -> None:
    sent: list[bytes] = []
    link = PacketLink(sent.append, mtu=1400)
    with open_stack("lwip", link=link, ip=["10.0.0.1/24", "fd00::1/64"]) as stack:
        assert isinstance(stack, LwipStack)
        link.receive(icmp(8, 0, bytes(40), PEER4, HOST4))
        link.receive(icmp(128, 0, bytes(40), PEER6, HOST6))
        stack.core.turn(True)
        kinds = {packet[0] >> 4 for packet in sent}
    assert kinds == {4, 6}
