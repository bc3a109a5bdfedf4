"""Stream sockets over protocols of one's own: what `StreamSocket` has and a protocol has not."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from fuse_helpers import wait_until
from vpoll_asyncio import EventMask, Stack
from vpoll_asyncio.stacks.streams import (
    StreamEnd,
    StreamLock,
    StreamSocket,
    StreamState,
    StreamTable,
)

OUT, HUP, ERR = EventMask.OUT, EventMask.HUP, EventMask.ERR
PLENTY = 1 << 40


class Cable:
    """Joins hosts that call one another: no frames, no credit, no urgent data."""

    def __init__(self) -> None:
        self.lock = StreamLock(self.deliver)
        self.hosts: dict[str, CableStack] = {}
        self.calls: deque[tuple[str, str, tuple[str, int], tuple[str, int], tuple[bytes, ...]]]
        self.calls = deque()
        self.failure: OSError | None = None

    def deliver(self) -> None:
        if self.failure is not None:
            raise self.failure
        while self.calls:
            what, answer, source, target, arguments = self.calls.popleft()
            host = self.hosts.get(target[0])
            end = None if host is None else host.table.find(target, source)
            if what == "knocked":
                taken = end is not None and end.knocked(target, source, PLENTY)
            elif what == "connected":
                taken = end is not None and end.connected(PLENTY)
            else:
                taken = end is not None and getattr(end, what)(*arguments)
            if not taken and answer:
                self.calls.append((answer, "", target, source, ()))


class CableSocket(StreamSocket):
    stack: CableStack

    def call(self, what: str, answer: str = "", *arguments: bytes) -> None:
        self.stack.cable.calls.append((what, answer, self.local, self.remote, arguments))

    def send_syn(self) -> None:
        self.call("knocked", "peer_reset")

    def send_ack(self) -> None:
        self.call("connected", "peer_reset")

    def send_data(self, data: bytes) -> None:
        self.call("received", "peer_reset", data)

    def send_fin(self) -> None:
        self.call("peer_shut")

    def send_rst(self) -> None:
        self.call("peer_reset")


class CableStack(Stack):
    name = "cable"

    def __init__(self, cable: Cable, *addresses: str) -> None:
        self.cable = cable
        self.table = StreamTable(addresses, cable.lock)
        cable.hosts |= dict.fromkeys(addresses, self)

    def supported_domain(self, family: int) -> bool:
        return family in self.table.families

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> CableSocket:
        return CableSocket(self, self.table, family, type, proto)

    @property
    def closed(self) -> bool:
        return self.table.closed

    def close(self) -> None:
        self.table.close()


A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def cable() -> Cable:
    return Cable()


@pytest.fixture
def near(cable: Cable) -> Iterator[CableStack]:
    with CableStack(cable, A) as stack:
        yield stack


@pytest.fixture
def far(cable: Cable) -> Iterator[CableStack]:
    with CableStack(cable, B) as stack:
        yield stack


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def listener(far: CableStack, opened: ExitStack) -> CableSocket:
    sock = opened.enter_context(far.socket())
    sock.bind((B, 7))
    sock.listen()
    return sock


@pytest.fixture
def pair(
    near: CableStack, listener: CableSocket, opened: ExitStack
) -> tuple[CableSocket, CableSocket]:
    client = opened.enter_context(near.socket())
    client.connect((B, 7))
    server, address = listener.accept()
    assert isinstance(server, CableSocket)
    opened.enter_context(server)
    assert address == client.getsockname()
    return client, server


Pair = tuple[CableSocket, CableSocket]


def raises(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


def test_a_protocol_without_credit_and_urgent_data_carries_streams(pair: Pair) -> None:
    client, server = pair
    for sender, receiver in (pair, pair[::-1]):
        sender.sendall(b"x" * 300_000)
        sender.shutdown(socket.SHUT_WR)
        with receiver.makefile("rb") as file:
            assert file.read() == b"x" * 300_000
    assert client.state is server.state is StreamState.CLOSED


def test_urgent_data_are_refused_by_a_protocol_that_has_none(pair: Pair) -> None:
    client, server = pair
    raises(errno.EOPNOTSUPP, client.send, b"!", socket.MSG_OOB)
    client.send(b"ordinary")
    assert server.recv(99) == b"ordinary"
    raises(errno.EINVAL, server.recv, 1, socket.MSG_OOB)


def test_a_refused_connect_says_so_and_may_be_tried_again(
    near: CableStack, far: CableStack, opened: ExitStack
) -> None:
    client = opened.enter_context(near.socket())
    with pytest.raises(ConnectionRefusedError):
        client.connect((B, 7))
    listener = opened.enter_context(far.socket())
    listener.bind(("0.0.0.0", 7))
    raises(errno.ECONNREFUSED, client.connect, (B, 7))
    listener.listen()
    client.connect((B, 7))
    server = opened.enter_context(listener.accept()[0])
    client.send(b"hello")
    assert server.recv(9) == b"hello"


def test_so_error_tells_a_refused_connect_once(near: CableStack) -> None:
    with near.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        raises(errno.EINPROGRESS, client.connect, (B, 7))
        assert client.vpoll.peek() & (OUT | ERR | HUP) == OUT | ERR | HUP
        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error == errno.ECONNREFUSED
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert not client.vpoll.peek() & ERR


def test_what_is_behind_the_backlog_comes_in_when_there_is_room(
    near: CableStack, listener: CableSocket, opened: ExitStack
) -> None:
    listener.listen(0)
    clients = [opened.enter_context(near.socket()) for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        raises(errno.EINPROGRESS, client.connect, (B, 7))
    assert [bool(client.vpoll.peek() & OUT) for client in clients] == [True, False, False]
    clients[1].close()
    opened.enter_context(listener.accept()[0])
    assert clients[2].vpoll.peek() & OUT
    accepted, address = listener.accept()
    opened.enter_context(accepted)
    assert address == clients[2].getsockname()


def test_a_flood_of_connections_is_refused_in_the_end(
    near: CableStack, listener: CableSocket, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpoll_asyncio.stacks.streams.end.SOMAXCONN", 2)
    listener.listen(0)
    clients = [opened.enter_context(near.socket()) for _ in range(5)]
    for client in clients:
        client.setblocking(False)
        raises(errno.EINPROGRESS, client.connect, (B, 7))
    errors = [client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in clients]
    assert errors == [0, 0, 0, errno.ECONNREFUSED, errno.ECONNREFUSED]


def test_a_listener_that_is_closed_resets_those_who_wait(
    near: CableStack, listener: CableSocket, opened: ExitStack
) -> None:
    listener.listen(0)
    clients = [opened.enter_context(near.socket()) for _ in range(2)]
    for client in clients:
        client.setblocking(False)
        raises(errno.EINPROGRESS, client.connect, (B, 7))
    listener.close()
    errors = [client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in clients]
    assert errors == [errno.ECONNRESET, errno.ECONNREFUSED]


@pytest.mark.parametrize(
    "tell",
    [
        lambda end: end.connected(1),
        lambda end: end.received(b"data"),
        lambda end: end.credited(1),
        lambda end: end.peer_shut(),
        lambda end: end.peer_reset(),
    ],
    ids=["connected", "received", "credited", "peer_shut", "peer_reset"],
)
def test_what_arrives_in_a_state_without_a_connection_changes_nothing(
    near: CableStack, listener: CableSocket, tell: Callable[[StreamEnd], bool]
) -> None:
    with near.socket() as fresh:
        for end in (fresh, listener):
            before = end.state, end.vpoll.peek()
            assert not tell(end)
            assert (end.state, end.vpoll.peek()) == before


def test_a_socket_that_does_not_listen_takes_no_connection(pair: Pair) -> None:
    assert not any(end.knocked((A, 1), (B, 1)) for end in pair)


def test_ipv6_sockets_have_addresses_of_four_parts(cable: Cable, opened: ExitStack) -> None:
    near = opened.enter_context(CableStack(cable, "fd00::1"))
    far = opened.enter_context(CableStack(cable, "fd00::2", B))
    listener = opened.enter_context(far.socket(socket.AF_INET6))
    listener.bind(("::", 7))
    listener.listen()
    client = opened.enter_context(near.socket(socket.AF_INET6))
    client.connect(("fd00::2", 7))
    server, peer = listener.accept()
    opened.enter_context(server)
    assert client.getpeername() == server.getsockname() == ("fd00::2", 7, 0, 0)
    assert server.getpeername() == peer == client.getsockname()
    assert peer[0] == "fd00::1"


@pytest.mark.parametrize(
    ("family", "kind", "number"),
    [
        (socket.AF_INET6, socket.SOCK_STREAM, errno.EAFNOSUPPORT),
        (socket.AF_UNIX, socket.SOCK_STREAM, errno.EAFNOSUPPORT),
        (socket.AF_INET, socket.SOCK_DGRAM, errno.ESOCKTNOSUPPORT),
    ],
)
def test_sockets_of_other_kinds_are_refused(
    near: CableStack, family: int, kind: int, number: int
) -> None:
    raises(number, near.socket, family, kind)


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        ("0.0.0.0", "0.0.0.0", errno.EADDRINUSE),
        ("0.0.0.0", A, errno.EADDRINUSE),
        (A, "0.0.0.0", errno.EADDRINUSE),
        (A, A, errno.EADDRINUSE),
        (A, B, 0),
        (A, "10.0.0.3", errno.EADDRNOTAVAIL),
    ],
)
def test_a_port_belongs_to_one_socket_of_an_address(
    cable: Cable, first: str, second: str, number: int
) -> None:
    with CableStack(cable, A, B) as stack, stack.socket() as one, stack.socket() as other:
        one.bind((first, 7))
        if number:
            raises(number, other.bind, (second, 7))
            one.close()
        if number != errno.EADDRNOTAVAIL:
            other.bind((second, 7))
            assert other.getsockname() == (second, 7)


def test_there_is_one_connection_between_two_ends(
    near: CableStack, pair: Pair, opened: ExitStack
) -> None:
    client, _ = pair
    port = client.getsockname()[1]
    near.table.release(client)
    again = opened.enter_context(near.socket())
    again.bind((A, port))
    raises(errno.EADDRNOTAVAIL, again.connect, (B, 7))


def test_ports_run_out(near: CableStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpoll_asyncio.stacks.streams.table._PORTS", 2)
    with near.socket() as one, near.socket() as two, near.socket() as three:
        one.bind((A, 0))
        two.bind((A, 0))
        raises(errno.EADDRINUSE, three.bind, (A, 0))
        raises(errno.EADDRNOTAVAIL, three.connect, (B, 7))
        one.close()
        three.bind((A, 0))


def test_a_stack_that_is_closed_has_no_network(
    near: CableStack, pair: Pair, opened: ExitStack
) -> None:
    client, server = pair
    fresh, listener = (opened.enter_context(near.socket()) for _ in range(2))
    listener.listen()
    near.close()
    near.close()
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN
    for call, arguments in (
        (client.recv, (1,)),
        (client.send, (b"x",)),
        (client.shutdown, (socket.SHUT_WR,)),
        (listener.accept, ()),
        (fresh.bind, ((A, 9),)),
        (fresh.listen, ()),
        (fresh.connect, ((B, 7),)),
    ):
        raises(errno.ENETDOWN, call, *arguments)
    raises(errno.ECONNRESET, server.recv, 1)


@pytest.mark.parametrize("call", ["recv", "accept"])
def test_who_is_blocked_hears_that_the_stack_is_closed(
    near: CableStack, far: CableStack, listener: CableSocket, pair: Pair, call: str
) -> None:
    sock, blocked = (pair[0], near) if call == "recv" else (listener, far)
    raised: list[OSError] = []

    def wait() -> None:
        with pytest.raises(OSError) as caught:
            sock.recv(1) if call == "recv" else sock.accept()
        raised.append(caught.value)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    file = sock.vpoll.file
    assert file is not None
    wait_until(lambda: bool(file.waiters), "a thread that is blocked")
    blocked.close()
    thread.join(30)
    assert [exc.errno for exc in raised] == [errno.ENETDOWN]


def test_a_socket_that_is_forgotten_is_closed(pair: Pair, near: CableStack) -> None:
    _, server = pair
    kept = [near.socket()]
    kept[0].bind((A, 9))
    with pytest.warns(ResourceWarning):
        kept.clear()
    with near.socket() as other:
        other.bind((A, 9))
    assert server.state is StreamState.ESTABLISHED


def test_waiters_run_without_the_lock(pair: Pair) -> None:
    client, server = pair
    names: list[object] = []

    def waiter(mask: int) -> None:
        thread = threading.Thread(target=lambda: names.append(server.getsockname()), daemon=True)
        thread.start()
        thread.join(10)

    server.vpoll.add_waiter(waiter)
    client.send(b"wake")
    server.vpoll.remove_waiter(waiter)
    assert names == [(B, 7)]


def test_a_waiter_that_fails_keeps_no_other_from_its_event(
    near: CableStack, listener: CableSocket
) -> None:
    def fail(mask: int) -> None:
        raise RuntimeError("a waiter's own")

    with near.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        client.vpoll.add_waiter(fail)
        listener.vpoll.add_waiter(fail)
        with pytest.raises(RuntimeError):
            client.connect((B, 7))
        client.vpoll.remove_waiter(fail)
        listener.vpoll.remove_waiter(fail)
        assert client.vpoll.peek() == OUT | EventMask.WRNORM
        assert listener.vpoll.peek() == EventMask.IN | EventMask.RDNORM
        listener.accept()[0].close()


def test_waiters_hear_of_more_data_and_not_of_calls_that_change_nothing(pair: Pair) -> None:
    client, server = pair
    heard: list[int] = []
    server.vpoll.add_waiter(heard.append)
    for _ in range(3):
        client.send(b"more")
        server.recv(1)
        server.getpeername()
    server.vpoll.remove_waiter(heard.append)
    assert heard == [server.vpoll.peek()] * 3


def test_a_protocol_that_fails_leaves_the_lock_and_the_masks_whole(
    cable: Cable, pair: Pair
) -> None:
    client, server = pair
    cable.failure = OSError(errno.EIO, "the cable is cut")
    raises(errno.EIO, client.shutdown, socket.SHUT_WR)
    assert not client.vpoll.peek() & HUP
    cable.failure = None
    thread = threading.Thread(target=server.shutdown, args=[socket.SHUT_WR], daemon=True)
    thread.start()
    thread.join(10)
    assert client.vpoll.peek() & server.vpoll.peek() & HUP
    assert server.recv(1) == client.recv(1) == b""


def test_what_a_nested_section_sends_is_delivered_by_the_outermost(
    cable: Cable, pair: Pair
) -> None:
    client, server = pair
    with cable.lock:
        client.send(b"nested")
        assert server.buffer.readable == 0
    assert server.recv(9) == b"nested"


def test_what_is_sent_while_a_section_ends_is_delivered(cable: Cable, pair: Pair) -> None:
    client, server = pair
    take_mask = client.take_mask
    sent: list[int] = []

    def closing_meanwhile() -> None:
        # As a finalizer may, anywhere.
        take_mask()
        if not sent:
            sent.append(server.send(b"late"))

    client.take_mask = closing_meanwhile  # type: ignore[method-assign]
    client.getsockname()
    assert client.recv(9, socket.MSG_DONTWAIT) == b"late"


def test_two_threads_send_at_once_in_both_directions(pair: Pair) -> None:
    amount = 200_000

    def send(sock: CableSocket) -> None:
        for _ in range(amount // 1000):
            sock.sendall(b"y" * 1000)
        sock.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=send, args=[sock], daemon=True) for sock in pair]
    for thread in threads:
        thread.start()
    for sock in pair:
        sock.settimeout(30)
        with closing(sock.makefile("rb")) as file:
            assert len(file.read()) == amount
    for thread in threads:
        thread.join()


def test_options(pair: Pair) -> None:
    client, server = pair
    level = socket.SOL_SOCKET
    client.setsockopt(level, socket.SO_RCVBUF, 4096)
    client.setsockopt(level, socket.SO_SNDBUF, struct.pack("i", 5000))
    assert client.getsockopt(level, socket.SO_RCVBUF) == 4096
    assert client.getsockopt(level, socket.SO_SNDBUF) == 5000
    raises(errno.EINVAL, client.setsockopt, level, socket.SO_RCVBUF, b"x")
    raises(errno.EINVAL, client.setsockopt, level, socket.SO_LINGER, 1)
    client.setsockopt(level, socket.SO_REUSEADDR, 1)
    assert client.getsockopt(level, socket.SO_REUSEADDR) == 1
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    raises(errno.ENOPROTOOPT, client.setsockopt, level, socket.SO_KEEPALIVE, 1)
    raises(errno.ENOPROTOOPT, client.getsockopt, socket.IPPROTO_TCP, socket.TCP_CORK)
    linger = struct.pack("ii", 1, 0)
    client.setsockopt(level, socket.SO_LINGER, linger)
    assert client.getsockopt(level, socket.SO_LINGER, 8) == linger
    client.close()
    raises(errno.ECONNRESET, server.recv, 1)
