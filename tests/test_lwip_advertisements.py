"""What lwIP makes of routers' advertisements, which the tests send; time passes by skipping."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import pytest

from advertisements import (
    FOREVER,
    HIGH,
    LOW,
    MANAGED,
    MEDIUM,
    OTHER,
    OTHER_MAC,
    ROUTER,
    ROUTER_MAC,
    advertised,
    domains,
    mtu,
    prefix,
    servers,
    source_address,
)
from lwip_frames import MAC, ethernet, icmp, packed, parse_tcp, udp
from lwip_helpers import Peer, lwip_on_wire
from vpoll_asyncio.links import WireLink, wire_pair
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.lwip.driver import NEVER

pytestmark = pytest.mark.needs("lwip")

IDENTIFIER = "ff:fe00:1"
"""Of MAC 02:00:00:00:00:01, as RFC 4291, appendix A, makes it."""
OWN = f"fd00:9::{IDENTIFIER}"
FAR = "2001:db8::1"

Routed = tuple[str, bytes]
FIRST: Routed = (ROUTER, ROUTER_MAC)
SECOND: Routed = (OTHER, OTHER_MAC)


class Lan(Peer):
    """A wire with routers and neighbours on it, who answer unless they are in `silent`."""

    def __init__(self, stack: LwipStack, link: WireLink) -> None:
        super().__init__(stack, link)
        self.neighbours: dict[str, bytes] = {}
        self.silent: frozenset[str] = frozenset()

    def reply(self, received: bytes) -> bytes | None:
        """The neighbour advertisement of whoever is asked for."""
        if received[12:14] == b"\x86\xdd" and received[20] == 58 and received[54] == 135:
            for address, mac in (FIRST, SECOND, *self.neighbours.items()):
                asker = socket.inet_ntop(socket.AF_INET6, received[22:38])
                if received[62:78] == packed(address) and address not in self.silent:
                    rest = b"\xe0\0\0\0" + packed(address) + b"\2\1" + mac
                    return ethernet(icmp(136, 0, rest, address, asker), 0x86DD, src=mac)
        return None

    def hear(
        self,
        *options: bytes,
        source: Routed = FIRST,
        lifetime: int = 1800,
        flags: int = 0,
        hop_limit: int = 64,
    ) -> None:
        """Let a router advertise, and the time pass in which lwIP looks for duplicates."""
        address, mac = source
        options = (source_address(mac), *options)
        self.send(
            advertised(
                *options,
                source=address,
                mac=mac,
                lifetime=lifetime,
                flags=flags,
                hop_limit=hop_limit,
            )
        )
        self.pass_time(3)

    def pass_time(self, seconds: float) -> None:
        """Skip, second by second, so that what the stack asks is answered in time."""
        for _ in range(int(seconds)):
            self.stack.skip_time(1)
            self.send()

    @property
    def learned(self) -> list[str]:
        """The addresses of prefixes."""
        return [address for address in self.stack.addresses if address.startswith("fd")]

    def way(self, to: str = FAR) -> bytes | None:
        """Send a datagram and return the hardware address of the router that it goes to."""
        self.send()
        sock = self.keep(self.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        try:
            sock.sendto(b"which way", (to, 9))
        except OSError as exc:
            if exc.errno != errno.ENETUNREACH:
                raise
            return None
        found = [one for one in self.send() if one.endswith(b"which way")]
        return found[0][:6] if found else b""

    def source(self, to: str = FAR) -> str:
        """Return the address that a connection to `to` comes from."""
        sock = self.keep(self.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        sock.connect((to, 9))
        return str(sock.getsockname()[0])


@contextlib.contextmanager
def on_lan(**options: object) -> Iterator[Lan]:
    settings = {"ip": (), "rd": True, "dhcp_timeout": 0, **options}
    with lwip_on_wire(**settings) as peer:
        lan = Lan(peer.stack, peer.link)
        # Its own link-local address, and the first solicitation.
        lan.pass_time(3)
        try:
            yield lan
        finally:
            lan.close()


@pytest.fixture
def lan() -> Iterator[Lan]:
    with on_lan() as opened:
        yield opened


def resolver(lan: Lan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if lan.stack.resolver is None:
        return (), ()
    return lan.stack.resolver.conf.servers, lan.stack.resolver.conf.search


# Name servers and domains, RFC 8106.


def test_name_servers_and_domains_of_a_router_are_the_stacks(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53", "fe80::53"), domains("lab.example"))
    assert resolver(lan) == (("fd00:9::53", "fe80::53%vde0"), ("lab.example",))


def test_they_end_with_their_lifetimes(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53", lifetime=30), domains("lab.example", lifetime=60))
    lan.pass_time(30)
    assert resolver(lan) == ((), ("lab.example",))
    lan.pass_time(30)
    assert resolver(lan) == ((), ())


def test_a_lifetime_of_0_takes_them_away(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53"), domains("lab.example"))
    lan.hear(servers("fd00:9::53", lifetime=0), domains("lab.example", lifetime=0))
    assert resolver(lan) == ((), ())


@pytest.mark.needs("dnspython")
def test_those_that_were_given_win_each_kind_by_itself() -> None:
    with on_lan(dns="fd00::1") as lan:
        lan.hear(servers("fd00:9::53"), domains("lab.example"))
        assert resolver(lan) == (("fd00::1",), ("lab.example",))
    with on_lan(domain="own.example") as lan:
        lan.hear(servers("fd00:9::53"), domains("lab.example"))
        assert resolver(lan) == (("fd00:9::53",), ("own.example",))


def test_those_that_are_set_later_win_until_none_are_set(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53"), domains("lab.example"))
    lan.stack.set_dns("fd00::1")
    assert resolver(lan) == (("fd00::1",), ("lab.example",))
    lan.hear(servers("fd00:9::54"), domains("more.example"))
    assert resolver(lan) == (("fd00::1",), ("lab.example", "more.example"))
    with pytest.raises(ValueError, match="address of a name server"):
        lan.stack.set_dns("nobody")
    lan.stack.set_dns(())
    assert resolver(lan)[0] == ("fd00:9::53", "fd00:9::54")


def test_without_the_option_nothing_is_taken() -> None:
    with on_lan(rd=False, ip6="fd00::1/64") as lan:
        lan.hear(*NEWS)
        assert resolver(lan) == ((), ())
        assert (lan.stack.addresses, lan.stack.routers) == (["fd00::1/64"], {})


def test_an_interface_that_goes_takes_its_name_servers_with_it(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53"))
    lan.stack.del_interface("vde0")
    assert resolver(lan) == ((), ())


def test_an_interface_that_is_down_has_none_until_it_hears_its_router_again(lan: Lan) -> None:
    lan.hear(servers("fd00:9::53"))
    lan.stack.set_down("vde0")
    lan.pass_time(1)
    assert (resolver(lan), lan.stack.routers) == (((), ()), {})
    lan.seen.clear()
    lan.stack.set_up("vde0")
    lan.send()
    assert any(one[54:55] == b"\x85" for one in lan.seen), "no solicitation"
    lan.hear(servers("fd00:9::54"))
    assert resolver(lan) == (("fd00:9::54",), ())


NEWS = (prefix("fd00:9::"), servers("fd00:9::53"))


@pytest.mark.parametrize(
    "frame",
    [
        advertised(*NEWS, hops=64),
        advertised(*NEWS, code=1),
        advertised(*NEWS, source="fd00:9::a1"),
    ],
    ids=["passed a router", "code", "sender not link-local"],
)
def test_an_advertisement_that_is_not_valid_changes_nothing(lan: Lan, frame: bytes) -> None:
    lan.send(frame)
    lan.pass_time(3)
    assert (lan.learned, resolver(lan), lan.way()) == ([], ((), ()), None)


@pytest.mark.parametrize("option", [b"\xfa\0" + bytes(6), b"\xfa\2" + bytes(6)], ids=["0", "long"])
def test_one_whose_last_option_has_a_bad_length_is_no_good_from_the_first_on(
    lan: Lan, option: bytes
) -> None:
    lan.hear(*NEWS, option)
    assert (lan.learned, resolver(lan), lan.way()) == ([], ((), ()), None)
    assert lan.stack.counters["rx_malformed"] == 1


def test_one_with_a_wrong_checksum_changes_nothing(lan: Lan) -> None:
    frame = bytearray(advertised(*NEWS))
    frame[56] ^= 1
    lan.send(bytes(frame))
    lan.pass_time(3)
    assert (lan.learned, resolver(lan), lan.way()) == ([], ((), ()), None)


# Prefixes, RFC 4862.


def test_each_prefix_gives_an_address(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"), prefix("fd00:a::"), prefix("fd00:b::"))
    expected = [f"fd00:{one}::{IDENTIFIER}/64" for one in "9ab"]
    assert lan.learned == expected
    (interface,) = lan.stack.interfaces
    assert interface.addresses == tuple(expected)


def test_a_sixth_prefix_waits_for_room(lan: Lan) -> None:
    lan.hear(prefix("fd00:1::", 20), *(prefix(f"fd00:{one}::") for one in "23456"))
    assert len(lan.learned) == 5
    lan.pass_time(20)
    assert len(lan.learned) == 4
    lan.hear(prefix("fd00:6::"))
    assert f"fd00:6::{IDENTIFIER}/64" in lan.learned


def test_a_prefix_is_preferred_then_deprecated_and_then_gone(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", 60, 20), prefix("fd00:a::", 3600))
    assert lan.source("fd00:9::1") == OWN
    lan.pass_time(20)
    # RFC 6724, rule 3: another one, of which less agrees with the destination.
    assert OWN + "/64" in lan.learned
    assert lan.source("fd00:9::1") == f"fd00:a::{IDENTIFIER}"
    lan.pass_time(40)
    assert lan.learned == [f"fd00:a::{IDENTIFIER}/64"]


def test_a_deprecated_address_still_has_its_connections(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", 600, 10))
    sock = lan.keep(lan.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.bind((OWN, 7))
    lan.pass_time(20)
    lan.send(ethernet(udp((FAR, 7), (OWN, 7), b"still there"), 0x86DD))
    assert sock.recv(100) == b"still there"


def test_an_advertisement_makes_a_deprecated_prefix_preferred_again(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", 600, 10), prefix("fd00:a::", 3600))
    lan.pass_time(20)
    lan.hear(prefix("fd00:9::", 600, 600))
    assert lan.source("fd00:9::1") == OWN


def test_nobody_can_take_an_address_away_within_two_hours(lan: Lan) -> None:
    """RFC 4862, 5.5.3 (e): a forged advertisement shortens a lifetime to two hours only."""
    lan.hear(prefix("fd00:9::", FOREVER, FOREVER))
    lan.hear(prefix("fd00:9::", 0, 0))
    lan.pass_time(10)
    assert lan.learned == [OWN + "/64"]


def test_a_prefix_that_is_not_autonomous_gives_no_address_but_neighbours(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", flags=0x80), prefix("fd00:a::"))
    assert lan.learned == [f"fd00:a::{IDENTIFIER}/64"]
    lan.neighbours = {"fd00:9::77": OTHER_MAC}
    assert lan.way("fd00:9::77") == OTHER_MAC


def test_a_network_of_neighbours_by_a_route_is_asked_for_them_again_until_they_answer(
    lan: Lan,
) -> None:
    lan.hear(prefix("fd00:9::"))
    lan.stack.add_route("fd00:b::/64", iface="vde0")
    assert lan.way("fd00:b::77") == b""
    lan.neighbours = {"fd00:b::77": OTHER_MAC}
    lan.seen.clear()
    lan.pass_time(2)
    assert [one[:6] for one in lan.seen if one.endswith(b"which way")] == [OTHER_MAC]


def test_neighbours_are_behind_the_router_once_their_prefix_is_taken_back(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", flags=0x80), prefix("fd00:a::"))
    lan.send(advertised(source_address(), prefix("fd00:9::", 0, flags=0x80)))
    assert lan.way("fd00:9::77") == ROUTER_MAC


def test_an_address_that_somebody_has_is_not_used(lan: Lan) -> None:
    lan.send(advertised(source_address(), prefix("fd00:9::")))
    rest = b"\x20\0\0\0" + packed(OWN) + b"\2\1" + OTHER_MAC
    lan.send(ethernet(icmp(136, 0, rest, OWN, "ff02::1"), 0x86DD, dst=b"\x33\x33\0\0\0\1"))
    lan.pass_time(3)
    assert lan.learned == []


def test_a_prefix_whose_address_was_given_keeps_it_as_it_is() -> None:
    with on_lan(ip6=f"{OWN}/64") as lan:
        lan.hear(prefix("fd00:9::", 10))
        lan.pass_time(20)
        assert lan.learned == [f"{OWN}/64"]


def test_an_address_that_takes_the_place_of_a_learned_one_does_not_expire(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::", 60))
    lan.pass_time(60)
    lan.stack.add_address("fd00:b::1/64")
    lan.pass_time(60)
    assert lan.learned == ["fd00:b::1/64"]


# Routers.


def test_a_router_is_the_default_one_for_its_lifetime(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"), lifetime=30)
    assert lan.way() == ROUTER_MAC
    lan.pass_time(30)
    assert lan.way() is None
    assert lan.learned == [OWN + "/64"]


def test_a_lifetime_of_0_takes_the_default_route_away_at_once(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"))
    assert lan.way() == ROUTER_MAC
    lan.send(advertised(source_address(), lifetime=0))
    assert lan.way() is None


def test_a_router_that_is_none_by_default_is_not_used_for_a_moment(lan: Lan) -> None:
    lan.send(advertised(source_address(), prefix("fd00:9::"), lifetime=0))
    assert lan.way() is None
    lan.pass_time(3)
    assert (lan.learned, lan.way()) == ([OWN + "/64"], None)


def test_another_router_takes_over_when_one_says_good_bye(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"))
    lan.hear(prefix("fd00:9::"), source=SECOND)
    assert lan.way() == ROUTER_MAC
    lan.hear(lifetime=0)
    assert lan.way() == OTHER_MAC


def test_another_router_takes_over_when_one_answers_no_more(lan: Lan) -> None:
    """RFC 4861, 7.3.3: it is found out in some seconds, by the traffic itself."""
    lan.hear(prefix("fd00:9::"))
    lan.hear(prefix("fd00:9::"), source=SECOND)
    assert lan.way() == ROUTER_MAC
    lan.silent = frozenset({ROUTER})
    for _ in range(120):
        lan.pass_time(1)
        if lan.way() == OTHER_MAC:
            break
    assert lan.way() == OTHER_MAC


@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (LOW, MEDIUM), (MEDIUM, HIGH)])
@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)], ids=["before", "after"])
def test_of_several_routers_that_with_the_highest_preference_is_used(
    lan: Lan, order: tuple[Routed, Routed], low: int, high: int
) -> None:
    for router in order:
        lan.hear(prefix("fd00:9::"), source=router, flags=high if router == SECOND else low)
    assert lan.way() == OTHER_MAC
    # Reachable or not known to be gone, RFC 4191, 3.2.
    lan.pass_time(60)
    assert lan.way() == OTHER_MAC
    lan.hear(source=SECOND, flags=low)
    lan.hear(source=FIRST, flags=high)
    assert lan.way() == ROUTER_MAC


@pytest.mark.parametrize("better", [0, 1])
def test_of_routers_on_two_interfaces_the_better_one_is_used_and_left_when_it_is_gone(
    lan: Lan, better: int
) -> None:
    near, far = wire_pair()
    with far:
        lan.stack.add_interface(link=near, iface="vde1", mac=MAC[:5] + b"\2", rd=True)
        beside = Lan(lan.stack, far)
        lans = (lan, beside)
        beside.pass_time(3)
        for number, one in enumerate(lans):
            flags = HIGH if number == better else LOW
            one.hear(prefix(f"fd00:{number + 1}::"), flags=flags)
        sock = lan.keep(lan.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))

        def seen_by() -> list[int]:
            """Where a datagram has gone."""
            sock.sendto(b"which way", (FAR, 9))
            lan.stack.skip_time(1)
            return [
                number
                for number, one in enumerate(lans)
                if any(got.endswith(b"which way") for got in one.send())
            ]

        assert seen_by() == [better]
        lans[better].silent = frozenset({ROUTER})
        for _ in range(120):
            if seen_by() == [1 - better]:
                break
        assert seen_by() == [1 - better]


def test_a_redirect_is_followed_and_outlasts_advertisements(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"))
    lan.hear(prefix("fd00:9::"), source=SECOND)
    assert lan.way() == ROUTER_MAC
    rest = bytes(4) + packed(OTHER) + packed(FAR) + b"\2\1" + OTHER_MAC
    lan.send(ethernet(icmp(137, 0, rest, ROUTER, OWN), 0x86DD, src=ROUTER_MAC))
    assert lan.way() == OTHER_MAC
    lan.hear(prefix("fd00:9::"))
    assert lan.way() == OTHER_MAC
    assert lan.way("2001:db8::2") == ROUTER_MAC


def test_a_route_that_was_given_wins_over_routers(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"))
    lan.stack.add_route("2001:db8::/32", OTHER, "vde0")
    assert (lan.way(), lan.way("2001:db9::1")) == (OTHER_MAC, ROUTER_MAC)


def test_what_routers_have_said_can_be_looked_at(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"), mtu(1400), flags=MANAGED)
    lan.hear(lifetime=60, source=SECOND)
    first, second = lan.stack.routers["vde0"]
    assert (str(first.address), str(second.address)) == (ROUTER, OTHER)
    said = first.advertisement
    assert (said.lifetime, said.mtu, said.managed) == (1800, 1400, True)
    assert [str(one.network) for one in said.prefixes] == ["fd00:9::/64"]
    lan.pass_time(60)
    assert [str(one.address) for one in lan.stack.routers["vde0"]] == [ROUTER]


# The MTU.


def segment_size(lan: Lan) -> int:
    """What a connection over IPv6 tells its peer to send at most in a segment."""
    sock = lan.keep(lan.stack.socket(socket.AF_INET6))
    with contextlib.suppress(BlockingIOError):
        sock.connect((FAR, 80))
    (found,) = [one for one in lan.send() if (parse_tcp(one) or {}).get("flags") == 2]
    at = found.index(b"\2\4", 54 + 20)
    return int.from_bytes(found[at + 2 : at + 4], "big")


@pytest.mark.parametrize(("told", "used"), [(1280, 1280), (1400, 1400), (1279, 1500), (9000, 1500)])
def test_the_mtu_of_a_router_is_that_of_ipv6_within_bounds(lan: Lan, told: int, used: int) -> None:
    lan.hear(prefix("fd00:9::"), mtu(told))
    assert segment_size(lan) == used - 60
    assert lan.stack.mtu == 1500


# What is different from Linux.


def test_a_fourth_router_and_its_prefixes_are_taken_when_there_is_room(lan: Lan) -> None:
    for number in range(1, 4):
        lan.hear(prefix(f"fd00:{number}::"), source=(f"fe80::{number}", ROUTER_MAC), lifetime=60)
    fourth = ("fe80::4", OTHER_MAC)
    lan.hear(prefix("fd00:4::"), source=fourth)
    assert len(lan.learned) == 3
    assert len(lan.stack.routers["vde0"]) == 4
    lan.pass_time(60)
    lan.hear(prefix("fd00:4::"), source=fourth)
    assert len(lan.learned) == 4
    lan.neighbours = {"fe80::4": OTHER_MAC}
    assert lan.way() == OTHER_MAC


def test_a_prefix_of_neighbours_of_another_length_is_ignored(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"), prefix("fd00:a::", bits=48, flags=0x80))
    assert lan.way("fd00:a:0:1::77") == ROUTER_MAC


def test_the_hop_limit_of_a_router_is_shown_only(lan: Lan) -> None:
    lan.hear(prefix("fd00:9::"), hop_limit=7)
    (router,) = lan.stack.routers["vde0"]
    assert router.advertisement.hop_limit == 7
    with lan.stack.socket(socket.AF_INET6) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) == 64


def test_a_malformed_message_of_discovery_does_not_reach_raw_sockets(lan: Lan) -> None:
    sock = lan.keep(lan.stack.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
    lan.send(advertised(b"\xfa\0" + bytes(6)), advertised(mtu(1400)))
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(sock.recv(1000))
    assert [one[16:] for one in got if one[0] == 134] == [mtu(1400)]


# Waiting.


def test_nothing_of_python_runs_where_no_router_is_heard_or_none_has_a_prefix(lan: Lan) -> None:
    assert lan.stack.core.timers.due == NEVER
    lan.hear(lifetime=9000)
    lan.pass_time(10)
    # When what the router has said ends.
    assert lan.stack.core.timers.due / 1000 > time.monotonic() + 3600


async def test_a_router_without_a_prefix_is_named_when_waiting_was_in_vain(lan: Lan) -> None:
    lan.hear(flags=MANAGED)
    with pytest.raises(TimeoutError, match=f"router {ROUTER} gives no prefix.*DHCPv6"):
        await lan.stack.wait_configured(0.01)
