"""Router advertisements as values, and how long they hold by a clock that the tests play."""

from __future__ import annotations

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advertisements import (
    FOREVER,
    HIGH,
    LOW,
    MANAGED,
    OTHER,
    OTHER_CONFIG,
    ROUTER,
    domains,
    message,
    mtu,
    prefix,
    servers,
    source_address,
)
from vpoll_asyncio.stacks.rd import Advertisement, Routers, Told, read_advertisement


def read(*options: bytes, lifetime: int = 1800, flags: int = 0) -> Advertisement:
    found = read_advertisement(message(*options, lifetime=lifetime, flags=flags))
    assert found is not None
    return found


def heard(routers: Routers, *options: bytes, now: float, source: str = ROUTER) -> None:
    routers.receive(message(*options), ipaddress.IPv6Address(source), now)


# Advertisements.


def test_everything_that_a_router_says_is_read() -> None:
    found = read(
        source_address(),
        mtu(1400),
        prefix("fd00:9::", FOREVER, 600),
        servers("fd00:9::53", "fe80::53", lifetime=30),
        domains("lab.example", "more.lab.example", lifetime=FOREVER),
        lifetime=60,
        flags=MANAGED | OTHER_CONFIG | HIGH,
    )
    (told,) = found.prefixes
    assert (str(told.network), told.on_link, told.autonomous) == ("fd00:9::/64", True, True)
    assert (told.valid, told.preferred) == (math.inf, 600)
    assert found.servers == (Told("fd00:9::53", 30), Told("fe80::53%", 30))
    assert found.domains == (Told("lab.example", math.inf), Told("more.lab.example", math.inf))
    assert (found.lifetime, found.mtu, found.hop_limit) == (60, 1400, 64)
    assert (found.managed, found.other, found.preference) == (True, True, "high")


@pytest.mark.parametrize(("flags", "preference"), [(LOW, "low"), (0x10, "medium"), (0, "medium")])
def test_the_preference_that_is_reserved_is_the_medium_one(flags: int, preference: str) -> None:
    assert read(flags=flags).preference == preference


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        message()[:15],
        message(code=1),
        b"\x85" + message()[1:],
        message(b"\1\0" + bytes(6)),
        message(b"\1\2" + bytes(6)),
        message(prefix("fd00::"), b"\5"),
    ],
    ids=["empty", "short", "code", "type", "length 0", "too long", "half an option"],
)
def test_a_malformed_advertisement_is_none(wire: bytes) -> None:
    assert read_advertisement(wire) is None


@pytest.mark.parametrize(
    "option",
    [
        mtu(1279),
        prefix("fd00::", 60, 61),
        prefix("fe80::"),
        prefix("ff02::"),
        prefix("fd00::", bits=129),
        servers(),
        b"\x19\2" + bytes(14),
        servers("ff02::1", "::", "::1"),
        b"\x1f\1" + bytes(6),
        domains("lab.example")[:8] + b"\x3flab" + bytes(12),
        domains("-- bad --"),
        b"\xfa\1" + bytes(6),
    ],
    ids=[
        *("mtu below 1280", "preferred longer than valid", "link-local prefix", "multicast prefix"),
        *("prefix of 129 bits", "no server", "half a server", "no hosts", "no domain"),
        *("label that is cut", "no name", "unknown option"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_the_rest_holds(option: bytes) -> None:
    assert read(option, mtu(1500)) == read(mtu(1500))


@given(st.binary(max_size=120), st.booleans())
def test_no_bytes_raise_and_what_is_read_can_be_used(data: bytes, whole: bool) -> None:
    padded = data + bytes(-len(data) % 8)
    found = read_advertisement(message(padded) if whole else data)
    for server in () if found is None else found.servers:
        address = ipaddress.IPv6Address(server.value.rstrip("%"))
        assert not any((address.is_multicast, address.is_loopback, address.is_unspecified))


# Name servers and domains, RFC 8106.


def test_name_servers_and_domains_end_with_their_lifetimes() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1", lifetime=30), domains("a.example", lifetime=60), now=100)
    assert (routers.servers, routers.domains) == (("fd00::1",), ("a.example",))
    assert routers.deadline == 130
    routers.tick(130)
    assert (routers.servers, routers.domains, routers.deadline) == ((), ("a.example",), 160)
    routers.tick(160)
    assert routers.domains == ()


def test_each_advertisement_begins_the_lifetime_anew() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1", lifetime=30), now=0)
    heard(routers, servers("fd00::1", lifetime=20), now=25)
    ends = []
    for now in (44, 45):
        routers.tick(now)
        ends.append(routers.servers)
    assert ends == [("fd00::1",), ()]


def test_a_lifetime_of_0_takes_away_at_once() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1", "fd00::2"), domains("a.example"), now=0)
    heard(routers, servers("fd00::1", lifetime=0), domains("a.example", lifetime=0), now=1)
    assert (routers.servers, routers.domains) == (("fd00::2",), ())


def test_a_lifetime_of_all_ones_has_no_end() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1", lifetime=FOREVER), now=0)
    routers.tick(1e9)
    assert (routers.servers, routers.deadline) == (("fd00::1",), math.inf)


def test_a_link_local_server_is_one_of_the_interface() -> None:
    routers = Routers("vde1")
    heard(routers, servers("fe80::53"), now=0)
    assert routers.servers == ("fe80::53%vde1",)


def test_three_servers_are_used_and_others_take_the_place_of_those_that_end() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1", lifetime=10), servers("fd00::2", "fd00::3"), now=0)
    heard(routers, servers("fd00::4", "fd00::2"), now=1, source=OTHER)
    assert routers.servers == ("fd00::1", "fd00::2", "fd00::3")
    routers.tick(10)
    assert routers.servers == ("fd00::2", "fd00::3", "fd00::4")


def test_a_flood_of_servers_domains_and_routers_is_bounded() -> None:
    routers = Routers("vde0")
    for number in range(1, 200):
        several = [f"fd00::{number:x}:{last:x}" for last in range(1, 20)]
        names = [f"d{number}-{last}.example" for last in range(20)]
        source = f"fe80::{number:x}"
        heard(routers, servers(*several), domains(*names), now=number, source=source)
    assert (len(routers.servers), len(routers.domains), len(routers.routers)) == (3, 6, 16)


def test_a_sender_that_is_not_link_local_is_not_heard() -> None:
    routers = Routers("vde0")
    heard(routers, servers("fd00::1"), now=0, source="fd00::a1")
    assert (routers.servers, routers.routers) == ((), ())


# Routers.


def test_a_router_is_known_while_anything_that_it_said_holds() -> None:
    routers = Routers("vde0")
    routers.receive(
        message(prefix("fd00::", 20), servers("fd00::1", lifetime=30), lifetime=10),
        ipaddress.IPv6Address(ROUTER),
        0,
    )
    routers.tick(29)
    (router,) = routers.routers
    assert (str(router.address), router.advertisement.lifetime) == (ROUTER, 10)
    routers.tick(30)
    assert routers.routers == ()


def test_a_router_that_takes_everything_back_is_known_no_more() -> None:
    routers = Routers("vde0")
    heard(routers, prefix("fd00::"), now=0)
    heard(routers, prefix("fd00::"), now=0, source=OTHER)
    routers.receive(message(prefix("fd00::", 0), lifetime=0), ipaddress.IPv6Address(ROUTER), 1)
    assert [str(router.address) for router in routers.routers] == [OTHER]
