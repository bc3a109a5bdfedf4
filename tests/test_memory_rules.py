"""What may be bound, connected, shut down and set: the memory stack's rules and the kernel's."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from memory_helpers import (
    DEAD,
    ERR,
    FIONREAD,
    HUP,
    RDHUP,
    SIOCATMARK,
    Lab,
    R,
    W,
    ask,
    error_of,
    failure,
    mask_of,
    settles,
)
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack

SOL = socket.SOL_SOCKET
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


def make(lab: Lab, kind: int, family: int = socket.AF_INET) -> socket.socket:
    return lab.keep(lab.stack.socket(family, kind))


# bind.


@pytest.mark.parametrize("kind", KINDS)
def test_unbound_name(lab: Lab, kind: int) -> None:
    assert make(lab, kind).getsockname() == ("0.0.0.0", 0)
    assert make(lab, kind, socket.AF_INET6).getsockname() == ("::", 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_port_zero_is_an_ephemeral_port(lab: Lab, kind: int) -> None:
    sock = lab.bound(make(lab, kind))
    host, port = sock.getsockname()
    assert host == "127.0.0.1"
    assert 1024 < port < 65536


@pytest.mark.parametrize("kind", KINDS)
def test_port_in_use(lab: Lab, kind: int) -> None:
    first = lab.bound(make(lab, kind))
    assert failure(make(lab, kind).bind, first.getsockname()) == errno.EADDRINUSE


@pytest.mark.parametrize("kind", KINDS)
def test_wildcard_conflicts_with_an_address(lab: Lab, kind: int) -> None:
    port = lab.bound(make(lab, kind)).getsockname()[1]
    assert failure(make(lab, kind).bind, ("", port)) == errno.EADDRINUSE


@pytest.mark.parametrize("kind", KINDS)
def test_another_address_has_its_own_ports(lab: Lab, kind: int) -> None:
    port = lab.bound(make(lab, kind)).getsockname()[1]
    make(lab, kind).bind(("127.0.0.2", port))


@pytest.mark.parametrize("kind", KINDS)
def test_dual_stack_wildcard_conflicts_with_ipv4_unless_v6only(lab: Lab, kind: int) -> None:
    port = lab.bound(make(lab, kind)).getsockname()[1]
    six = make(lab, kind, socket.AF_INET6)
    assert failure(six.bind, ("::", port)) == errno.EADDRINUSE
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", port))


@pytest.mark.parametrize("kind", KINDS)
def test_port_is_free_after_close(lab: Lab, kind: int) -> None:
    first = lab.bound(make(lab, kind))
    name = first.getsockname()
    first.close()
    make(lab, kind).bind(name)


@pytest.mark.parametrize("kind", KINDS)
def test_address_of_nobody(lab: Lab, kind: int) -> None:
    assert failure(make(lab, kind).bind, ("192.0.2.1", 0)) == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("kind", KINDS)
def test_second_bind(lab: Lab, kind: int) -> None:
    sock = lab.bound(make(lab, kind))
    assert failure(sock.bind, ("127.0.0.1", 0)) == errno.EINVAL


def test_mapped_address_on_a_v6only_socket(lab: Lab) -> None:
    six = make(lab, socket.SOCK_STREAM, socket.AF_INET6)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    assert failure(six.bind, ("::ffff:127.0.0.1", 0)) == errno.EINVAL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_port_is_shared_when_both_agree(lab: Lab, kind: int, option: int) -> None:
    first, second, third = (make(lab, kind) for _ in range(3))
    for sock in (first, second):
        sock.setsockopt(SOL, option, 1)
    lab.bound(first)
    second.bind(first.getsockname())
    assert failure(third.bind, first.getsockname()) == errno.EADDRINUSE


def test_reuseaddr_does_not_share_a_listener(lab: Lab) -> None:
    first, second, third = (lab.stream() for _ in range(3))
    for sock in (first, second, third):
        sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
    lab.bound(first)
    second.bind(first.getsockname())
    first.listen()
    assert failure(second.listen) == errno.EADDRINUSE
    assert failure(third.bind, first.getsockname()) == errno.EADDRINUSE


def test_reuseport_shares_a_listener(lab: Lab) -> None:
    first, second = lab.stream(), lab.stream()
    for sock in (first, second):
        sock.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    lab.bound(first).listen()
    second.bind(first.getsockname())
    second.listen()
    client = lab.connecting(first)
    settles(client, W)
    assert sorted([mask_of(first), mask_of(second)]) == [0, R]


def test_connection_keeps_the_port_of_its_closed_listener(lab: Lab) -> None:
    listener = lab.listener()
    name = listener.getsockname()
    settles(lab.connecting(listener), W)
    lab.keep(listener.accept()[0])
    listener.close()
    assert failure(lab.stream().bind, name) == errno.EADDRINUSE


# listen and accept.


@pytest.mark.parametrize("reuse_then", [False, True])
@pytest.mark.parametrize("reuse_now", [False, True])
def test_who_closes_first_keeps_the_port(lab: Lab, reuse_then: bool, reuse_now: bool) -> None:
    listener = lab.bound(lab.stream())
    listener.setsockopt(SOL, socket.SO_REUSEADDR, reuse_then)
    listener.listen()
    address = listener.getsockname()
    client = lab.connecting(listener)
    settles(client, W)
    server = lab.keep(listener.accept()[0])
    listener.close()
    server.close()
    settles(client, R | W | RDHUP)
    client.close()
    again = lab.stream()
    again.setsockopt(SOL, socket.SO_REUSEADDR, reuse_now)
    if reuse_then and reuse_now:
        again.bind(address)
    else:
        assert failure(again.bind, address) == errno.EADDRINUSE


@pytest.mark.parametrize("ending", ["second", "reset"])
def test_who_does_not_close_first_gives_the_port_back(lab: Lab, ending: str) -> None:
    listener = lab.listener()
    address = listener.getsockname()
    client = lab.connecting(listener)
    settles(client, W)
    server = lab.keep(listener.accept()[0])
    listener.close()
    if ending == "second":
        client.close()
        settles(server, R | W | RDHUP)
    else:
        client.send(b"unread")
        settles(server, R | W)
    server.close()
    lab.stream().bind(address)


def test_connection_between_the_ports_of_an_ended_one(lab: Lab) -> None:
    listener = lab.listener()
    name = None
    for _ in range(3):
        client = lab.stream()
        client.setsockopt(SOL, socket.SO_REUSEADDR, 1)
        client.bind(name or (lab.address, 0))
        name = client.getsockname()
        client.connect_ex(listener.getsockname())
        settles(client, W)
        server = lab.keep(listener.accept()[0])
        client.close()
        settles(server, R | W | RDHUP)
        server.close()


def test_port_of_a_closed_socket_whose_peer_stays(lab: Lab) -> None:
    listener = lab.listener()
    address = listener.getsockname()
    client = lab.connecting(listener)
    settles(client, W)
    lab.keep(listener.accept()[0]).close()
    listener.close()
    settles(client, R | W | RDHUP)
    assert failure(lab.stream().bind, address) == errno.EADDRINUSE
    client.send(b"nobody reads this")
    settles(client, DEAD | ERR)
    lab.stream().bind(address)


def test_specific_ipv6_address_is_for_ipv6_only(lab: Lab) -> None:
    six = make(lab, socket.SOCK_STREAM, socket.AF_INET6)
    assert not six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    six.bind(("::1", 0))
    assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert failure(six.connect, ("::ffff:127.0.0.1", 9)) == errno.ENETUNREACH


def test_socket_at_an_ipv4_address_and_an_ipv6_one(lab: Lab) -> None:
    six = make(lab, socket.SOCK_STREAM, socket.AF_INET6)
    six.bind(("::ffff:127.0.0.1", 0))
    assert failure(six.connect, ("::1", 9)) == errno.EAFNOSUPPORT


def test_what_is_shut_down_before_listening_is_inherited(lab: Lab) -> None:
    listener = lab.bound(lab.stream())
    assert failure(listener.shutdown, socket.SHUT_WR) == errno.ENOTCONN
    listener.listen()
    client = lab.connecting(listener)
    settles(client, R | W | RDHUP)
    assert failure(lab.keep(listener.accept()[0]).send, b"a") == errno.EPIPE


def test_listen_binds(lab: Lab) -> None:
    sock = lab.stream()
    sock.listen()
    assert sock.getsockname()[1]
    assert sock.getsockopt(SOL, socket.SO_ACCEPTCONN) == 1


def test_accept_without_listen(lab: Lab) -> None:
    assert failure(lab.bound(lab.stream()).accept) == errno.EINVAL
    assert failure(lab.datagram().accept) == errno.EOPNOTSUPP


def test_accept_without_a_connection(lab: Lab) -> None:
    assert failure(lab.listener().accept) == errno.EAGAIN


def test_listener_has_no_data_and_no_peer(lab: Lab) -> None:
    listener = lab.listener()
    assert failure(listener.recv, 1) == errno.ENOTCONN
    assert failure(listener.send, b"x") == errno.EPIPE
    assert failure(listener.getpeername) == errno.ENOTCONN
    assert failure(listener.connect, listener.getsockname()) == errno.EISCONN
    assert failure(ask, listener, FIONREAD) == errno.EINVAL


def test_names_of_a_connection(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.connecting(listener)
    settles(listener, R)
    server, address = listener.accept()
    lab.keep(server)
    assert address == client.getsockname() == server.getpeername()
    assert client.getpeername() == server.getsockname() == listener.getsockname()


def test_dual_stack_listener_sees_ipv4_as_mapped(lab: Lab) -> None:
    listener = make(lab, socket.SOCK_STREAM, socket.AF_INET6)
    listener.bind(("::", 0))
    listener.listen()
    client = lab.stream()
    client.connect_ex(("127.0.0.1", listener.getsockname()[1]))
    settles(listener, R)
    server, address = listener.accept()
    lab.keep(server)
    assert address == ("::ffff:127.0.0.1", client.getsockname()[1], 0, 0)
    assert server.getsockname()[0] == "::ffff:127.0.0.1"


def test_shutdown_for_reading_ends_listening(lab: Lab) -> None:
    listener = lab.listener()
    waiting = lab.connecting(listener)
    settles(waiting, W)
    listener.shutdown(socket.SHUT_WR)
    assert mask_of(listener) == R
    listener.shutdown(socket.SHUT_RD)
    assert mask_of(listener) == W | HUP
    assert failure(waiting.recv, 1) == errno.ECONNRESET
    assert failure(listener.accept) == errno.EINVAL
    listener.listen()
    assert mask_of(listener) == 0


# connect.


def test_connect_again_succeeds_once(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.connecting(listener)
    settles(client, W)
    assert client.connect_ex(listener.getsockname()) == 0
    assert client.connect_ex(listener.getsockname()) == errno.EISCONN


def test_connect_while_connecting(lab: Lab) -> None:
    listener = lab.listener(0)
    settles(lab.connecting(listener), W)
    client = lab.connecting(listener)
    assert client.connect_ex(listener.getsockname()) == errno.EALREADY
    assert failure(client.getpeername) == errno.ENOTCONN
    assert failure(client.recv, 1) == errno.EAGAIN
    assert failure(client.send, b"x") == errno.EAGAIN


def test_shutdown_while_connecting_gives_up(lab: Lab) -> None:
    listener = lab.listener(0)
    settles(lab.connecting(listener), W)
    client = lab.connecting(listener)
    client.shutdown(socket.SHUT_RDWR)
    assert error_of(client) == errno.ECONNRESET
    assert mask_of(client) == W | HUP
    lab.keep(listener.accept()[0])
    assert failure(listener.accept) == errno.EAGAIN


@pytest.mark.parametrize("taken", [False, True])
def test_connect_again_after_refused(lab: Lab, taken: bool) -> None:
    client = lab.stream()
    client.connect_ex(lab.refusing_address())
    settles(client, mask_of(client) | HUP)
    if taken:
        assert error_of(client) == errno.ECONNREFUSED
    listener = lab.listener()
    expected = errno.ECONNABORTED if taken else errno.ECONNREFUSED
    assert client.connect_ex(listener.getsockname()) == expected
    assert mask_of(client) == W | HUP
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    settles(client, W)


def test_connect_to_the_wildcard_is_to_oneself(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.stream()
    client.connect_ex(("0.0.0.0", listener.getsockname()[1]))
    settles(client, W)
    assert client.getpeername()[0] == "127.0.0.1"


def test_connection_with_oneself(lab: Lab) -> None:
    sock = lab.bound(lab.stream())
    sock.connect_ex(sock.getsockname())
    settles(sock, W)
    assert sock.getpeername() == sock.getsockname()
    sock.send(b"to myself")
    settles(sock, R | W)
    assert sock.recv(20) == b"to myself"
    sock.shutdown(socket.SHUT_WR)
    settles(sock, R | W | HUP | RDHUP)
    assert sock.recv(20) == b""


def test_same_connection_twice(lab: Lab) -> None:
    listener = lab.listener()
    first, second = lab.stream(), lab.stream()
    for sock in (first, second):
        sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
    lab.bound(first)
    second.bind(first.getsockname())
    first.connect_ex(listener.getsockname())
    settles(first, W)
    assert second.connect_ex(listener.getsockname()) == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("kind", KINDS)
def test_shutdown_of_the_unconnected(lab: Lab, kind: int, how: int) -> None:
    assert failure(make(lab, kind).shutdown, how) == errno.ENOTCONN


def test_fresh_stream_neither_sends_nor_receives(lab: Lab) -> None:
    assert failure(lab.stream().send, b"x") == errno.EPIPE
    assert failure(lab.stream().recv, 1) == errno.ENOTCONN


# Datagrams.


def test_datagram_without_a_destination(lab: Lab) -> None:
    assert failure(lab.datagram().send, b"x") == errno.EDESTADDRREQ


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65507), ("::1", 65527)])
def test_largest_datagram(lab: Lab, host: str, largest: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    receiver, sender = (make(lab, socket.SOCK_DGRAM, family) for _ in range(2))
    receiver.bind((host, 0))
    assert sender.sendto(bytes(largest), receiver.getsockname()) == largest
    assert len(receiver.recv(1 << 17)) == largest
    address = receiver.getsockname()
    assert failure(sender.sendto, bytes(largest + 1), address) == errno.EMSGSIZE


def test_long_datagram_is_cut(lab: Lab) -> None:
    receiver, sender = lab.bound(lab.datagram()), lab.bound(lab.datagram())
    for _ in range(3):
        sender.sendto(b"datagram", receiver.getsockname())
    settles(receiver, mask_of(receiver) | R)
    assert ask(receiver, FIONREAD) == 8
    data, _, flags, address = receiver.recvmsg(4)
    assert (data, flags & socket.MSG_TRUNC, address) == (
        b"data",
        socket.MSG_TRUNC,
        sender.getsockname(),
    )
    buffer = bytearray(4)
    assert receiver.recv_into(buffer, 4, socket.MSG_TRUNC) == 8
    assert buffer == b"data"
    assert receiver.recvfrom(4) == (b"data", sender.getsockname())
    assert failure(receiver.recv, 4) == errno.EAGAIN


def test_connected_datagram_socket_hears_its_peer_only(lab: Lab) -> None:
    receiver, peer, stranger = (lab.bound(lab.datagram()) for _ in range(3))
    receiver.connect(peer.getsockname())
    stranger.sendto(b"stranger", receiver.getsockname())
    peer.sendto(b"peer", receiver.getsockname())
    settles(receiver, mask_of(receiver) | R)
    assert receiver.recv(20) == b"peer"
    assert failure(receiver.recv, 20) == errno.EAGAIN


def test_unconnected_datagram_socket_is_not_told_of_a_refusal(lab: Lab) -> None:
    gone, sender = lab.bound(lab.datagram()), lab.datagram()
    address = gone.getsockname()
    gone.close()
    sender.sendto(b"x", address)
    sender.sendto(b"x", address)
    assert error_of(sender) == 0


def test_connected_socket_wins_over_the_wildcard(lab: Lab) -> None:
    sender = lab.bound(lab.datagram())
    general, special = lab.datagram(), lab.datagram()
    for sock in (special, general):
        sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
    lab.bound(special)
    special.connect(sender.getsockname())
    general.bind(special.getsockname())
    sender.sendto(b"x", special.getsockname())
    settles(special, mask_of(special) | R)
    assert failure(general.recv, 1) == errno.EAGAIN


def test_full_receive_buffer_drops(lab: Lab) -> None:
    receiver, sender = lab.bound(lab.datagram()), lab.datagram()
    receiver.setsockopt(SOL, socket.SO_RCVBUF, 8192)
    for _ in range(200):
        sender.sendto(bytes(1000), receiver.getsockname())
    settles(receiver, mask_of(receiver) | R)
    received = 0
    while mask_of(receiver) & R:
        received += len(receiver.recv(2000))
    assert 0 < received < 200 * 1000


def test_broadcast_needs_leave(lab: Lab) -> None:
    sender = lab.datagram()
    assert failure(sender.sendto, b"x", ("127.255.255.255", 9)) == errno.EACCES


def test_datagram_to_port_zero(lab: Lab) -> None:
    assert failure(lab.datagram().sendto, b"x", ("127.0.0.1", 0)) == errno.EINVAL


def test_dual_stack_datagram_sees_ipv4_as_mapped(lab: Lab) -> None:
    receiver = make(lab, socket.SOCK_DGRAM, socket.AF_INET6)
    receiver.bind(("::", 0))
    sender = lab.bound(lab.datagram())
    sender.sendto(b"four", ("127.0.0.1", receiver.getsockname()[1]))
    settles(receiver, mask_of(receiver) | R)
    data, address = receiver.recvfrom(10)
    assert data == b"four"
    assert address == ("::ffff:127.0.0.1", sender.getsockname()[1], 0, 0)
    receiver.sendto(b"back", address)
    settles(sender, mask_of(sender) | R)
    assert sender.recv(10) == b"back"


# Urgent data.


def test_mark_of_urgent_data(lab: Lab) -> None:
    client, server = lab.pair()
    client.send(b"ab!", socket.MSG_OOB)
    client.send(b"cd")
    settles(server, mask_of(server) | R)
    assert ask(server, SIOCATMARK) == 0
    assert ask(server, FIONREAD) == 2
    assert server.recv(10) == b"ab"
    assert ask(server, SIOCATMARK) == 1
    assert server.recv(10) == b"cd"
    assert ask(server, SIOCATMARK) == 0


def test_second_urgent_byte_makes_the_first_ordinary(lab: Lab) -> None:
    client, server = lab.pair()
    client.send(b"a!", socket.MSG_OOB)
    client.send(b"b?", socket.MSG_OOB)
    settles(server, mask_of(server) | R)
    assert server.recv(10) == b"a!b"
    assert server.recv(1, socket.MSG_OOB) == b"?"


# Options.


@pytest.mark.parametrize(
    ("level", "option"),
    [
        (SOL, socket.SO_REUSEADDR),
        (SOL, socket.SO_REUSEPORT),
        (SOL, socket.SO_KEEPALIVE),
        (SOL, socket.SO_BROADCAST),
        (SOL, socket.SO_OOBINLINE),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        (socket.IPPROTO_TCP, socket.TCP_CORK),
    ],
)
def test_flag(lab: Lab, level: int, option: int) -> None:
    sock = lab.stream()
    assert sock.getsockopt(level, option) == 0
    sock.setsockopt(level, option, 7)
    assert sock.getsockopt(level, option) == 1
    sock.setsockopt(level, option, struct.pack("i", 0))
    assert sock.getsockopt(level, option) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_the_kernel_s(kind: int) -> None:
    with MemoryStack() as stack, stack.socket(socket.AF_INET6, kind) as sock:
        with host_stack().socket(socket.AF_INET6, kind) as kernels:
            told = {}
            for level in (SOL, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6):
                for option in range(80):
                    try:
                        told[level, option] = sock.getsockopt(level, option)
                    except OSError:
                        continue
            buffers = {(SOL, socket.SO_SNDBUF), (SOL, socket.SO_RCVBUF)}
            for key in told.keys() - buffers:
                assert (key, told[key]) == (key, kernels.getsockopt(*key))
            assert len(told) > 20


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (socket.TCP_KEEPIDLE, 60),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 5000),
    ],
)
def test_number(lab: Lab, option: int, value: int) -> None:
    sock = lab.stream()
    sock.setsockopt(socket.IPPROTO_TCP, option, value)
    assert sock.getsockopt(socket.IPPROTO_TCP, option) == value


def test_linger(lab: Lab) -> None:
    sock = lab.stream()
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
    sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 5))
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 1, 5)
    assert failure(sock.setsockopt, SOL, socket.SO_LINGER, 1) == errno.EINVAL


@pytest.mark.parametrize("option", [socket.SO_SNDBUF, socket.SO_RCVBUF])
def test_buffer_sizes_are_doubled(lab: Lab, option: int) -> None:
    sock = lab.stream()
    sock.setsockopt(SOL, option, 20000)
    assert sock.getsockopt(SOL, option) == 40000
    sock.setsockopt(SOL, option, 0)
    assert 0 < sock.getsockopt(SOL, option) < 8192


def test_options_are_inherited_by_connections(lab: Lab) -> None:
    listener = lab.bound(lab.stream())
    listener.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen()
    lab.connecting(listener)
    settles(listener, R)
    server = lab.keep(listener.accept()[0])
    assert server.getsockopt(SOL, socket.SO_KEEPALIVE) == 1
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_v6only_is_fixed_once_bound(lab: Lab) -> None:
    six = make(lab, socket.SOCK_STREAM, socket.AF_INET6)
    assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    six.bind(("::1", 0))
    assert failure(six.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) == errno.EINVAL


def test_unknown_option(lab: Lab) -> None:
    assert failure(lab.stream().getsockopt, SOL, 9999) == errno.ENOPROTOOPT
    assert failure(lab.stream().setsockopt, SOL, 9999, 1) == errno.ENOPROTOOPT
    six = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    assert failure(lab.datagram().getsockopt, *six) == errno.EOPNOTSUPP
    assert failure(lab.datagram().setsockopt, *six, 1) == errno.ENOPROTOOPT


@pytest.mark.parametrize("host", ["127.255.255.255", "255.255.255.255", "224.0.0.1"])
def test_stream_to_everybody(lab: Lab, host: str) -> None:
    assert lab.stream().connect_ex((host, 9)) == errno.ENETUNREACH


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_socket_is(lab: Lab, kind: int) -> None:
    sock = make(lab, kind, socket.AF_INET6)
    assert sock.family == socket.AF_INET6
    assert sock.type == kind
    assert sock.getsockopt(SOL, socket.SO_TYPE) == kind
    protocol = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
    assert sock.getsockopt(SOL, 38) == protocol[socket.SocketKind(kind)]
    assert sock.getsockopt(SOL, 39) == socket.AF_INET6
