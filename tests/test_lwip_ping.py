"""Ping sockets, icmp(7), and raw sockets, raw(7): the same scenarios on lwIP and on Linux."""

from __future__ import annotations

import errno
import select
import socket
import struct

import pytest

from kernel_scenarios import Scenario, Scenarios
from link_helpers import checksum, run_in_namespace
from lwip_helpers import lab_on
from memory_helpers import ERR, WRBAND, Lab, R, W, error_of, failure, mask_of, settles

IDLE = W | WRBAND
HERE = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
ELSEWHERE = {socket.AF_INET: "127.0.0.2", socket.AF_INET6: "::2"}
PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
UNASSIGNED = 253
"""RFC 3692: a protocol for experiments."""
SOL_RAW, ICMP_FILTER = 255, 1
IPV6_HDRINCL = 36

scenario = Scenarios()


def ping(lab: Lab, family: int = socket.AF_INET) -> socket.socket:
    kind = socket.SOCK_DGRAM
    return lab.keep(lab.stack.socket(family, kind, PROTOCOL[socket.AddressFamily(family)]))


def raw(lab: Lab, protocol: int, family: int = socket.AF_INET) -> socket.socket:
    return lab.keep(lab.stack.socket(family, socket.SOCK_RAW, protocol))


def echo(family: int, payload: bytes = b"hello", identifier: int = 0, sequence: int = 1) -> bytes:
    kind = REQUEST[socket.AddressFamily(family)]
    message = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + payload
    if family == socket.AF_INET:
        return message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    return message


FAMILIES = (socket.AF_INET, socket.AF_INET6)


@scenario
def echo_comes_back(lab: Lab) -> None:
    for family in FAMILIES:
        sock = ping(lab, family)
        assert mask_of(sock) == IDLE
        assert sock.sendto(echo(family), (HERE[family], 0)) == 13
        settles(sock, IDLE | R)
        data, address = sock.recvfrom(100)
        identifier = sock.getsockname()[1]
        assert address[:2] == (HERE[family], 0)
        assert (data[0], data[1]) == (REPLY[family], 0)
        assert struct.unpack("!HH", data[4:8]) == (identifier, 1)
        assert data[8:] == b"hello"
        assert mask_of(sock) == IDLE


@scenario
def the_identifier_is_the_socket_s(lab: Lab) -> None:
    for family in FAMILIES:
        sock, twin = ping(lab, family), ping(lab, family)
        assert sock.getsockname()[1] == 0
        sock.bind((HERE[family], 4711))
        assert sock.getsockname()[:2] == (HERE[family], 4711)
        assert failure(sock.bind, (HERE[family], 4712)) == errno.EINVAL
        twin.sendto(echo(family, b"twin", 4711), (HERE[family], 0))
        settles(twin, IDLE | R)
        assert struct.unpack("!H", twin.recv(100)[4:6])[0] == twin.getsockname()[1] != 4711
        assert mask_of(sock) == IDLE


@scenario
def an_identifier_is_shared_by_whoever_reuses(lab: Lab) -> None:
    one, other, jealous = ping(lab), ping(lab), ping(lab)
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    for sock in (one, other):
        sock.bind(("127.0.0.1", 4713))
    jealous.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    assert failure(jealous.bind, ("127.0.0.1", 4713)) == errno.EADDRINUSE
    other.close()
    one.sendto(echo(socket.AF_INET), ("127.0.0.1", 0))
    settles(one, IDLE | R)


@scenario
def only_echo_requests_may_be_sent(lab: Lab) -> None:
    for family in FAMILIES:
        sock = ping(lab, family)
        good = echo(family)
        for message in (
            bytes([REPLY[family]]) + good[1:],
            good[:1] + b"\1" + good[2:],
            good[:7],
            b"",
            b"\x03" + good[1:],
        ):
            assert failure(sock.sendto, message, (HERE[family], 0)) == errno.EINVAL
        assert failure(sock.send, good) == errno.EDESTADDRREQ
    assert failure(ping(lab).sendto, bytes(65516), ("127.0.0.1", 0)) in (
        errno.EMSGSIZE,
        errno.EINVAL,
    )


@scenario
def a_large_echo_comes_back_whole(lab: Lab) -> None:
    for family in FAMILIES:
        sock = ping(lab, family)
        payload = bytes(range(256)) * 200
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        sock.sendto(echo(family, payload), (HERE[family], 0))
        settles(sock, IDLE | R)
        assert sock.recv(70_000)[8:] == payload


@scenario
def what_does_not_fit_is_cut(lab: Lab) -> None:
    sock = ping(lab)
    sock.connect(("127.0.0.1", 7))
    assert sock.getpeername() == ("127.0.0.1", 7)
    assert sock.getsockname()[0] == "127.0.0.1"
    for _ in range(3):
        sock.send(echo(socket.AF_INET, b"0123456789"))
    settles(sock, IDLE | R)
    _, _, flags, address = sock.recvmsg(12)
    assert flags & socket.MSG_TRUNC
    assert address == ("127.0.0.1", 0)
    assert len(sock.recv(12, socket.MSG_PEEK)) == 12
    assert sock.recv(100)[8:] == b"0123456789"
    assert len(sock.recv(8)) == 8
    assert failure(sock.recv, 1) == errno.EAGAIN


@scenario
def a_ping_socket_has_an_address_of_the_host(lab: Lab) -> None:
    assert failure(ping(lab).bind, ("192.0.2.1", 0)) == errno.EADDRNOTAVAIL
    assert failure(ping(lab).bind, ("224.0.0.1", 0)) == errno.EADDRNOTAVAIL
    assert failure(ping(lab).bind, ("255.255.255.255", 0)) == errno.EADDRNOTAVAIL
    sock = ping(lab)
    sock.bind(("127.0.0.2", 0))
    sock.sendto(echo(socket.AF_INET), ("127.0.0.1", 0))
    settles(sock, IDLE | R)
    assert sock.recvfrom(100)[1] == ("127.0.0.1", 0)


@scenario
def shutting_down_ends_sending(lab: Lab) -> None:
    sock = ping(lab)
    sock.connect(("127.0.0.1", 0))
    sock.shutdown(socket.SHUT_WR)
    assert failure(sock.send, echo(socket.AF_INET)) == errno.EPIPE


@scenario
def which_sockets_there_are(lab: Lab) -> None:
    make = lab.stack.socket
    for family, kind, protocol, error in (
        (socket.AF_INET, socket.SOCK_RAW, 0, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_RAW, 300, errno.EINVAL),
        (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6, errno.EPROTONOSUPPORT),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_ICMP, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_RDM, 0, errno.ESOCKTNOSUPPORT),
    ):
        assert failure(make, family, kind, protocol) == error
    sock = ping(lab)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_ICMP


@scenario
def a_raw_socket_hears_requests_and_replies(lab: Lab) -> None:
    sock = raw(lab, socket.IPPROTO_ICMP)
    assert sock.getsockname() == ("0.0.0.0", 1)
    assert mask_of(sock) == IDLE
    assert sock.sendto(echo(socket.AF_INET, identifier=99), ("127.0.0.1", 0)) == 13
    for kind in (8, 0):
        settles(sock, IDLE | R)
        packet, address = sock.recvfrom(100)
        assert address == ("127.0.0.1", 0)
        assert packet[0] == 0x45
        assert struct.unpack("!H", packet[2:4])[0] == len(packet) == 33
        assert packet[9] == 1
        assert checksum(packet[:20]) == 0
        assert packet[20] == kind
        assert packet[24:] == b"\0\x63\0\1hello"


@scenario
def a_raw_ipv6_socket_hears_no_header_and_has_checksums_made(lab: Lab) -> None:
    sock = raw(lab, socket.IPPROTO_ICMPV6, socket.AF_INET6)
    assert sock.getsockname()[:2] == ("::", 58)
    assert sock.sendto(echo(socket.AF_INET6, identifier=99), ("::1", 0)) == 13
    for kind in (128, 129):
        settles(sock, IDLE | R)
        message, address = sock.recvfrom(100)
        assert address[:2] == ("::1", 0)
        assert message[0] == kind
        assert message[4:] == b"\0\x63\0\1hello"
    assert failure(sock.sendto, b"\x80\0\0", ("::1", 0)) == errno.EINVAL


@scenario
def every_raw_socket_that_matches_gets_a_copy(lab: Lab) -> None:
    one, other, elsewhere = (raw(lab, UNASSIGNED) for _ in range(3))
    bound = raw(lab, UNASSIGNED)
    bound.bind(("127.0.0.1", 0))
    elsewhere.bind(("127.0.0.3", 0))
    stranger = raw(lab, UNASSIGNED)
    stranger.connect(("127.0.0.9", 0))
    third = raw(lab, UNASSIGNED + 1)
    one.sendto(b"hello", ("127.0.0.1", 0))
    for sock in (one, other, bound):
        settles(sock, IDLE | R)
        assert sock.recv(100)[20:] == b"hello"
    for sock in (elsewhere, stranger, third):
        assert mask_of(sock) == IDLE


@scenario
def a_connected_raw_socket_hears_its_peer_only(lab: Lab) -> None:
    sock, sender = raw(lab, UNASSIGNED), raw(lab, UNASSIGNED)
    sock.connect(("127.0.0.2", 5))
    assert sock.getpeername() == ("127.0.0.2", 5)
    sender.sendto(b"no", ("127.0.0.1", 0))
    sender.bind(("127.0.0.2", 0))
    assert sender.getsockname() == ("127.0.0.2", UNASSIGNED)
    sender.sendto(b"yes", ("127.0.0.1", 0))
    settles(sock, IDLE | R)
    assert sock.recv(100)[20:] == b"yes"
    assert mask_of(sock) == IDLE
    assert failure(sock.bind, ("127.0.0.1", 0)) == errno.EINVAL


@scenario
def any_protocol_over_ipv6(lab: Lab) -> None:
    sock = raw(lab, UNASSIGNED, socket.AF_INET6)
    assert sock.sendto(b"hello", ("::1", UNASSIGNED)) == 5
    settles(sock, IDLE | R)
    assert sock.recvfrom(100)[0] == b"hello"
    for port in (UNASSIGNED + 1, 256):
        assert failure(sock.sendto, b"hello", ("::1", port)) == errno.EINVAL


@scenario
def where_a_checksum_goes_can_be_said(lab: Lab) -> None:
    sock = raw(lab, UNASSIGNED, socket.AF_INET6)
    level, option = socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM
    assert sock.getsockopt(level, option) == -1
    assert failure(sock.setsockopt, level, option, 3) == errno.EINVAL
    sock.setsockopt(level, option, 2)
    assert sock.getsockopt(level, option) == 2
    sock.sendto(b"ab\0\0cd", ("::1", 0))
    settles(sock, IDLE | R)
    message = sock.recv(100)
    pseudo = socket.inet_pton(socket.AF_INET6, "::1") * 2
    assert checksum(pseudo + struct.pack("!II", 6, UNASSIGNED) + message) == 0
    assert failure(sock.sendto, b"abc", ("::1", 0)) == errno.EINVAL
    icmp = raw(lab, socket.IPPROTO_ICMPV6, socket.AF_INET6)
    assert icmp.getsockopt(level, option) == 2
    assert failure(icmp.setsockopt, level, option, 4) == errno.EINVAL


def header(to: str, payload: bytes, protocol: int = UNASSIGNED, source: str = "0.0.0.0") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 9, 0, 0, 33, protocol, 9)
    return head + socket.inet_aton(source) + socket.inet_aton(to) + payload


@scenario
def a_header_of_one_s_own_is_completed(lab: Lab) -> None:
    sender, sock = raw(lab, socket.IPPROTO_RAW), raw(lab, UNASSIGNED)
    assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL) == 1
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL) == 0
    assert sender.sendto(header("127.0.0.1", b"hello"), ("127.0.0.1", 0)) == 25
    settles(sock, IDLE | R)
    packet, address = sock.recvfrom(100)
    assert address == ("127.0.0.1", 0)
    assert packet[20:] == b"hello"
    assert packet[8] == 33
    assert struct.unpack("!H", packet[2:4])[0] == 25
    assert struct.unpack("!H", packet[4:6])[0] != 0
    assert checksum(packet[:20]) == 0
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    sock.sendto(header("127.0.0.1", b"again", source="127.0.0.5"), ("127.0.0.1", 0))
    settles(sock, IDLE | R)
    assert sock.recvfrom(100)[1] == ("127.0.0.5", 0)
    assert failure(sender.sendto, b"E" * 19, ("127.0.0.1", 0)) == errno.EINVAL


@scenario
def an_ipv6_header_of_one_s_own_is_sent_as_it_is(lab: Lab) -> None:
    sender = raw(lab, socket.IPPROTO_RAW, socket.AF_INET6)
    sock = raw(lab, UNASSIGNED, socket.AF_INET6)
    here = socket.inet_pton(socket.AF_INET6, "::1")
    packet = struct.pack("!IHBB", 6 << 28, 5, UNASSIGNED, 9) + here + here + b"hello"
    assert sender.sendto(packet, ("::1", 0)) == len(packet)
    settles(sock, IDLE | R)
    assert sock.recv(100) == b"hello"
    assert failure(sender.sendto, b"`" * 39, ("::1", 0)) == errno.EINVAL


@scenario
def types_can_be_filtered(lab: Lab) -> None:
    sock = raw(lab, socket.IPPROTO_ICMP)
    assert sock.getsockopt(SOL_RAW, ICMP_FILTER, 4) == bytes(4)
    sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("I", 1 << 8))
    assert sock.getsockopt(SOL_RAW, ICMP_FILTER, 4) == struct.pack("I", 1 << 8)
    sock.sendto(echo(socket.AF_INET), ("127.0.0.1", 0))
    settles(sock, IDLE | R)
    assert sock.recv(100)[20] == 0
    assert mask_of(sock) == IDLE
    six = raw(lab, socket.IPPROTO_ICMPV6, socket.AF_INET6)
    blocked = bytearray(32)
    blocked[128 // 8] = 1 << 128 % 8
    six.setsockopt(socket.IPPROTO_ICMPV6, ICMP_FILTER, bytes(blocked))
    assert six.getsockopt(socket.IPPROTO_ICMPV6, ICMP_FILTER, 32) == bytes(blocked)
    six.sendto(echo(socket.AF_INET6), ("::1", 0))
    settles(six, IDLE | R)
    assert six.recv(100)[0] == 129
    assert mask_of(six) == IDLE
    assert failure(raw(lab, UNASSIGNED).setsockopt, SOL_RAW, ICMP_FILTER, 1) == errno.EOPNOTSUPP


@scenario
def udp_is_heard_raw_as_well(lab: Lab) -> None:
    sock, receiver, sender = raw(lab, socket.IPPROTO_UDP), lab.bound(lab.datagram()), lab.datagram()
    sender.sendto(b"hello", receiver.getsockname())
    settles(receiver, IDLE | R)
    settles(sock, IDLE | R)
    packet = sock.recv(100)
    assert packet[28:] == receiver.recv(100) == b"hello"
    port = receiver.getsockname()[1]
    raw_udp = struct.pack("!HHHH", 7, port, 8 + 4, 0) + b"made"
    sock.sendto(raw_udp, ("127.0.0.1", 0))
    settles(receiver, IDLE | R)
    assert receiver.recvfrom(100) == (b"made", ("127.0.0.1", 7))


@scenario
def a_refusal_reaches_who_is_connected(lab: Lab) -> None:
    connected, other = raw(lab, socket.IPPROTO_UDP), raw(lab, socket.IPPROTO_UDP)
    connected.connect(("127.0.0.1", 0))
    sender = lab.datagram()
    closed = lab.bound(lab.datagram())
    address = closed.getsockname()
    closed.close()
    sender.sendto(b"hello", address)
    settles(connected, IDLE | R | ERR)
    assert error_of(connected) == errno.ECONNREFUSED
    assert mask_of(other) & ERR == 0


@scenario
def an_identifier_is_free_once_its_socket_is_closed(lab: Lab) -> None:
    for _ in range(2):
        sock = ping(lab)
        sock.bind(("127.0.0.1", 4714))
        sock.close()


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("one", scenario.all, ids=scenario.names)
def test_lwip(one: Scenario) -> None:
    with lab_on("lwip") as lab:
        one(lab)


def on_linux() -> None:
    scenario.run_on_linux()


@pytest.mark.needs("netns", "ip", "root")
def test_linux_does_the_same() -> None:
    run_in_namespace(on_linux)


@pytest.mark.needs("lwip")
def test_a_blocking_ping_waits_for_its_reply_or_its_timeout() -> None:
    with lab_on("lwip") as lab:
        sock = ping(lab)
        sock.settimeout(20)
        sock.sendto(echo(socket.AF_INET), ("127.0.0.1", 0))
        assert sock.recv(100)[8:] == b"hello"
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(100)


@pytest.mark.needs("lwip")
def test_poll_sees_the_reply_on_the_descriptor() -> None:
    with lab_on("lwip") as lab:
        sock = ping(lab)
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        sock.sendto(echo(socket.AF_INET), ("127.0.0.1", 0))
        settles(sock, IDLE | R)
        assert poll.poll(20_000) == [(sock.fileno(), select.POLLIN)]
