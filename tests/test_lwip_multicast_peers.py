"""Groups across a network: Linux and lwIP in one group, and one stack on two networks."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from link_helpers import ip, run_in_namespace
from lwip_frames import frame, icmp
from lwip_helpers import HOST4, HOST6, PEER6, lwip_on_wire
from memory_helpers import WRBAND, R, W, failure, mask_of

pytestmark = pytest.mark.needs("lwip")

IDLE = W | WRBAND
GROUPS = {socket.AF_INET: "239.1.2.3", socket.AF_INET6: "ff05::1:2"}
PORT = 5007
IP_PKTINFO, IP_RECVERR, IP_ADD_SOURCE_MEMBERSHIP = 8, 11, 39
LINUX = {socket.AF_INET: "10.77.0.1", socket.AF_INET6: "fd77::1"}
LWIP = {socket.AF_INET: "10.77.0.2", socket.AF_INET6: "fd77::2"}


def join(sock: socket.socket, index: int) -> None:
    """Join the group of the socket's family on interface `index`, and send through it."""
    group = socket.inet_pton(sock.family, GROUPS[sock.family])
    if sock.family == socket.AF_INET6:
        sock.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("i", index)
        )
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        request = group + bytes(4) + struct.pack("i", index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)


def linux_and_lwip() -> None:
    ip("tuntap", "add", "tap0", "mode", "tap")
    ip("addr", "add", f"{LINUX[socket.AF_INET]}/24", "dev", "tap0")
    ip("addr", "add", f"{LINUX[socket.AF_INET6]}/64", "dev", "tap0", "nodad")
    ip("link", "set", "tap0", "up")
    addresses = [f"{LWIP[socket.AF_INET]}/24", f"{LWIP[socket.AF_INET6]}/64"]
    with va.open_stack("lwip", vnl="tap://tap0", ip=addresses, thread=True) as stack:
        for family, group in GROUPS.items():
            with (
                stack.socket(family, socket.SOCK_DGRAM) as ours,
                socket.socket(family, socket.SOCK_DGRAM) as theirs,
            ):
                for sock, index in ((ours, 2), (theirs, socket.if_nametoindex("tap0"))):
                    sock.settimeout(20)
                    sock.bind(("", PORT))
                    join(sock, index)
                for sender, hosts in ((ours, LWIP), (theirs, LINUX)):
                    sender.sendto(b"hello", (group, PORT))
                    for receiver in (ours, theirs):
                        data, address = receiver.recvfrom(100)
                        assert data == b"hello"
                        assert address[:2] == (hosts[socket.AddressFamily(family)], PORT)


@pytest.mark.needs("tap", "netns", "ip")
def test_linux_and_lwip_hear_each_other_in_a_group() -> None:
    run_in_namespace(linux_and_lwip)


@pytest.fixture
def stacks() -> Iterator[tuple[va.Stack, va.Stack, va.Stack]]:
    """A stack on two networks, and one on each of these."""
    with (
        va.open_stack(
            "stack=lwip,vnl=wire://groups-a,ip=10.1.0.1/24,ip6=fd01::1/64,"
            "iface=other,vnl=wire://groups-b,ip=10.2.0.1/24,ip6=fd02::1/64"
        ) as both,
        va.open_stack("lwip", vnl="wire://groups-a", ip=["10.1.0.2/24", "fd01::2/64"]) as a,
        va.open_stack("lwip", vnl="wire://groups-b", ip=["10.2.0.2/24", "fd02::2/64"]) as b,
    ):
        yield both, a, b


@pytest.mark.parametrize("family", list(GROUPS))
def test_a_group_is_joined_on_one_network_and_not_on_another(
    stacks: tuple[va.Stack, va.Stack, va.Stack], family: socket.AddressFamily
) -> None:
    both, a, b = stacks
    with both.socket(family, socket.SOCK_DGRAM) as member:
        member.settimeout(20)
        member.bind(("", PORT))
        join(member, 3)
        for stack, data in ((a, b"from a"), (b, b"from b")):
            with stack.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(data, (GROUPS[family], PORT))
        assert member.recv(100) == b"from b"
        with b.socket(family, socket.SOCK_DGRAM) as listener:
            listener.settimeout(20)
            listener.bind(("", PORT))
            join(listener, 2)
            member.sendto(b"to b", (GROUPS[family], PORT))
            assert listener.recv(100) == b"to b"
        assert member.recv(100) == b"to b"
        assert mask_of(member) == IDLE


@pytest.mark.parametrize("family", list(GROUPS))
def test_a_group_goes_with_its_interface(
    stacks: tuple[va.Stack, va.Stack, va.Stack], family: socket.AddressFamily
) -> None:
    both, _, _ = stacks
    with both.socket(family, socket.SOCK_DGRAM) as member:
        join(member, 3)
        assert hasattr(both, "del_interface")
        both.del_interface("other")
        join(member, 2)
        assert mask_of(member) & ~R == IDLE


# What docs/reference/lwip.md says is different from Linux.


def test_one_ipv6_socket_has_one_ttl_for_the_groups_of_both_families(
    stacks: tuple[va.Stack, va.Stack, va.Stack],
) -> None:
    with stacks[0].socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 9


@pytest.mark.parametrize("option", [IP_RECVERR, IP_PKTINFO, IP_ADD_SOURCE_MEMBERSHIP])
def test_options_that_lwip_has_nothing_for(
    stacks: tuple[va.Stack, va.Stack, va.Stack], option: int
) -> None:
    with stacks[0].socket(type=socket.SOCK_DGRAM) as sock:
        value = socket.inet_aton("239.1.2.3") + bytes(8)
        assert failure(sock.setsockopt, socket.IPPROTO_IP, option, value) == errno.ENOPROTOOPT


def test_an_echo_request_to_all_nodes_is_not_answered() -> None:
    with lwip_on_wire() as peer:
        peer.send(frame(icmp(128, 0, b"\0\1\0\1one", PEER6, HOST6)))
        assert peer.send(frame(icmp(128, 0, b"\0\1\0\1all", PEER6, "ff02::1"))) == []
        [answer] = peer.send(frame(icmp(128, 0, b"\0\1\0\1one", PEER6, HOST6)))
        assert answer.endswith(b"one")


def test_what_is_malformed_does_not_reach_the_raw_sockets_of_its_own_host() -> None:
    with lwip_on_wire() as peer:
        sock = peer.keep(peer.stack.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        before = peer.stack.counters["rx_malformed"]
        sock.sendto(b"no segment", (HOST4, 0))
        assert peer.stack.counters["rx_malformed"] == before + 1
        assert mask_of(sock) == IDLE
