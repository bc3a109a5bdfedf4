"""UserSocket over the memory stack: what programs without a loop do with sockets."""

from __future__ import annotations

import errno
import gc
import io
import pickle
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blocking_helpers import Background
from memory_helpers import BOUND, HUP, Lab, failure, fill, small_buffers
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.vpoll import VPoll


@pytest.fixture
def lab() -> Iterator[Lab]:
    with MemoryStack() as stack:
        lab = Lab(stack)
        yield lab
        lab.close()


@pytest.fixture
def pair(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """Two connected blocking sockets with small buffers."""
    client, server = lab.pair(small_buffers)
    client.settimeout(BOUND)
    server.settimeout(BOUND)
    return client, server


# Blocking calls.


def test_recv_blocks_until_data_come(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    reader = Background(server.recv, 10)
    client.send(b"data")
    assert reader.result() == b"data"


def test_recv_without_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.setblocking(True)
    assert server.gettimeout() is None
    reader = Background(server.recv, 10)
    client.send(b"data")
    assert reader.result() == b"data"


def test_recv_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    _, server = pair
    server.settimeout(0.01)
    with pytest.raises(TimeoutError, match="timed out"):
        server.recv(1)


def test_accept_blocks_and_times_out(lab: Lab) -> None:
    listener = lab.listener()
    listener.settimeout(0.01)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.settimeout(BOUND)
    acceptor = Background(listener.accept)
    client = lab.connecting(listener)
    server, address = acceptor.result()
    lab.keep(server)
    assert address == client.getsockname()


def test_accepted_socket_blocks_as_the_default_says(lab: Lab) -> None:
    listener = lab.listener()
    for default in (None, 2.5):
        socket.setdefaulttimeout(default)
        try:
            lab.connecting(listener)
            server = listener.accept()[0]
            assert server.gettimeout() == default
            lab.keep(server)
        finally:
            socket.setdefaulttimeout(None)


def test_sendall_blocks_until_all_is_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    data = bytes(range(256)) * 1000
    sender = Background(client.sendall, data)
    received = server.recv(len(data), socket.MSG_WAITALL)
    sender.result()
    assert received == data


def test_sendall_s_timeout_is_for_the_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.is_set():
            server.recv(1)

    client.settimeout(0.1)
    dripping = Background(drip)
    try:
        with pytest.raises(TimeoutError):
            client.sendall(bytes(100 << 20))
    finally:
        stop.set()
        dripping.result()


def test_connect_waits_for_room_in_the_backlog(lab: Lab) -> None:
    listener = lab.listener(0)
    lab.connecting(listener)
    client = lab.stream()
    client.settimeout(0.01)
    with pytest.raises(TimeoutError):
        client.connect(listener.getsockname())
    client.close()
    client = lab.stream()
    client.settimeout(BOUND)
    connecting = Background(client.connect, listener.getsockname())
    lab.keep(listener.accept()[0])
    connecting.result()
    assert failure(client.connect, listener.getsockname()) == errno.EISCONN


def test_blocking_connect_to_nobody_can_be_repeated(lab: Lab) -> None:
    address = lab.refusing_address()
    client = lab.stream()
    client.settimeout(BOUND)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)
    assert client.connect_ex(address) == errno.ECONNREFUSED
    assert client.connect_ex(lab.listener().getsockname()) == 0


def test_connect_ex_that_times_out(lab: Lab) -> None:
    listener = lab.listener(0)
    lab.connecting(listener)
    client = lab.stream()
    client.settimeout(0.01)
    assert client.connect_ex(listener.getsockname()) == errno.EAGAIN


@pytest.fixture
def blocked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set once a socket of the stack begins to wait."""
    waits = threading.Event()
    wait = lab.stack.wait

    def observed(*args: Any) -> int:
        waits.set()
        return wait(*args)

    monkeypatch.setattr(lab.stack, "wait", observed)
    return waits


def test_close_wakes_a_blocked_recv(lab: Lab, blocked: threading.Event) -> None:
    _, server = lab.pair()
    server.settimeout(None)
    reader = Background(server.recv, 1)
    assert blocked.wait(BOUND)
    server.close()
    assert failure(reader.result) == errno.EBADF


def test_close_shows_the_end_before_the_vpoll_is_closed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks in between begins no wait that nobody would end."""
    sock: Any = lab.pair()[0]
    seen = []
    close = VPoll.close

    def closing(vpoll: VPoll) -> None:
        if vpoll is sock.vpoll and not vpoll.closed:
            seen.append(vpoll.peek() & HUP)
        close(vpoll)

    monkeypatch.setattr(VPoll, "close", closing)
    sock.close()
    assert seen == [HUP]


def test_stack_that_closes_wakes_a_blocked_recv(lab: Lab, blocked: threading.Event) -> None:
    _, server = lab.pair()
    server.settimeout(None)
    reader = Background(server.recv, 1)
    assert blocked.wait(BOUND)
    lab.stack.close()
    with pytest.raises(OSError, match="stack") as caught:
        reader.result()
    assert caught.value.errno == errno.ENETDOWN


def test_blocking_recv_on_a_datagram_socket_that_is_shut_down(lab: Lab) -> None:
    receiver, sender = lab.bound(lab.datagram()), lab.datagram()
    sender.connect(receiver.getsockname())
    sender.shutdown(socket.SHUT_RD)
    assert failure(sender.recv, 10) == errno.EAGAIN
    sender.settimeout(BOUND)
    assert sender.recv(10) == b""


def test_two_threads_use_one_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    data = bytes(1 << 20)
    echoed = Background(server.recv, len(data), socket.MSG_WAITALL)
    back = Background(client.recv, len(data), socket.MSG_WAITALL)
    there = Background(client.sendall, data)
    again = Background(server.sendall, data)
    for call in (there, again):
        call.result()
    assert echoed.result() == back.result() == data


# The recv and send families.


def test_waitall_ends_with_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.send(b"all there is")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100, socket.MSG_WAITALL) == b"all there is"


def test_waitall_into_a_buffer(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    buffer = bytearray(6)
    reader = Background(server.recv_into, buffer, 0, socket.MSG_WAITALL)
    client.send(b"abc")
    client.send(b"def")
    assert reader.result() == 6
    assert buffer == b"abcdef"


def test_dontwait_on_a_blocking_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    _, server = pair
    assert failure(server.recv, 1, socket.MSG_DONTWAIT) == errno.EAGAIN


def test_recv_into_a_part_of_a_buffer(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.send(b"abcdef")
    buffer = bytearray(b"......")
    assert server.recv_into(memoryview(buffer)[1:], 3) == 3
    assert buffer == b".abc.."
    with pytest.raises(ValueError, match="buffer too small"):
        server.recv_into(buffer, 100)
    with pytest.raises(TypeError):
        server.recv_into(b"read-only")


def test_recvmsg_into_several_buffers(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.send(b"abcdefgh")
    first, second, third = bytearray(3), bytearray(3), bytearray(b"...")
    count, ancdata, flags, address = server.recvmsg_into([first, second, third])
    assert (count, ancdata, flags, address) == (8, [], 0, None)
    assert [bytes(part) for part in (first, second, third)] == [b"abc", b"def", b"gh."]


def test_recvfrom_of_a_stream_has_no_sender(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.send(b"abcd")
    assert server.recvfrom(2) == (b"ab", None)
    buffer = bytearray(10)
    assert server.recvfrom_into(buffer) == (2, None)
    assert buffer[:2] == b"cd"


def test_sendmsg_takes_an_iterator(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    parts: list[bytes | bytearray | memoryview] = [b"ab", bytearray(b"cd"), memoryview(b"ef")]
    assert client.sendmsg(part for part in parts) == 6
    assert server.recv(10) == b"abcdef"
    assert failure(client.sendmsg, [b"x"], [(socket.SOL_SOCKET, 1, b"")]) == errno.EINVAL


def test_nothing_asked_for_is_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    assert server.recv(0) == b""
    assert server.recv_into(bytearray()) == 0
    assert client.send(b"") == 0
    with pytest.raises(ValueError, match="negative"):
        server.recv(-1)


def test_buffers_of_other_items(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    assert client.send(memoryview(b"abcdefgh").cast("I")) == 8
    assert server.recv(10) == b"abcdefgh"
    with pytest.raises(TypeError):
        client.send("text")  # type: ignore[arg-type]


def test_sendfile_sends_a_file(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    data = bytes(range(256)) * 1000
    sender = Background(client.sendfile, io.BytesIO(data), 10, 200_000)
    assert server.recv(200_000, socket.MSG_WAITALL) == data[10:200_010]
    assert sender.result() == 200_000


def test_makefile_reads_and_writes(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    with client.makefile("rw", encoding="utf-8", newline="\n") as file:
        file.write("a line\n")
        file.flush()
        reader = server.makefile("rb")
        assert reader.readline() == b"a line\n"
        server.sendall("größer\n".encode())
        assert file.readline() == "größer\n"
        reader.close()


def test_socket_stays_open_as_long_as_its_files(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    file = client.makefile("wb")
    client.close()
    file.write(b"still open")
    file.close()
    assert server.recv(100, socket.MSG_WAITALL) == b"still open"


# The object.


def test_is_a_socket(lab: Lab) -> None:
    sock = lab.stream()
    assert isinstance(sock, socket.socket)
    assert "StreamSocket" in repr(sock)
    assert "memory" in repr(sock)


def test_context_manager_closes() -> None:
    with MemoryStack() as stack:
        with stack.socket() as sock:
            assert sock.fileno() >= 0
        assert sock.fileno() == -1
        assert "closed" in repr(sock)


@pytest.mark.parametrize(
    "call",
    [
        lambda sock: sock.recv(1),
        lambda sock: sock.send(b"x"),
        lambda sock: sock.sendall(b"x"),
        lambda sock: sock.bind(("", 0)),
        lambda sock: sock.listen(),
        lambda sock: sock.accept(),
        lambda sock: sock.connect(("127.0.0.1", 1)),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: sock.getsockname(),
        lambda sock: sock.getpeername(),
        lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ],
)
def test_closed_socket(lab: Lab, call: Callable[[socket.socket], object]) -> None:
    sock = lab.stream()
    sock.close()
    sock.close()
    assert failure(call, sock) == errno.EBADF


@pytest.mark.usefixtures("no_fd_leak")
def test_socket_that_is_collected_open_is_reported() -> None:
    with MemoryStack() as stack:
        sock = stack.socket()
        sock.fileno()
        cycle: list[object] = [sock]
        cycle.append(cycle)
        del sock, cycle
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()


def test_cannot_be_pickled_or_detached(lab: Lab) -> None:
    sock = lab.stream()
    with pytest.raises(TypeError):
        pickle.dumps(sock)
    assert failure(sock.detach) == errno.ENOTSUP


def test_timeouts_are_checked(lab: Lab) -> None:
    sock = lab.stream()
    with pytest.raises(ValueError, match="out of range"):
        sock.settimeout(-1)
    sock.settimeout(1.5)
    assert sock.gettimeout() == sock.timeout == 1.5
    assert sock.getblocking()
    sock.setblocking(False)
    assert not sock.getblocking()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("127.0.0.1",), TypeError),
        ("127.0.0.1", TypeError),
        (("127.0.0.1", "80"), TypeError),
        (("127.0.0.1", 65536), OverflowError),
        (("no-such-name", 80), socket.gaierror),
    ],
)
def test_malformed_addresses(lab: Lab, address: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        lab.stream().connect(address)


def test_name_is_resolved_by_the_stack(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.stream()
    client.settimeout(BOUND)
    client.connect(("localhost", listener.getsockname()[1]))
    assert client.getpeername()[0] == "127.0.0.1"


# Descriptors.


@pytest.mark.usefixtures("no_fd_leak")
def test_descriptor_shows_pollers_the_truth(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    poll = select.poll()
    poll.register(server.fileno(), select.POLLIN | select.POLLOUT)

    def shown() -> int:
        return sum(events for _, events in poll.poll(0)) & (select.POLLIN | select.POLLOUT)

    assert shown() == select.POLLOUT
    client.send(b"data")
    assert shown() == select.POLLIN | select.POLLOUT
    server.recv(10)
    assert shown() == select.POLLOUT
    fill(server)
    assert shown() == 0
    client.recv(1 << 20)
    assert shown() == select.POLLOUT
    client.close()
    assert shown() & select.POLLIN


@pytest.mark.usefixtures("no_fd_leak")
def test_wrap_socket_refuses(lab: Lab) -> None:
    client, server = lab.pair()
    client.settimeout(BOUND)
    context = ssl.create_default_context()
    with pytest.raises(OSError, match="wrap_bio") as caught:
        context.wrap_socket(client, server_hostname="localhost")
    assert caught.value.errno == errno.ENOTSUP
    # It is as it was, and nothing was sent.
    assert client.gettimeout() == BOUND
    client.send(b"plain")
    assert server.recv(10) == b"plain"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda sock: sock.recv(1.5), TypeError),
        (lambda sock: sock.recv(1 << 63), OverflowError),
        (lambda sock: sock.recv(10, 1 << 40), OverflowError),
        (lambda sock: sock.recvfrom(1 << 63), OverflowError),
        (lambda sock: sock.settimeout(float("nan")), ValueError),
        (lambda sock: sock.settimeout(float("inf")), OverflowError),
        (lambda sock: sock.settimeout(1e300), OverflowError),
        (lambda sock: sock.listen(1.0), TypeError),
        (lambda sock: sock.listen(1 << 31), OverflowError),
        (lambda sock: sock.shutdown(1 << 31), OverflowError),
        (lambda sock: sock.shutdown("both"), TypeError),
        (lambda sock: sock.sendmsg([b"x"], [object()]), TypeError),
        (lambda sock: sock.sendmsg([b"x"], [(0, 0)]), TypeError),
        (lambda sock: sock.sendmsg([b"x"], [(0, 0, object())]), TypeError),
        (lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 70), TypeError),
    ],
)
def test_arguments_that_fit_nowhere_are_refused_as_the_kernels_socket_does(
    call: Callable[[socket.socket], object], error: type[Exception]
) -> None:
    with MemoryStack() as stack, stack.socket() as ours, host_stack().socket() as kernels:
        for sock in (ours, kernels):
            with pytest.raises(error):
                call(sock)


@pytest.mark.parametrize("flowinfo", [-10, 1 << 20])
def test_a_flow_label_that_does_not_fit_is_refused_as_the_kernels_socket_does(
    flowinfo: int,
) -> None:
    with MemoryStack() as stack:
        for maker in (stack, host_stack()):
            with maker.socket(socket.AF_INET6) as sock:
                with pytest.raises(OverflowError, match="flowinfo"):
                    sock.bind(("::1", 0, flowinfo))


@pytest.mark.parametrize("data", ["text", 5j])
def test_what_is_no_data_is_named_as_the_kernels_socket_does(data: Any) -> None:
    with MemoryStack() as stack:
        for maker in (stack, host_stack()):
            with maker.socket(type=socket.SOCK_DGRAM) as sock:
                with pytest.raises(TypeError, match="a bytes-like object is required, not"):
                    sock.sendto(data, ("127.0.0.1", 1))
