"""What the options of a stack mean: addresses with prefix lengths, gateways, MACs."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = [
    "Gateway",
    "Interface",
    "Route",
    "check_room",
    "parse_address",
    "parse_flag",
    "parse_gateways",
    "parse_interfaces",
    "parse_mac",
    "parse_route",
    "parse_routes",
]

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Gateway = ipaddress.IPv4Address | ipaddress.IPv6Address

# One lwIP interface has one IPv4 address, and they are numbered in a byte: nets.c.
_MAX_V4 = 200
# LWIP_IPV6_NUM_ADDRESSES is 6, and the first is the link-local address.
_MAX_V6 = 5


_ADDRESSES: Final = (
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface),
    *(ipaddress.IPv6Interface, ipaddress.IPv4Network, ipaddress.IPv6Network),
)

_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def parse_flag(name: str, value: object) -> bool:
    """Return whether the option `name`, which is on or off, is on.

    In a configuration string a key without a value has the value ``"1"``.  Raises
    ValueError for what is neither a truth value nor the word for one.
    """
    found = _FLAGS.get(str(value).lower())
    if found is None:
        raise ValueError(f"{name}={value!r}: expected True or False, or 1 or 0")
    return found


class Route(NamedTuple):
    """Where packets for a network go."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    via: Gateway | None
    """The gateway; None where the network's hosts are neighbours."""

    def __str__(self) -> str:
        return str(self.network) if self.via is None else f"{self.network}>{self.via}"


class _Named(NamedTuple):
    name: str
    value: str | Iterable[str]


def _items(option: _Named) -> list[str]:
    value = option.value
    if isinstance(value, str):
        return [value]
    items: list[object]
    try:
        items = list(value)
    except TypeError:
        items = [value]
    for item in items:
        _check_text(option.name, item)
    return [str(item) for item in items]


def _check_text(name: str, item: object) -> None:
    """Raise ValueError for numbers and bytes, which `ipaddress` takes for addresses."""
    if not isinstance(item, (str, *_ADDRESSES)):
        raise ValueError(f"{name}={item!r}: expected a string, as 10.0.2.15/24, or several")


def parse_interfaces(ip: str | Iterable[str], ip6: str | Iterable[str] = ()) -> list[Interface]:
    """Return the addresses that the options `ip` and `ip6` list.

    Raises ValueError for what is no address with an optional prefix length, for an
    address that no host can have, and for more addresses than the library has room for.
    """
    found = [
        parse_address(text, name)
        for name, value in (("ip", ip), ("ip6", ip6))
        for text in _items(_Named(name, value))
    ]
    check_room(found)
    for text in {str(one.ip) for one in found}:
        if sum(str(one.ip) == text for one in found) > 1:
            raise ValueError(f"ip: {text} is given twice: expected each address once")
    return found


def check_room(interfaces: Sequence[Interface]) -> None:
    """Raise ValueError for more addresses than the library has room for."""
    for version, most in ((4, _MAX_V4), (6, _MAX_V6)):
        count = sum(interface.version == version for interface in interfaces)
        if count > most:
            raise ValueError(f"{count} IPv{version} addresses: lwIP has room for {most}")


def parse_address(text: str, name: str = "ip") -> Interface:
    """Return an address with its prefix length; `name` is the option that errors name.

    Raises ValueError as `parse_interfaces` does.
    """
    _check_text(name, text)
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(
            f"{name}={text!r}: expected an address with its prefix length, "
            "as 10.0.2.15/24 or fd00::2/64"
        ) from None
    _check_host(name, text, interface)
    return interface


def _check_host(name: str, text: str, interface: Interface) -> None:
    address = interface.ip
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{name}={text!r}: expected the address of a host")
    if name == "ip6" and interface.version == 4:
        raise ValueError(f"ip6={text!r}: expected an IPv6 address; use ip= for IPv4")


def parse_gateways(gw: str | Iterable[str], interfaces: Sequence[Interface]) -> list[Gateway]:
    """Return the gateways of the option `gw`, at most one of each family.

    Raises ValueError for what is no address, and for a gateway that none of
    `interfaces` reaches.
    """
    found: list[Gateway] = []
    for text in _items(_Named("gw", gw)):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise ValueError(f"gw={text!r}: expected an address, as 10.0.2.2") from None
        if any(address.version == other.version for other in found):
            raise ValueError(f"gw={text!r}: one gateway of each address family is enough")
        same = [interface for interface in interfaces if interface.version == address.version]
        # An IPv6 router is usually known by its link-local address.
        if not any(address in interface.network for interface in same) and not (
            same and address.is_link_local
        ):
            listed = ", ".join(map(str, same)) or f"no IPv{address.version} address at all"
            if any(one.network.num_addresses == 1 for one in same):
                listed += ": give the prefix length of the network, as ip=ADDRESS/24"
            raise ValueError(f"gw={text!r}: expected an address that the stack reaches ({listed})")
        found.append(address)
    return found


def parse_route(destination: str, via: str | None) -> Route:
    """Return the route to ``"default"`` or a network with its prefix length.

    Raises ValueError for what is neither, and for a gateway of the other family.
    """
    gateway: Gateway | None = None
    _check_text("route", destination)
    if via is not None:
        _check_text("via", via)
        try:
            gateway = ipaddress.ip_address(via)
        except ValueError:
            raise ValueError(f"via {via!r}: expected an address, as 10.0.2.2") from None
        if gateway.is_unspecified or gateway.is_multicast or gateway.is_loopback:
            raise ValueError(f"via {via!r}: expected the address of a neighbour")
    if destination == "default":
        destination = "::/0" if gateway is not None and gateway.version == 6 else "0.0.0.0/0"
    try:
        network = ipaddress.ip_network(destination)
    except ValueError as exc:
        raise ValueError(
            f"route {destination!r}: expected default or a network, as 10.9.0.0/16 ({exc})"
        ) from None
    if gateway is not None and gateway.version != network.version:
        raise ValueError(f"route {destination!r}: {gateway} is of the other address family")
    return Route(network, gateway)


def parse_routes(route: str | Iterable[str]) -> list[Route]:
    """Return what the option `route` lists: ``NETWORK>GATEWAY``, or ``NETWORK`` alone.

    Raises ValueError as `parse_route` does, and for a network that is there twice.
    """
    found: list[Route] = []
    for text in _items(_Named("route", route)):
        destination, arrow, via = (part.strip() for part in text.partition(">"))
        try:
            parsed = parse_route(destination, via if arrow else None)
        except ValueError as exc:
            raise ValueError(f"route={text!r}: {exc}") from None
        if any(parsed.network == other.network for other in found):
            raise ValueError(f"route={text!r}: there is a route to {parsed.network} already")
        found.append(parsed)
    return found


def parse_mac(mac: str | bytes | None) -> bytes:
    """Return a hardware address: `mac`, or a random one that is marked as such.

    Raises ValueError for what is not six bytes and for a multicast address.
    """
    if mac is None:
        made = bytearray(os.urandom(6))
        # IEEE 802: individual, locally administered.
        made[0] = made[0] & 0xFC | 0x02
        return bytes(made)
    if not isinstance(mac, (str, bytes)):
        raise ValueError(f"mac={mac!r}: expected six bytes, as 02:00:00:00:00:01")
    if isinstance(mac, str):
        if not re.fullmatch(r"[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2}){5}", mac):
            raise ValueError(f"mac={mac!r}: expected six bytes, as 02:00:00:00:00:01")
        mac = bytes(int(part, 16) for part in re.split("[:-]", mac))
    if len(mac) != 6:
        raise ValueError(f"mac={mac!r}: expected six bytes")
    if mac[0] & 1:
        raise ValueError(f"mac={mac.hex(':')!r}: this is a multicast address, no host's")
    return bytes(mac)
