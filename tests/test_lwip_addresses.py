"""Addresses and routes of an lwIP stack, as `ip address` and `ip route` change them."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator

import pytest

from lwip_frames import BROADCAST, ethernet, frame, icmp, packed, udp
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lwip_on_wire
from memory_helpers import ERR, failure, mask_of
from vpoll_asyncio.stacks import open_stack

pytestmark = pytest.mark.needs("lwip")

ROUTER4, OTHER4 = "10.0.0.254", "10.0.0.253"
ROUTER6, OTHER6 = "fd00::fe", "fd00::fd"


@pytest.fixture
def bare() -> Iterator[Peer]:
    """A stack without an address."""
    with lwip_on_wire(ip=()) as peer:
        yield peer


def datagram(peer: Peer, family: int = socket.AF_INET) -> socket.socket:
    return peer.keep(peer.stack.socket(family, socket.SOCK_DGRAM))


def asked(peer: Peer, to: str) -> str:
    """The neighbour whose hardware address is asked for when a datagram is sent to `to`."""
    peer.link.recv_batch(4096)
    datagram(peer, socket.AF_INET6 if ":" in to else socket.AF_INET).sendto(b"x", (to, 9))
    for sent in peer.link.recv_batch():
        if sent[12:14] == b"\x08\x06":
            return str(ipaddress.ip_address(sent[38:42]))
        if sent[12:14] == b"\x86\xdd" and sent[20] == 58 and sent[54] == 135:
            return str(ipaddress.ip_address(sent[62:78]))
    raise AssertionError("nobody was asked for")


def pings(peer: Peer, host: str) -> bool:
    six = ":" in host
    request = icmp(128 if six else 8, 0, bytes(8), PEER6 if six else PEER4, host)
    replies = [one for one in peer.send(frame(request)) if one[54 if six else 34] in (0, 129)]
    return any(packed(host) in one[14 : 34 if not six else 54] for one in replies)


def test_a_stack_without_an_address_broadcasts_and_hears_broadcasts(bare: Peer) -> None:
    """What a client of DHCP does before it has a lease."""
    client = datagram(bare)
    client.bind(("0.0.0.0", 68))
    assert failure(client.sendto, b"x", ("255.255.255.255", 67)) == errno.EACCES
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.sendto(b"discover", ("255.255.255.255", 67))
    [sent] = bare.link.recv_batch()
    assert sent[:6] == BROADCAST
    assert sent[26:34] == packed("0.0.0.0") + packed("255.255.255.255")
    assert sent[42:] == b"discover"
    offer = udp((PEER4, 67), ("255.255.255.255", 68), b"offer")
    bare.send(frame(offer, dst=BROADCAST))
    assert client.recvfrom(100) == (b"offer", (PEER4, 67))


def test_a_stack_without_an_address_reaches_nobody_else(bare: Peer) -> None:
    assert failure(datagram(bare).sendto, b"x", (PEER4, 9)) == errno.ENETUNREACH
    assert failure(bare.keep(bare.stack.socket()).connect, (PEER4, 9)) == errno.ENETUNREACH
    assert failure(datagram(bare, socket.AF_INET6).sendto, b"x", (PEER6, 9)) == errno.ENETUNREACH
    assert not pings(bare, HOST4)


@pytest.mark.parametrize(("host", "prefix"), [(HOST4, 24), (HOST6, 64), ("192.168.7.1", 30)])
def test_an_address_is_used_from_the_moment_it_is_added(bare: Peer, host: str, prefix: int) -> None:
    for _ in range(2):
        bare.stack.add_address(f"{host}/{prefix}")
        assert bare.stack.addresses == [f"{host}/{prefix}"]
        assert pings(bare, host)
        bare.stack.del_address(host)
        assert bare.stack.addresses == []
        assert not pings(bare, host)


def test_the_first_address_may_go_and_the_others_stay() -> None:
    with lwip_on_wire(ip=["10.0.0.1/24", "10.0.0.8/24", "fd00::1/64", "fd00::8/64"]) as peer:
        for gone, stays in (("10.0.0.1", "10.0.0.8"), ("fd00::1", "fd00::8")):
            peer.stack.del_address(gone)
            assert not pings(peer, gone)
            assert pings(peer, stays)


def test_a_connection_of_an_address_that_goes_ends() -> None:
    with lwip_on_wire() as peer:
        client = peer.keep(peer.stack.socket())
        client.connect_ex((PEER4, 80))
        peer.stack.del_address(f"{HOST4}/24")
        assert mask_of(client) & ERR
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT


def test_addresses_and_routes_that_cannot_be() -> None:
    with lwip_on_wire() as peer:
        stack = peer.stack
        assert failure(stack.add_address, f"{HOST4}/24") == errno.EEXIST
        assert failure(stack.del_address, "10.9.9.9") == errno.EADDRNOTAVAIL
        assert failure(stack.del_address, "fd09::1") == errno.EADDRNOTAVAIL
        with pytest.raises(ValueError, match="host"):
            stack.add_address("224.0.0.1/4")
        with pytest.raises(ValueError, match="default or a network"):
            stack.add_route("10.9.0.1/16", PEER4)
        with pytest.raises(ValueError, match="other address family"):
            stack.add_route("10.9.0.0/16", PEER6)
        assert failure(stack.add_route, "10.9.0.0/16", "10.9.9.9") == errno.ENETUNREACH
        assert failure(stack.del_route, "default") == errno.ESRCH
        stack.add_route("default", PEER4)
        assert failure(stack.add_route, "default", PEER4) == errno.EEXIST
        assert failure(stack.del_route, "default", "10.0.0.77") == errno.ESRCH
        stack.del_route("default", PEER4)
        with pytest.raises(ValueError, match="mtu"):
            stack.set_mtu(100)
        stack.close()
        assert failure(stack.add_address, "10.0.0.5/24") == errno.ENETDOWN
        assert failure(stack.add_route, "default", PEER4) == errno.ENETDOWN


def test_the_longest_prefix_wins() -> None:
    routes = ["10.9.0.0/16>10.0.0.253", "10.9.7.0/24", "fd01::/48>fd00::fd"]
    with lwip_on_wire(gw=[ROUTER4, ROUTER6], route=routes) as peer:
        assert asked(peer, "192.0.2.1") == ROUTER4
        assert asked(peer, "10.9.1.1") == OTHER4
        assert asked(peer, "10.9.7.1") == "10.9.7.1"
        assert asked(peer, "2001:db8::1") == ROUTER6
        assert asked(peer, "fd01:0:0:5::1") == OTHER6


def test_a_route_that_is_removed_counts_no_more() -> None:
    with lwip_on_wire(gw=ROUTER4, route="10.9.0.0/16>10.0.0.253") as peer:
        peer.stack.del_route("10.9.0.0/16")
        assert asked(peer, "10.9.1.1") == ROUTER4


def test_a_prefix_of_ipv6_need_not_be_of_64_bits() -> None:
    with lwip_on_wire(ip=["fd00::1/112"], gw="fd00::fe") as peer:
        assert asked(peer, "fd00::7") == "fd00::7"
        assert asked(peer, "fd00::1:7") == "fd00::fe"


@pytest.mark.parametrize("six", [False, True])
def test_without_a_route_a_network_is_unreachable(six: bool) -> None:
    with lwip_on_wire() as peer:
        family = socket.AF_INET6 if six else socket.AF_INET
        far = ("2001:db8::1" if six else "192.0.2.1", 9)
        assert failure(datagram(peer, family).sendto, b"x", far) == errno.ENETUNREACH
        assert failure(peer.keep(peer.stack.socket(family)).connect, far) == errno.ENETUNREACH
        peer.stack.add_route("default", PEER6 if six else PEER4)
        datagram(peer, family).sendto(b"x", far)


def test_routes_through_a_network_go_with_its_address() -> None:
    with lwip_on_wire(ip=["10.0.0.1/24"], gw=ROUTER4) as peer:
        peer.stack.del_address("10.0.0.1")
        peer.stack.add_address("10.0.0.1/24")
        assert failure(datagram(peer).sendto, b"x", ("192.0.2.1", 9)) == errno.ENETUNREACH


def test_a_smaller_mtu_makes_smaller_packets() -> None:
    with lwip_on_wire() as peer:
        peer.send(ethernet(b"", 0x0800))
        peer.stack.set_mtu(600)
        assert peer.stack.mtu == 600
        datagram(peer).sendto(bytes(1000), (PEER4, 9))
        sent = [one for one in peer.send() if one[12:14] == b"\x08\x00"]
        assert [len(one) <= 614 for one in sent] == [True, True]


@pytest.mark.parametrize(
    ("route", "about"),
    [
        ("10.9.0.0/16>", "via"),
        ("nonsense>10.0.0.2", "nonsense"),
        (["10.9.0.0/16>10.0.0.2", "10.9.0.0/16>10.0.0.3"], "already"),
    ],
)
def test_a_bad_route_is_a_value_error(route: str | list[str], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        open_stack("lwip", vnl="wire://x", ip="10.0.0.1/24", route=route)


def test_routes_in_a_configuration_string() -> None:
    config = "stack=lwip,vnl=wire://r,ip=10.0.0.1/24,gw=10.0.0.2,route=10.9.0.0/16>10.0.0.3"
    with open_stack(config) as stack:
        assert stack.addresses == ["10.0.0.1/24"]
