"""What the options of a stack mean: addresses with prefix lengths, gateways, MACs."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Gateway", "Interface", "parse_gateways", "parse_interfaces", "parse_mac"]

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Gateway = ipaddress.IPv4Address | ipaddress.IPv6Address

# One lwIP interface has one IPv4 address; nets.c has room for eight of them.
_MAX_V4 = 8
# LWIP_IPV6_NUM_ADDRESSES is 6, and the first is the link-local address.
_MAX_V6 = 5


class _Named(NamedTuple):
    name: str
    value: str | Iterable[str]


def _items(option: _Named) -> list[str]:
    value = option.value
    return [value] if isinstance(value, str) else [str(item) for item in value]


def parse_interfaces(ip: str | Iterable[str], ip6: str | Iterable[str] = ()) -> list[Interface]:
    """Return the addresses that the options `ip` and `ip6` list.

    Raises ValueError for what is no address with an optional prefix length, for an
    address that no host can have, and for more addresses than the library has room for.
    """
    found: list[Interface] = []
    for name, value in (("ip", ip), ("ip6", ip6)):
        for text in _items(_Named(name, value)):
            try:
                interface = ipaddress.ip_interface(text)
            except ValueError:
                raise ValueError(
                    f"{name}={text!r}: expected an address with its prefix length, "
                    "as 10.0.2.15/24 or fd00::2/64"
                ) from None
            _check_host(name, text, interface)
            found.append(interface)
    for version, most in ((4, _MAX_V4), (6, _MAX_V6)):
        count = sum(interface.version == version for interface in found)
        if count > most:
            raise ValueError(f"{count} IPv{version} addresses: lwIP has room for {most}")
    return found


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
            raise ValueError(f"gw={text!r}: expected an address that the stack reaches ({listed})")
        found.append(address)
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
    if isinstance(mac, str):
        if not re.fullmatch(r"[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2}){5}", mac):
            raise ValueError(f"mac={mac!r}: expected six bytes, as 02:00:00:00:00:01")
        mac = bytes(int(part, 16) for part in re.split("[:-]", mac))
    if len(mac) != 6:
        raise ValueError(f"mac={mac!r}: expected six bytes")
    if mac[0] & 1:
        raise ValueError(f"mac={mac.hex(':')!r}: this is a multicast address, no host's")
    return bytes(mac)
