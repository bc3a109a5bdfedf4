"""Errors, addresses and options of lwIP's sockets, which are the kernel's."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from lwip_frames import ACK, SYN, frame, icmp, parse_tcp, tcp, udp
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lwip_on_wire
from memory_helpers import DEAD, ERR, HUP, W, error_of, failure, linger_zero, mask_of

pytestmark = pytest.mark.needs("lwip")

FAMILIES = [
    pytest.param(HOST4, PEER4, id="IPv4"),
    pytest.param(HOST6, PEER6, id="IPv6"),
]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


def make(peer: Peer, address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return peer.keep(peer.stack.socket(family, kind))


def connecting(peer: Peer, to: str) -> tuple[socket.socket, dict[str, int | bytes], bytes]:
    """A socket that connects to `to`, its request, and the request's IP packet."""
    client = make(peer, to)
    assert client.connect_ex((to, 80)) == errno.EINPROGRESS
    [request] = [one for one in peer.send() if parse_tcp(one)]
    fields = parse_tcp(request)
    assert fields is not None
    assert fields["flags"] == SYN
    return client, fields, request[14:]


@pytest.mark.parametrize(("host", "other"), FAMILIES)
def test_nobody_answers_a_request_to_connect(peer: Peer, host: str, other: str) -> None:
    client, _, _ = connecting(peer, other)
    assert mask_of(client) == 0
    peer.stack.skip_time(60)
    peer.send()
    assert mask_of(client) == DEAD | ERR
    assert error_of(client) == errno.ETIMEDOUT


@pytest.mark.parametrize(
    ("host", "other", "kind", "code", "number"),
    [
        (HOST4, PEER4, 3, 0, errno.ENETUNREACH),
        (HOST4, PEER4, 3, 1, errno.EHOSTUNREACH),
        (HOST4, PEER4, 3, 3, errno.ECONNREFUSED),
        (HOST4, PEER4, 3, 13, errno.EHOSTUNREACH),
        (HOST6, PEER6, 1, 0, errno.ENETUNREACH),
        (HOST6, PEER6, 1, 1, errno.EACCES),
        (HOST6, PEER6, 1, 3, errno.EHOSTUNREACH),
        (HOST6, PEER6, 1, 4, errno.ECONNREFUSED),
    ],
)
def test_an_icmp_error_ends_an_attempt_to_connect(
    peer: Peer, host: str, other: str, kind: int, code: int, number: int
) -> None:
    client, _, request = connecting(peer, other)
    peer.send(frame(icmp(kind, code, bytes(4) + request, other, host)))
    assert mask_of(client) == DEAD | ERR
    assert error_of(client) == number


def test_an_icmp_error_about_another_segment_is_ignored(peer: Peer) -> None:
    client, fields, _ = connecting(peer, PEER4)
    assert isinstance(fields["seq"], int)
    assert isinstance(fields["sport"], int)
    forged = tcp((HOST4, fields["sport"]), (PEER4, 80), SYN, fields["seq"] + 1)
    peer.send(frame(icmp(3, 1, bytes(4) + forged, PEER4, HOST4)))
    assert mask_of(client) == 0


def test_a_peer_that_is_silent_is_noticed_by_keepalive(peer: Peer) -> None:
    client, fields, _ = connecting(peer, PEER4)
    assert isinstance(fields["seq"], int)
    assert isinstance(fields["sport"], int)
    here = (HOST4, fields["sport"])
    peer.send(frame(tcp((PEER4, 80), here, SYN | ACK, 7, fields["seq"] + 1)))
    assert mask_of(client) == W
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
    ):
        client.setsockopt(socket.IPPROTO_TCP, option, value)
    peer.stack.skip_time(60)
    peer.send()
    assert mask_of(client) == W
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.stack.skip_time(60)
    peer.send()
    assert mask_of(client) == DEAD | ERR
    assert failure(client.recv, 1) == errno.ETIMEDOUT


def test_no_route(peer: Peer) -> None:
    assert failure(make(peer, HOST4).connect, ("192.0.2.1", 80)) in (
        errno.ENETUNREACH,
        errno.EINPROGRESS,
    )
    assert failure(make(peer, HOST4).connect, ("224.0.0.1", 80)) == errno.ENETUNREACH
    assert failure(make(peer, HOST4).connect, ("10.0.0.255", 80)) == errno.ENETUNREACH


@pytest.mark.parametrize(("host", "other"), FAMILIES)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_bind(peer: Peer, host: str, other: str, kind: int) -> None:
    anywhere = "::" if ":" in host else "0.0.0.0"
    first = make(peer, host, kind)
    assert first.getsockname()[:2] == (anywhere, 0)
    first.bind((host, 80))
    assert first.getsockname()[:2] == (host, 80)
    assert failure(first.bind, (host, 81)) == errno.EINVAL
    assert failure(make(peer, host, kind).bind, (host, 80)) == errno.EADDRINUSE
    assert failure(make(peer, host, kind).bind, (anywhere, 80)) == errno.EADDRINUSE
    assert failure(make(peer, host, kind).bind, (other, 82)) == errno.EADDRNOTAVAIL
    somewhere = make(peer, host, kind)
    somewhere.bind((anywhere, 0))
    assert somewhere.getsockname()[1] > 0


def test_a_port_of_a_listener_cannot_be_shared(peer: Peer) -> None:
    first, second = make(peer, HOST4), make(peer, HOST4)
    for sock in (first, second):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind((HOST4, 80))
    second.bind((HOST4, 80))
    first.listen()
    assert failure(second.listen) == errno.EADDRINUSE
    third = make(peer, HOST4)
    third.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    assert failure(third.bind, (HOST4, 80)) == errno.EADDRINUSE


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("only", [False, True])
def test_both_families_at_once_unless_v6only(peer: Peer, kind: int, only: bool) -> None:
    six = make(peer, HOST6, kind)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    six.bind(("::", 80))
    four = make(peer, HOST4, kind)
    if only:
        four.bind(("0.0.0.0", 80))
    else:
        assert failure(four.bind, ("0.0.0.0", 80)) == errno.EADDRINUSE
    assert failure(six.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0) == errno.EINVAL


def test_ipv4_peers_of_an_ipv6_socket_are_mapped(peer: Peer) -> None:
    listener = make(peer, HOST6)
    listener.bind(("::", 80))
    listener.listen()
    client = make(peer, HOST4)
    client.connect_ex((HOST4, 80))
    server, address = listener.accept()
    peer.keep(server)
    assert address == (f"::ffff:{HOST4}", client.getsockname()[1], 0, 0)
    assert server.getsockname() == (f"::ffff:{HOST4}", 80, 0, 0)
    back = make(peer, HOST6)
    back.connect_ex((f"::ffff:{HOST4}", 80))
    assert mask_of(back) == W


def test_a_link_local_address_carries_its_scope(peer: Peer) -> None:
    link_local = "fe80::ff:fe00:1"
    receiver = make(peer, HOST6, socket.SOCK_DGRAM)
    receiver.bind((link_local, 53))
    scope = receiver.getsockname()[3]
    assert scope > 0
    peer.send(frame(udp(("fe80::2", 9), (link_local, 53), b"hello")))
    data, address = receiver.recvfrom(10)
    assert (data, address) == (b"hello", ("fe80::2", 9, 0, scope))
    assert failure(receiver.connect, ("fe80::2", 9, 0, scope + 7)) == errno.ENODEV
    receiver.connect(address)
    assert receiver.getpeername() == address


@pytest.mark.parametrize(("host", "other"), FAMILIES)
def test_datagrams_that_cannot_be_sent(peer: Peer, host: str, other: str) -> None:
    sock = make(peer, host, socket.SOCK_DGRAM)
    assert failure(sock.send, b"x") == errno.EDESTADDRREQ
    assert failure(sock.sendto, bytes(65528), (other, 9)) == errno.EMSGSIZE
    assert failure(sock.getpeername) == errno.ENOTCONN
    assert failure(sock.listen) == errno.EOPNOTSUPP
    assert failure(sock.accept) == errno.EOPNOTSUPP


@pytest.mark.parametrize(("host", "other"), FAMILIES)
def test_a_datagram_socket_has_a_port_though_its_first_call_fails(
    peer: Peer, host: str, other: str
) -> None:
    for call, number in (
        (lambda sock: sock.send(b""), errno.EDESTADDRREQ),
        (lambda sock: sock.sendto(bytes(65528), (other, 9)), errno.EMSGSIZE),
        (lambda sock: sock.sendto(b"x", (other, 0)), errno.EINVAL),
    ):
        sock = make(peer, host, socket.SOCK_DGRAM)
        assert failure(call, sock) == number
        assert sock.getsockname()[0] == ("::" if ":" in host else "0.0.0.0")
        assert sock.getsockname()[1] > 0
        assert failure(sock.bind, (host, 53)) == errno.EINVAL
    refused = make(peer, HOST4, socket.SOCK_DGRAM)
    assert failure(refused.connect, ("10.0.0.255", 9)) == errno.EACCES
    assert refused.getsockname()[1] > 0


def test_broadcasting_needs_permission(peer: Peer) -> None:
    sock = make(peer, HOST4, socket.SOCK_DGRAM)
    for address in ("255.255.255.255", "10.0.0.255"):
        assert failure(sock.sendto, b"x", (address, 9)) == errno.EACCES
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert sock.sendto(b"to all", ("10.0.0.255", 9)) == 6
    [sent] = peer.send()
    assert sent[:6] == b"\xff" * 6
    assert sent.endswith(b"to all")


def test_a_connected_datagram_socket_hears_its_peer_only(peer: Peer) -> None:
    sock = make(peer, HOST4, socket.SOCK_DGRAM)
    sock.bind((HOST4, 53))
    sock.connect((PEER4, 9))
    assert sock.getpeername() == (PEER4, 9)
    peer.send(
        frame(udp((PEER4, 10), (HOST4, 53), b"stranger")),
        frame(udp((PEER4, 9), (HOST4, 53), b"friend")),
    )
    assert sock.recv(20) == b"friend"
    assert failure(sock.recv, 20) == errno.EAGAIN


def test_a_datagram_that_is_cut_off_is_marked(peer: Peer) -> None:
    sock = make(peer, HOST4, socket.SOCK_DGRAM)
    sock.bind((HOST4, 53))
    peer.send(*(frame(udp((PEER4, 9), (HOST4, 53), b"long enough")) for _ in range(2)))
    data, _, flags, address = sock.recvmsg(4)
    assert (data, flags, address) == (b"long", socket.MSG_TRUNC, (PEER4, 9))
    assert sock.recvfrom(100) == (b"long enough", (PEER4, 9))


def test_a_receive_buffer_of_datagrams_is_bounded(peer: Peer) -> None:
    sock = make(peer, HOST4, socket.SOCK_DGRAM)
    sock.bind((HOST4, 53))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    peer.send(*(frame(udp((PEER4, 9), (HOST4, 53), bytes(900))) for _ in range(100)))
    received = 0
    while mask_of(sock) & 1:
        received += len(sock.recv(2000))
    assert 5_000 < received <= 10_000


SOL, TCP, IP, IP6 = (
    socket.SOL_SOCKET,
    socket.IPPROTO_TCP,
    socket.IPPROTO_IP,
    socket.IPPROTO_IPV6,
)


@pytest.mark.parametrize(
    ("level", "option", "first", "value", "then"),
    [
        (SOL, socket.SO_REUSEADDR, 0, 1, 1),
        (SOL, socket.SO_KEEPALIVE, 0, 1, 1),
        (SOL, socket.SO_SNDBUF, 65535, 1 << 30, 262144),
        (SOL, socket.SO_SNDBUF, 65535, 1, 4096),
        (SOL, socket.SO_RCVBUF, 65535, 1000, 65535),
        (SOL, socket.SO_ACCEPTCONN, 0, None, 0),
        (TCP, socket.TCP_NODELAY, 0, 1, 1),
        (TCP, socket.TCP_KEEPIDLE, 7200, 60, 60),
        (TCP, socket.TCP_KEEPINTVL, 75, 5, 5),
        (TCP, socket.TCP_KEEPCNT, 9, 3, 3),
        (IP, socket.IP_TTL, 64, 5, 5),
        (IP, socket.IP_TTL, 64, -1, 64),
        (IP, socket.IP_TOS, 0, 16, 16),
    ],
)
def test_an_option_is_kept_and_inherited(
    peer: Peer, level: int, option: int, first: int, value: int | None, then: int
) -> None:
    listener = make(peer, HOST4)
    assert listener.getsockopt(level, option) == first
    if value is None:
        assert failure(listener.setsockopt, level, option, 1) == errno.ENOPROTOOPT
        return
    listener.setsockopt(level, option, value)
    assert listener.getsockopt(level, option) == then
    listener.bind((HOST4, 80))
    listener.listen()
    make(peer, HOST4).connect_ex((HOST4, 80))
    child = peer.keep(listener.accept()[0])
    assert child.getsockopt(level, option) == then


@pytest.mark.parametrize(
    ("level", "option", "value", "number"),
    [
        (SOL, socket.SO_REUSEPORT, 1, errno.ENOPROTOOPT),
        (TCP, socket.TCP_KEEPIDLE, 0, errno.EINVAL),
        (TCP, socket.TCP_KEEPCNT, 200, errno.EINVAL),
        (IP, socket.IP_TTL, 256, errno.EINVAL),
        (IP6, socket.IPV6_V6ONLY, 1, errno.ENOPROTOOPT),
        (SOL, socket.SO_LINGER, b"1", errno.EINVAL),
    ],
)
def test_options_that_are_refused(
    peer: Peer, level: int, option: int, value: Any, number: int
) -> None:
    assert failure(make(peer, HOST4).setsockopt, level, option, value) == number


def test_linger_is_a_struct(peer: Peer) -> None:
    sock = make(peer, HOST4)
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
    linger_zero(sock)
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)


def test_a_larger_send_buffer_takes_more(peer: Peer) -> None:
    client, fields, _ = connecting(peer, PEER4)
    assert isinstance(fields["seq"], int)
    assert isinstance(fields["sport"], int)
    here = (HOST4, fields["sport"])
    mss = b"\x02\x04\x05\xb4"
    answer = tcp((PEER4, 80), here, SYN | ACK, 7, fields["seq"] + 1, window=0, options=mss)
    peer.send(frame(answer))
    assert client.send(bytes(1 << 20)) == 65535
    client.setsockopt(SOL, socket.SO_SNDBUF, 150_000)
    assert client.send(bytes(1 << 20)) == 150_000 - 65535


def test_a_connect_that_is_given_up(peer: Peer) -> None:
    client, _, _ = connecting(peer, PEER4)
    assert failure(client.connect, (PEER4, 80)) == errno.EALREADY
    client.shutdown(socket.SHUT_RDWR)
    assert error_of(client) == errno.ECONNRESET
    assert mask_of(client) == W | HUP


def test_a_signal_handler_may_receive_while_its_thread_receives() -> None:
    with lwip_on_wire() as peer:
        first, second = (
            peer.keep(peer.stack.socket(type=socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            for _ in range(2)
        )
        first.bind(("127.0.0.1", 1000))
        called = 0

        def receive(signum: int, where: object) -> None:
            nonlocal called
            called += 1
            assert failure(second.recv, 10) == errno.EAGAIN

        before = signal.signal(signal.SIGALRM, receive)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        try:
            while called < 2000:
                assert failure(first.recv, 10) == errno.EAGAIN
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_send_to_the_socket_that_its_thread_waits_for() -> None:
    with lwip_on_wire() as peer:
        waiting = peer.keep(peer.stack.socket(type=socket.SOCK_DGRAM))
        waiting.setblocking(True)
        waiting.bind(("127.0.0.1", 1000))
        sending = peer.keep(peer.stack.socket(type=socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))

        def send(signum: int, where: object) -> None:
            with contextlib.suppress(BlockingIOError):
                sending.sendto(b"x", ("127.0.0.1", 1000))

        before = signal.signal(signal.SIGALRM, send)
        signal.setitimer(signal.ITIMER_REAL, 0.0004, 0.0004)
        try:
            for _ in range(2000):
                assert waiting.recv(10) == b"x"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
