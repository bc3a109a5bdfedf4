"""Networks in memory: who reaches whom, whose an address is, and what closing does."""

from __future__ import annotations

import errno
import gc
import itertools
import socket
import weakref
from collections.abc import Iterator

import pytest

from memory_helpers import DEAD, ERR, HUP, Lab, R, W, error_of, failure, mask_of
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.memory import ManualClock, MemoryStack, ports, timewait

_names = itertools.count()


@pytest.fixture
def vnl() -> str:
    return f"mem://test{next(_names)}"


@pytest.fixture
def two(vnl: str) -> Iterator[tuple[MemoryStack, MemoryStack]]:
    with (
        MemoryStack(vnl=vnl, ip=["10.0.0.1/24", "fd00::1/64"], hostname="one") as one,
        MemoryStack(vnl=vnl, ip=["10.0.0.2/24", "fd00::2/64"], hostname="two") as two,
    ):
        yield one, two


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_hosts_of_one_network_connect(two: tuple[MemoryStack, MemoryStack], address: str) -> None:
    server, client = Lab(two[0], address), Lab(two[1], address)
    listener = server.listener()
    sock = client.connecting(listener)
    accepted, peer = listener.accept()
    assert peer[0] == address[:-1] + "2"
    sock.send(b"across")
    assert accepted.recv(10) == b"across"
    accepted.close()
    client.close()
    server.close()


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_datagrams_cross_the_network(two: tuple[MemoryStack, MemoryStack], address: str) -> None:
    server, client = Lab(two[0], address), Lab(two[1], address)
    receiver, sender = server.bound(server.datagram()), client.datagram()
    sender.sendto(b"across", receiver.getsockname())
    data, peer = receiver.recvfrom(10)
    assert data == b"across"
    assert peer[0] == address[:-1] + "2"
    receiver.sendto(b"back", peer)
    assert sender.recv(10) == b"back"
    client.close()
    server.close()


def test_loopback_is_each_host_s_own(two: tuple[MemoryStack, MemoryStack]) -> None:
    one, other = Lab(two[0]), Lab(two[1])
    address = one.listener().getsockname()
    sock = other.stream()
    sock.connect_ex(address)
    assert error_of(sock) == errno.ECONNREFUSED
    one.close()
    other.close()


def test_wildcard_serves_every_address(two: tuple[MemoryStack, MemoryStack]) -> None:
    one, other = Lab(two[0], "::"), Lab(two[1])
    listener = one.listener()
    port = listener.getsockname()[1]
    for lab, host in ((other, "10.0.0.1"), (one, "10.0.0.1"), (one, "127.0.0.7")):
        sock = lab.keep(lab.stack.socket(socket.AF_INET))
        sock.connect_ex((host, port))
        assert mask_of(sock) == W
        accepted, _ = listener.accept()
        assert accepted.getsockname()[0] == f"::ffff:{host}"
        accepted.close()
    for lab, host in ((other, "fd00::1"), (one, "::1")):
        sock = lab.keep(lab.stack.socket(socket.AF_INET6))
        sock.connect_ex((host, port))
        assert mask_of(sock) == W
    one.close()
    other.close()


def test_networks_are_apart() -> None:
    with MemoryStack(ip="10.0.0.1/24") as one, MemoryStack(ip="10.0.0.1/24") as other:
        listener = Lab(one, "10.0.0.1")
        address = listener.listener().getsockname()
        lab = Lab(other)
        sock = lab.stream()
        sock.connect_ex(address)
        assert error_of(sock) == errno.ECONNREFUSED
        lab.close()
        listener.close()


def test_hosts_reach_each_other_across_prefixes(vnl: str) -> None:
    with MemoryStack(vnl=vnl, ip="10.0.0.1/24") as one, MemoryStack(vnl=vnl, ip="10.9.0.1/24") as b:
        server, client = Lab(one, "10.0.0.1"), Lab(b)
        sock = client.connecting(server.listener())
        assert sock.getsockname()[0] == "10.9.0.1"
        client.close()
        server.close()


def test_no_route(vnl: str) -> None:
    with MemoryStack(vnl=vnl, ip="10.0.0.1/24") as stack, MemoryStack() as lonely:
        lab, alone = Lab(stack), Lab(lonely)
        assert lab.stream().connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH
        assert failure(lab.datagram().sendto, b"x", ("192.0.2.1", 80)) == errno.ENETUNREACH
        assert alone.stream().connect_ex(("10.0.0.1", 80)) == errno.ENETUNREACH
        six = lab.keep(stack.socket(socket.AF_INET6))
        assert six.connect_ex(("fd00::1", 80)) == errno.ENETUNREACH
        lab.close()
        alone.close()


@pytest.mark.parametrize(("gw", "address"), [(None, "10.0.0.9"), ("10.0.0.254", "192.0.2.1")])
def test_nobody_has_the_address(vnl: str, gw: str | None, address: str) -> None:
    with MemoryStack(vnl=vnl, ip="10.0.0.1/24", gw=gw) as stack:
        lab = Lab(stack)
        sock = lab.stream()
        assert sock.connect_ex((address, 80)) == errno.EINPROGRESS
        assert mask_of(sock) == DEAD | ERR
        assert error_of(sock) == errno.EHOSTUNREACH
        datagram = lab.datagram()
        datagram.sendto(b"lost", (address, 80))
        assert error_of(datagram) == 0
        lab.close()


def test_loopback_address_is_no_source_for_the_network(
    two: tuple[MemoryStack, MemoryStack],
) -> None:
    lab = Lab(two[0])
    assert lab.bound(lab.stream()).connect_ex(("10.0.0.2", 80)) == errno.EINVAL
    lab.close()


def test_broadcast_reaches_everybody_who_listens(vnl: str) -> None:
    with (
        MemoryStack(vnl=vnl, ip="10.0.0.1/24") as one,
        MemoryStack(vnl=vnl, ip="10.0.0.2/24") as near,
        MemoryStack(vnl=vnl, ip="10.9.0.1/24") as far,
    ):
        labs = [Lab(stack) for stack in (one, near, far)]
        receivers = [lab.datagram() for lab in labs]
        for receiver in receivers:
            receiver.bind(("", 9000))
        sender = labs[0].datagram()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"all", ("10.0.0.255", 9000))
        assert [bool(mask_of(receiver) & R) for receiver in receivers] == [True, True, False]
        for lab in labs:
            lab.close()


@pytest.fixture
def link_local(vnl: str) -> Iterator[tuple[MemoryStack, MemoryStack]]:
    with (
        MemoryStack(vnl=vnl, ip="fe80::1/64", hostname="one") as one,
        MemoryStack(vnl=vnl, ip="fe80::2/64") as two,
    ):
        yield one, two


def test_link_local_addresses_carry_their_scope(
    link_local: tuple[MemoryStack, MemoryStack],
) -> None:
    one, two = link_local
    lab, other = Lab(one, "fe80::1"), Lab(two, "fe80::2")
    listener = lab.stream()
    listener.bind(("fe80::1", 80, 0, 2))
    listener.listen()
    assert listener.getsockname() == ("fe80::1", 80, 0, 2)
    client = other.stream_to(("fe80::1", 80, 0, 2))
    assert client.getpeername() == ("fe80::1", 80, 0, 2)
    connection, address = listener.accept()
    assert address == client.getsockname() == connection.getpeername()
    assert (address[0], address[3]) == ("fe80::2", 2)
    assert two.getaddrinfo("one", 80, type=socket.SOCK_STREAM)[0][4] == ("fe80::1", 80, 0, 2)
    connection.close()
    lab.close()
    other.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("call", ["bind", "connect"])
@pytest.mark.parametrize("scope", [0, 99])
def test_link_local_address_of_no_interface(
    link_local: tuple[MemoryStack, MemoryStack], kind: int, call: str, scope: int
) -> None:
    """The numbers are Linux's, for its own link-local address of a veth."""
    expected = {
        ("bind", 0): errno.EINVAL,
        ("bind", 99): errno.ENODEV,
        ("connect", 0): errno.EINVAL,
        ("connect", 99): errno.ENETUNREACH,
    }
    with link_local[0].socket(socket.AF_INET6, kind) as sock:
        number = failure(getattr(sock, call), ("fe80::1", 80, 0, scope))
    assert number == expected[call, scope]


@pytest.mark.parametrize("scope", [0, 2])
def test_scope_follows_from_a_link_local_address(
    link_local: tuple[MemoryStack, MemoryStack], scope: int
) -> None:
    lab = Lab(link_local[0], "fe80::1")
    bound, sender = lab.datagram(), lab.datagram()
    bound.bind(("fe80::1", 80, 0, 2))
    bound.connect(("fe80::1", 80, 0, scope))
    assert bound.getpeername() == ("fe80::1", 80, 0, 2)
    assert sender.sendto(b"a", ("fe80::1", 80, 0, scope)) == 1
    assert failure(sender.sendto, b"a", ("fe80::1", 80, 0, 99)) == errno.ENETUNREACH
    lab.close()


def test_names(two: tuple[MemoryStack, MemoryStack]) -> None:
    one, _ = two
    found = one.getaddrinfo("two", 80, type=socket.SOCK_STREAM)
    assert [answer[4][0] for answer in found] == ["10.0.0.2", "fd00::2"]
    found = one.getaddrinfo("two", 80, socket.AF_INET6, socket.SOCK_STREAM)
    assert [answer[4][0] for answer in found] == ["fd00::2"]
    with pytest.raises(socket.gaierror) as caught:
        one.getaddrinfo("three", 80)
    assert caught.value.errno == socket.EAI_NONAME
    with Lab(two[1], "10.0.0.2").listener() as listener, one.socket() as client:
        client.connect(("two", listener.getsockname()[1]))


def test_address_of_another_stack(vnl: str) -> None:
    with MemoryStack(vnl=vnl, ip="10.0.0.1/24"):
        with pytest.raises(OSError, match=r"10\.0\.0\.1 is already") as caught:
            MemoryStack(vnl=vnl, ip=["10.0.0.2/24", "10.0.0.1/8"])
        assert caught.value.errno == errno.EADDRINUSE
        # The other address was not taken on the way.
        MemoryStack(vnl=vnl, ip="10.0.0.2/24").close()


def test_address_is_given_back(vnl: str) -> None:
    for _ in range(2):
        with MemoryStack(vnl=vnl, ip="10.0.0.1/24", hostname="same"):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vnl": "slirp://"}, "mem://NAME"),
        ({"vnl": "mem://"}, "mem://NAME"),
        ({"ip": "10.0.0.300/24"}, r"10\.0\.0\.300"),
        ({"ip": "127.0.0.1/8"}, "loopback"),
        ({"ip": ["10.0.0.1/24", "10.0.0.1/8"]}, "twice"),
        ({"gw": "router"}, "router"),
    ],
)
def test_malformed_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryStack(**options)


def test_opened_by_name(vnl: str) -> None:
    with open_stack(f"stack=memory,vnl={vnl},ip=10.0.0.1/24,ip=fd00::1/64") as stack:
        assert isinstance(stack, MemoryStack)
        assert stack.addresses == ["10.0.0.1/24", "fd00::1/64"]


@pytest.mark.parametrize(
    ("family", "kind", "proto", "number"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, errno.EAFNOSUPPORT),
        (socket.AF_INET, socket.SOCK_RAW, 0, errno.ESOCKTNOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, errno.EPROTONOSUPPORT),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_TCP, errno.EPROTONOSUPPORT),
    ],
)
def test_sockets_that_it_does_not_have(family: int, kind: int, proto: int, number: int) -> None:
    with MemoryStack() as stack:
        assert failure(stack.socket, family, kind, proto) == number


# Closing a stack.


def test_sockets_of_a_closed_stack_are_dead(two: tuple[MemoryStack, MemoryStack]) -> None:
    one, other = two
    lab, peers = Lab(one, "10.0.0.1"), Lab(other, "10.0.0.2")
    listener = lab.listener()
    peer = peers.connecting(listener)
    waiting = peers.connecting(listener)
    server = lab.keep(listener.accept()[0])
    fresh, datagram = lab.stream(), lab.bound(lab.datagram())
    one.close()
    one.close()
    assert one.closed
    for sock in (listener, server, fresh, datagram):
        assert mask_of(sock) & (HUP | ERR) == HUP | ERR
        assert error_of(sock) == errno.ENETDOWN
        assert failure(sock.recv, 1) == errno.ENETDOWN
        assert failure(sock.send, b"x") == errno.ENETDOWN
        assert failure(sock.bind, ("", 0)) == errno.ENETDOWN
        assert failure(sock.connect, ("10.0.0.2", 1)) == errno.ENETDOWN
        assert mask_of(sock) & HUP
    assert failure(listener.accept) == errno.ENETDOWN
    assert failure(one.socket) == errno.ENETDOWN
    for sock in (peer, waiting):
        assert mask_of(sock) == DEAD | ERR
        assert error_of(sock) == errno.ECONNRESET
    lab.close()
    peers.close()


def test_open_stack_that_is_collected_is_reported(vnl: str) -> None:
    stack = MemoryStack(vnl=vnl, ip="10.0.0.1/24")
    cycle: list[object] = [stack]
    cycle.append(cycle)
    del stack, cycle
    with pytest.warns(ResourceWarning, match="unclosed <MemoryStack mem://"):
        gc.collect()
    MemoryStack(vnl=vnl, ip="10.0.0.1/24").close()


def test_network_ends_with_its_last_stack(vnl: str) -> None:
    first = MemoryStack(vnl=vnl, ip="10.0.0.1/24")
    listener = first.socket()
    listener.bind(("", 80))
    gone = weakref.ref(listener)
    listener.close()
    first.close()
    del listener, first
    gc.collect()
    assert gone() is None


# Sockets that nobody uses any more.


def test_socket_that_is_collected_open_is_closed(two: tuple[MemoryStack, MemoryStack]) -> None:
    lab, peers = Lab(two[0], "10.0.0.1"), Lab(two[1], "10.0.0.2")
    listener = lab.listener()
    client = peers.connecting(listener)
    server = listener.accept()[0]
    cycle: list[object] = [server]
    cycle.append(cycle)
    del server, cycle
    with pytest.warns(ResourceWarning, match="unclosed"):
        gc.collect()
    assert client.recv(1) == b""
    lab.close()
    peers.close()


def test_listener_that_is_collected_open_gives_its_port_back() -> None:
    with MemoryStack() as stack:
        listener = stack.socket()
        listener.bind(("", 80))
        listener.listen()
        cycle: list[object] = [listener]
        cycle.append(cycle)
        del listener, cycle
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()
        with stack.socket() as sock:
            sock.bind(("", 80))


def test_closing_everything_leaves_nothing_behind() -> None:
    with MemoryStack() as stack:
        lab = Lab(stack)
        listener = lab.listener()
        address = listener.getsockname()
        for _ in range(50):
            client = lab.connecting(listener)
            server = listener.accept()[0]
            client.send(b"unread")
            client.close()
            server.close()
        lab.close()
        with stack.socket() as sock:
            sock.bind(address)


def connection_that_ends(lab: Lab, listener: socket.socket) -> None:
    """The server closes first: its port, which is the listener's, is in TIME_WAIT."""
    client = lab.connecting(listener)
    listener.accept()[0].close()
    client.close()


def test_port_of_an_ended_connection_is_kept_for_a_minute() -> None:
    clock = ManualClock()
    with MemoryStack() as stack:
        stack.network.clock = clock
        lab = Lab(stack)
        listener = lab.listener()
        address = listener.getsockname()
        connection_that_ends(lab, listener)
        clock.advance(30)
        connection_that_ends(lab, listener)
        listener.close()
        for later in (59.9, 60.1, 89.9):
            clock.advance(later - clock.time())
            assert failure(lab.stream().bind, address) == errno.EADDRINUSE
        clock.advance(90.1 - clock.time())
        lab.stream().bind(address)
        lab.close()


def test_ports_are_kept_for_so_many_ended_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timewait, "MOST", 3)
    with MemoryStack() as stack:
        lab = Lab(stack)
        taken = []
        for _ in range(5):
            listener = lab.listener()
            address = listener.getsockname()
            connection_that_ends(lab, listener)
            listener.close()
            try:
                lab.stream().bind(address)
            except OSError as exc:
                taken.append(exc.errno)
        assert taken == [errno.EADDRINUSE] * 3
        lab.close()


@pytest.fixture
def four_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "EPHEMERAL", range(50000, 50004))


@pytest.mark.usefixtures("four_ports")
def test_ephemeral_ports_run_out_for_each_destination_by_itself() -> None:
    with MemoryStack() as stack:
        lab = Lab(stack)
        addresses = [("127.0.0.1", 80), ("127.0.0.1", 81)]
        for address in addresses:
            listener = lab.stream()
            listener.bind(address)
            listener.listen(100)
        for address in addresses:
            names = {lab.stream_to(address).getsockname() for _ in range(4)}
            assert {port for _, port in names} == set(range(50000, 50004))
            assert lab.stream().connect_ex(address) == errno.EADDRNOTAVAIL
        assert failure(lab.stream().bind, ("", 0)) == errno.EADDRINUSE
        lab.close()


@pytest.mark.usefixtures("four_ports")
def test_ephemeral_ports_are_given_back() -> None:
    with MemoryStack() as stack:
        lab = Lab(stack)
        listener = lab.stream()
        listener.bind(("", 80))
        listener.listen()
        for _ in range(20):
            client = lab.stream_to(("127.0.0.1", 80))
            listener.accept()[0].close()
            client.close()
        lab.close()
