"""The interfaces of a stack: what is asked for, how each is opened, and how it shows."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...links import open_link
from ...links.base import Link
from .config import (
    Interface,
    Route,
    check_room,
    parse_gateways,
    parse_interfaces,
    parse_mac,
    parse_route,
    parse_routes,
)
from .core import Core
from .ports import Port
from .words import Words, parse_words

__all__ = [
    "LOOPBACK",
    "NetworkInterface",
    "Request",
    "check_requests",
    "checked_mtu",
    "free_name",
    "further_requests",
    "open_interface",
    "port_named",
    "request",
    "shown",
]

LOOPBACK: Final = "lo"
# IFNAMSIZ of the kernel, with its null byte.
_NAME: Final = re.compile(r"[^\s/:\x00-\x1f\x7f]{1,15}")


@dataclass(frozen=True)
class NetworkInterface:
    """An interface of an lwIP stack, as it was when it was asked for."""

    name: str
    index: int
    """Its number, which is the scope of link-local addresses; the loopback is 1."""
    mac: bytes
    """Hardware address; without meaning where the link carries bare packets."""
    mtu: int
    """Most bytes of an IP packet."""
    up: bool
    """Whether it is up, as ``ip link set up`` has it."""
    addresses: tuple[str, ...]
    """With their prefix lengths."""
    link: Link
    link_error: OSError | None
    """What broke the link, or None while it works."""
    counters: dict[str, int]
    """As `LwipStack.counters` has them."""


@dataclass(frozen=True)
class Request:
    """What is asked of an interface, checked as far as that is possible without a link."""

    name: str
    vnl: str | None
    link: Link | None
    addresses: Sequence[Interface]
    routes: Sequence[Route]
    mac: str | bytes | None
    mtu: int | str | None
    words: Words


def request(
    default_name: str,
    *,
    vnl: str | None = None,
    link: Link | None = None,
    iface: str | None = None,
    ip: str | Iterable[str] = (),
    ip6: str | Iterable[str] = (),
    gw: str | Iterable[str] = (),
    route: str | Iterable[str] = (),
    mac: str | bytes | None = None,
    mtu: int | str | None = None,
    **words: bool | int | str,
) -> Request:
    """Return the options of an interface, checked.

    words -- as `parse_words` takes them

    Raises ValueError for a bad one.
    """
    name: Any = default_name if iface is None else iface
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", "..", LOOPBACK):
        raise ValueError(
            f"iface={name!r}: expected the name of an interface, at most 15 characters without "
            f"blanks, slashes and colons, and not {LOOPBACK}"
        )
    if (vnl is None) == (link is None):
        raise ValueError("a stack needs a network: give either vnl=LOCATOR or link=LINK")
    if not (vnl is None or isinstance(vnl, str)):
        raise ValueError(f"vnl={vnl!r}: an interface has one link: begin another with iface=NAME")
    addresses = parse_interfaces(ip, ip6)
    gateways = parse_gateways(gw, addresses)
    routes = [parse_route("default", str(gateway)) for gateway in gateways]
    routes += parse_routes(route)
    parse_mac(mac)
    return Request(name, vnl, link, addresses, routes, mac, mtu, parse_words(words))


def further_requests(
    interfaces: Iterable[Mapping[str, Any]], taken: Sequence[str]
) -> list[Request]:
    """Return the further interfaces of the option `interfaces`, checked.

    taken -- the names of those before

    Raises ValueError for a bad option.
    """
    names = list(taken)
    found: list[Request] = []
    for options in interfaces:
        try:
            one = request(free_name(names), **options)
        except TypeError as exc:
            raise ValueError(f"interfaces: {options!r}: {exc}") from None
        names.append(one.name)
        found.append(one)
    return found


def check_requests(requests: Sequence[Request], most: int) -> None:
    """Raise ValueError for interfaces that cannot be together: too many, or with one name."""
    if len(requests) > most:
        raise ValueError(f"{len(requests)} interfaces: lwIP has room for {most}")
    names = [one.name for one in requests]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"iface={name!r}: two interfaces have this name")
    check_room([address for one in requests for address in one.addresses if address.version == 4])


def free_name(taken: Iterable[str]) -> str:
    """Return the first of ``vde0``, ``vde1`` … that nobody has."""
    names = set(taken)
    number = 0
    while f"vde{number}" in names:
        number += 1
    return f"vde{number}"


def open_interface(core: Core, asked: Request) -> Port:
    """Open an interface with its addresses and routes; raises what opening the link does.

    The link is closed when anything fails, and nothing of the interface stays.
    """
    link = asked.link
    if link is None:
        assert asked.vnl is not None
        link = open_link(asked.vnl)
    try:
        if asked.words and link.medium != "ethernet":
            raise ValueError(
                f"{asked.words}: {link!r} carries bare packets: expected a link of Ethernet"
            )
        hardware = parse_mac(link.address if asked.mac is None else asked.mac)
        port = core.add_interface(asked.name, link, hardware, checked_mtu(asked.mtu, link))
    except BaseException:
        link.close()
        raise
    try:
        for address in asked.addresses:
            core.add_address(port, address)
        for route in asked.routes:
            core.add_route(route, port)
    except BaseException:
        core.del_interface(port)
        raise
    return port


def checked_mtu(mtu: int | str | None, link: Link) -> int:
    """Return the MTU asked for, or the link's.  Raises ValueError where it does not fit that."""
    wanted = link.mtu if mtu is None else int(mtu)
    low = 576
    if not low <= wanted <= link.mtu:
        raise ValueError(f"mtu={mtu!r}: expected {low} to {link.mtu}, which the link carries")
    return wanted


def port_named(core: Core, name: str | None) -> Port:
    """Return the interface called `name`, with None the first.  Raises OSError (ENODEV)."""
    for port in core.ports:
        if name is None or port.name == name:
            return port
    what = "the stack has no interface" if name is None else f"no interface {name!r}"
    raise OSError(errno.ENODEV, f"{what}: {os.strerror(errno.ENODEV)}")


def shown(port: Port, learned: Iterable[Interface]) -> NetworkInterface:
    """Return `port` as others see it, with the addresses of routers' prefixes.

    Raises OSError (ENODEV) when it is gone.
    """
    return NetworkInterface(
        port.name,
        port.index,
        port.mac,
        port.mtu,
        port.up,
        tuple(map(str, (*port.addresses, *learned))),
        port.link,
        port.error,
        port.counters(),
    )
