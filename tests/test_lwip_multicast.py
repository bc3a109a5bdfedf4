"""Multicast groups, ip(7) and ipv6(7): the same scenarios on lwIP and on Linux, and the wire."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from kernel_scenarios import Scenario, Scenarios
from link_helpers import ip, run_in_namespace
from lwip_frames import frame, icmp, ipv4, udp
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lab_on, lwip_on_wire
from memory_helpers import WRBAND, Lab, R, W, failure, mask_of, settles
from vpoll_asyncio.links import TapLink

IDLE = W | WRBAND
GROUP4, OTHER4 = "239.1.2.3", "239.1.2.4"
GROUP6, OTHER6 = "ff05::1:2", "ff05::1:3"
IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 49, 29
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP = 42, 45
PORT = 5007

scenario = Scenarios()


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def join(sock: socket.socket, group: str, interface: str = HOST4, index: int = 0) -> None:
    if ":" in group:
        value = packed(group) + struct.pack("i", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, value)
    else:
        value = packed(group) + packed(interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, value)


def leave(sock: socket.socket, group: str, interface: str = HOST4, index: int = 0) -> None:
    if ":" in group:
        value = packed(group) + struct.pack("i", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, value)
    else:
        value = packed(group) + packed(interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, value)


def datagram(lab: Lab, six: bool) -> socket.socket:
    family = socket.AF_INET6 if six else socket.AF_INET
    return lab.keep(lab.stack.socket(family, socket.SOCK_DGRAM))


def interface_of(lab: Lab) -> int:
    """The number of the interface that is not the loopback."""
    sock = datagram(lab, six=True)
    for index in range(2, 10):
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        except OSError:
            continue
        return index
    raise AssertionError("no interface besides the loopback")


def listener(lab: Lab, group: str = GROUP4, host: str = "") -> socket.socket:
    sock = datagram(lab, six=":" in group)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, PORT))
    return sock


def sender(lab: Lab, group: str = GROUP4) -> socket.socket:
    sock = datagram(lab, six=":" in group)
    if ":" in group:
        index = interface_of(lab)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed(HOST4))
    return sock


def hears(sock: socket.socket, data: bytes) -> None:
    settles(sock, IDLE | R)
    assert sock.recv(100) == data


GROUPS = (GROUP4, GROUP6)
HERE = {GROUP4: HOST4, GROUP6: HOST6}


@scenario
def members_hear_what_their_own_host_sends(lab: Lab) -> None:
    for group in GROUPS:
        one, other = listener(lab, group), listener(lab, group)
        for sock in (one, other):
            join(sock, group, index=interface_of(lab))
        out = sender(lab, group)
        assert out.sendto(b"hello", (group, PORT)) == 5
        for sock in (one, other):
            settles(sock, IDLE | R)
            data, address = sock.recvfrom(100)
            assert data == b"hello"
            assert address[0] == HERE[group]
            assert mask_of(sock) == IDLE


@scenario
def what_one_joins_every_socket_at_the_port_hears(lab: Lab) -> None:
    for group, level, option in (
        (GROUP4, socket.IPPROTO_IP, IP_MULTICAST_ALL),
        (GROUP6, socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL),
    ):
        member, guest, strict = (listener(lab, group) for _ in range(3))
        assert strict.getsockopt(level, option) == 1
        strict.setsockopt(level, option, 0)
        join(member, group, index=interface_of(lab))
        out = sender(lab, group)
        out.sendto(b"hello", (group, PORT))
        hears(member, b"hello")
        hears(guest, b"hello")
        assert mask_of(strict) == IDLE
        join(strict, group, index=interface_of(lab))
        out.sendto(b"again", (group, PORT))
        hears(strict, b"again")


@scenario
def an_ipv6_socket_hears_the_groups_of_ipv4_that_it_is_in_itself(lab: Lab) -> None:
    member, six = listener(lab), datagram(lab, six=True)
    six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    six.bind(("::", PORT))
    assert six.getsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL) == 0
    join(member, GROUP4)
    out = sender(lab)
    out.sendto(b"hello", (GROUP4, PORT))
    hears(member, b"hello")
    assert mask_of(six) == IDLE
    join(six, GROUP4)
    out.sendto(b"again", (GROUP4, PORT))
    hears(six, b"again")


@scenario
def nobody_hears_a_group_that_nobody_is_in(lab: Lab) -> None:
    for group, other in ((GROUP4, OTHER4), (GROUP6, OTHER6)):
        sock = listener(lab, group)
        join(sock, other, index=interface_of(lab))
        out = sender(lab, group)
        out.sendto(b"no", (group, PORT))
        out.sendto(b"yes", (other, PORT))
        hears(sock, b"yes")


@scenario
def a_socket_may_have_the_group_for_a_name(lab: Lab) -> None:
    for group, other in ((GROUP4, OTHER4), (GROUP6, OTHER6)):
        sock = listener(lab, group, group)
        assert sock.getsockname()[0] == group
        for one in (group, other):
            join(sock, one, index=interface_of(lab))
        out = sender(lab, group)
        out.sendto(b"no", (other, PORT))
        out.sendto(b"yes", (group, PORT))
        hears(sock, b"yes")
        unicast = (HERE[group], PORT)
        out.sendto(b"no", unicast)
        assert mask_of(sock) == IDLE


@scenario
def a_connected_socket_hears_its_peer_only(lab: Lab) -> None:
    sock, stranger, peer = listener(lab, GROUP4, GROUP4), sender(lab), sender(lab)
    join(sock, GROUP4)
    peer.bind((HOST4, 0))
    sock.connect(peer.getsockname())
    assert sock.getsockname()[0] == GROUP4
    stranger.sendto(b"no", (GROUP4, PORT))
    peer.sendto(b"yes", (GROUP4, PORT))
    hears(sock, b"yes")


@scenario
def joining_and_leaving_have_their_errors(lab: Lab) -> None:
    for group, host in ((GROUP4, PEER4), (GROUP6, PEER6)):
        sock = listener(lab, group)
        index = interface_of(lab)
        join(sock, group, index=index)
        assert failure(join, sock, group, HOST4, index) == errno.EADDRINUSE
        leave(sock, group, index=index)
        assert failure(leave, sock, group, HOST4, index) == errno.EADDRNOTAVAIL
        assert failure(join, sock, host, HOST4, index) == errno.EINVAL
        assert failure(join, sock, group, "192.0.2.1", 77) == errno.ENODEV
    level = socket.IPPROTO_IP
    sock = listener(lab)
    assert failure(sock.setsockopt, level, socket.IP_ADD_MEMBERSHIP, b"1234567") == errno.EINVAL
    assert failure(sock.setsockopt, level, socket.IP_ADD_MEMBERSHIP, 1) == errno.EINVAL
    stream = lab.stream()
    assert failure(join, stream, GROUP4) == errno.EPROTO
    six = (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, bytes(20))
    assert failure(sock.setsockopt, *six) == errno.ENOPROTOOPT


@scenario
def a_socket_is_in_twenty_groups_of_ipv4(lab: Lab) -> None:
    sock = listener(lab)
    for number in range(20):
        join(sock, f"239.2.0.{number}")
    assert failure(join, sock, "239.2.0.20") == errno.ENOBUFS
    leave(sock, "239.2.0.0")
    join(sock, "239.2.0.20")


@scenario
def an_interface_is_named_by_its_number_too(lab: Lab) -> None:
    index = interface_of(lab)
    sock = listener(lab)
    mreqn = packed(GROUP4) + bytes(4) + struct.pack("i", index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
    out = lab.datagram()
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
    out.sendto(b"hello", (GROUP4, PORT))
    hears(sock, b"hello")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, mreqn)
    bad = packed(GROUP4) + bytes(4) + struct.pack("i", 77)
    assert (
        failure(sock.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, bad) == errno.ENODEV
    )


@scenario
def mcast_join_group_is_for_both_families(lab: Lab) -> None:
    index = interface_of(lab)
    for group, level in ((GROUP4, socket.IPPROTO_IP), (GROUP6, socket.IPPROTO_IPV6)):
        six = ":" in group
        head = struct.pack("H6x" if six else "H2x", socket.AF_INET6 if six else socket.AF_INET)
        request = struct.pack("I4x", index) + (head + packed(group)).ljust(128, b"\0")
        sock = listener(lab, group)
        sock.setsockopt(level, MCAST_JOIN_GROUP, request)
        sender(lab, group).sendto(b"hello", (group, PORT))
        hears(sock, b"hello")
        sock.setsockopt(level, MCAST_LEAVE_GROUP, request)
        assert failure(sock.setsockopt, level, MCAST_LEAVE_GROUP, request) == errno.EADDRNOTAVAIL
        assert failure(sock.setsockopt, level, MCAST_JOIN_GROUP, request[:100]) == errno.EINVAL


@scenario
def the_sender_decides_whether_its_host_hears(lab: Lab) -> None:
    for group, level, option in (
        (GROUP4, socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP),
        (GROUP6, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP),
    ):
        sock, out = listener(lab, group), sender(lab, group)
        join(sock, group, index=interface_of(lab))
        assert out.getsockopt(level, option) == 1
        out.setsockopt(level, option, 0)
        assert out.getsockopt(level, option) == 0
        out.sendto(b"no", (group, PORT))
        out.setsockopt(level, option, 1)
        out.sendto(b"yes", (group, PORT))
        hears(sock, b"yes")


@scenario
def options_have_the_kernel_s_defaults_and_bounds(lab: Lab) -> None:
    sock, six = lab.datagram(), datagram(lab, six=True)
    ip4, ip6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_TTL) == 1
    assert six.getsockopt(ip6, socket.IPV6_MULTICAST_HOPS) == 1
    assert six.getsockopt(ip6, socket.IPV6_MULTICAST_IF) == 0
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_IF, 4) == bytes(4)
    sock.setsockopt(ip4, socket.IP_MULTICAST_TTL, b"\x07")
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_TTL) == 7
    sock.setsockopt(ip4, socket.IP_MULTICAST_TTL, -1)
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_TTL) == 1
    sock.setsockopt(ip4, socket.IP_MULTICAST_IF, packed(HOST4))
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_IF, 4) == packed(HOST4)
    sock.setsockopt(ip4, socket.IP_MULTICAST_IF, bytes(4))
    assert sock.getsockopt(ip4, socket.IP_MULTICAST_IF, 4) == bytes(4)
    for call in (
        (sock, ip4, socket.IP_MULTICAST_TTL, 256, errno.EINVAL),
        (sock, ip4, socket.IP_MULTICAST_IF, packed("192.0.2.1"), errno.EADDRNOTAVAIL),
        (sock, ip4, IP_MULTICAST_ALL, 2, errno.EINVAL),
        (six, ip6, socket.IPV6_MULTICAST_HOPS, 256, errno.EINVAL),
        (six, ip6, socket.IPV6_MULTICAST_IF, 77, errno.ENODEV),
        (lab.stream(), ip4, socket.IP_MULTICAST_TTL, 2, errno.EINVAL),
        (lab.stream(), ip4, socket.IP_MULTICAST_IF, packed(HOST4), errno.EINVAL),
    ):
        who, level, option, value, error = call
        assert failure(who.setsockopt, level, option, value) == error


@scenario
def the_loopback_has_groups_as_well(lab: Lab) -> None:
    sock, out = listener(lab), lab.datagram()
    join(sock, GROUP4, "127.0.0.1")
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed("127.0.0.1"))
    out.sendto(b"once", (GROUP4, PORT))
    hears(sock, b"once")
    assert mask_of(sock) == IDLE
    bound = lab.datagram()
    bound.bind(("127.0.0.1", 0))
    bound.sendto(b"from here", (GROUP4, PORT))
    hears(sock, b"from here")


@scenario
def raw_sockets_hear_groups(lab: Lab) -> None:
    sock = lab.keep(lab.stack.socket(socket.AF_INET, socket.SOCK_RAW, 253))
    join(sock, GROUP4)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed(HOST4))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3)
    sock.sendto(b"hello", (GROUP4, 0))
    settles(sock, IDLE | R)
    packet = sock.recv(100)
    assert (packet[8], packet[20:]) == (3, b"hello")


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("one", scenario.all, ids=scenario.names)
def test_lwip(one: Scenario) -> None:
    with lab_on("lwip") as lab:
        one(lab)


def on_linux() -> None:
    with TapLink("tap0"):
        ip("addr", "add", f"{HOST4}/24", "dev", "tap0")
        ip("addr", "add", f"{HOST6}/64", "dev", "tap0", "nodad")
        ip("link", "set", "tap0", "up")
        scenario.run_on_linux()


@pytest.mark.needs("netns", "ip", "tap")
def test_linux_does_the_same() -> None:
    run_in_namespace(on_linux)


# What passes over the wire.


def reports(frames: list[bytes], kind: int) -> list[str]:
    """The groups of IGMP messages of a type."""
    return [
        socket.inet_ntoa(one[-4:])
        for one in frames
        if one[12:14] == b"\x08\x00" and one[23] == 2 and one[38] == kind
    ]


def listener_reports(frames: list[bytes], kind: int) -> list[str]:
    """The groups of MLD messages of a type."""
    return [
        socket.inet_ntop(socket.AF_INET6, one[-16:])
        for one in frames
        if one[12:14] == b"\x86\xdd" and one[20] == 0 and one[62] == kind
    ]


IGMP_REPORT, IGMP_LEAVE, MLD_REPORT, MLD_DONE = 0x16, 0x17, 131, 132


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


def at(peer: Peer, group: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    sock = peer.keep(peer.stack.socket(family, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", PORT))
    return sock


@pytest.mark.needs("lwip")
def test_the_network_hears_of_the_first_and_of_the_last_member(peer: Peer) -> None:
    for group, heard, joined, left in (
        (GROUP4, reports, IGMP_REPORT, IGMP_LEAVE),
        (GROUP6, listener_reports, MLD_REPORT, MLD_DONE),
    ):
        one, other = at(peer, group), at(peer, group)
        join(one, group)
        assert heard(peer.send(), joined) == [group]
        join(other, group)
        assert heard(peer.send(), joined) == []
        leave(one, group)
        assert heard(peer.send(), left) == []
        other.close()
        assert heard(peer.send(), left) == [group]


@pytest.mark.needs("lwip")
def test_members_answer_the_router_that_asks(peer: Peer) -> None:
    for group in (GROUP4, GROUP6):
        join(at(peer, group), group)
    peer.stack.skip_time(30)
    peer.send()
    igmp_query = b"\x11\x0a\xee\xf5" + bytes(4)
    query4 = ipv4(igmp_query, 2, "0.0.0.0", "224.0.0.1")
    peer.send(frame(query4))
    mld_query = icmp(130, 0, struct.pack("!HH", 1000, 0) + bytes(16), "fe80::2", "ff02::1")
    peer.send(frame(mld_query))
    peer.stack.skip_time(12)
    answers = peer.send()
    assert GROUP4 in reports(answers, IGMP_REPORT)
    assert GROUP6 in listener_reports(answers, MLD_REPORT)


@pytest.mark.needs("lwip")
def test_frames_of_a_group_go_to_its_hardware_address(peer: Peer) -> None:
    out = at(peer, GROUP4)
    out.sendto(b"hello", (GROUP4, PORT))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
    out.sendto(b"stays", (GROUP4, PORT))
    [sent] = [one for one in peer.send() if b"hello" in one or b"stays" in one]
    assert sent[:6] == bytes.fromhex("01005e010203")
    assert sent[22] == 1
    six = at(peer, GROUP6)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 5)
    six.sendto(b"hello", (GROUP6, PORT))
    [sent] = [one for one in peer.send() if b"hello" in one]
    assert sent[:6] == bytes.fromhex("333300010002")
    assert sent[21] == 5


@pytest.mark.needs("lwip")
def test_a_datagram_from_the_wire_is_for_every_member(peer: Peer) -> None:
    socks = [at(peer, GROUP4) for _ in range(3)]
    join(socks[0], GROUP4)
    peer.send(frame(udp((PEER4, 9), (GROUP4, PORT), b"hello")))
    for sock in socks:
        assert sock.recvfrom(100) == (b"hello", (PEER4, 9))
    peer.send(frame(udp((PEER4, 9), (OTHER4, PORT), b"hello")))
    assert all(mask_of(sock) == IDLE for sock in socks)


@pytest.mark.needs("lwip")
def test_closing_the_stack_leaves_the_groups(peer: Peer) -> None:
    sock = at(peer, GROUP4)
    join(sock, GROUP4)
    peer.send()
    peer.stack.close()
    sent = peer.link.recv_batch(100)
    assert reports(sent, IGMP_LEAVE) == [GROUP4]
    assert failure(join, sock, OTHER4) == errno.ENETDOWN
