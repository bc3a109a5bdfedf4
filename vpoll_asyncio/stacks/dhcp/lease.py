"""What a server has granted: the options of its message as addresses, routes and names.

What comes over the network may say anything: what makes no sense is left out, and without
an address that a host can have there is no lease.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..names.config import told_domains
from .messages import Message, Option

__all__ = ["Lease", "LeaseRoute", "read_lease"]

_FOREVER: Final = 0xFFFFFFFF
# RFC 2131, 4.4.5: shares of the lease.
_RENEW: Final = 0.5
_REBIND: Final = 0.875
_LEAST_MTU: Final = 576
_MOST_ROUTES: Final = 64


class LeaseRoute(NamedTuple):
    """A way that a server has told of."""

    network: ipaddress.IPv4Network
    via: ipaddress.IPv4Address | None
    """The gateway; None where the network's hosts are neighbours."""


@dataclasses.dataclass(frozen=True)
class Lease:
    """An address, for how long, and what else a server has said."""

    address: ipaddress.IPv4Interface
    server: ipaddress.IPv4Address
    """Who has granted it: option 54."""
    lifetime: float
    """Seconds, from `obtained` on; ``inf`` for ever."""
    renew: float
    """Seconds until the server is asked again (T1)."""
    rebind: float
    """Seconds until any server is asked (T2)."""
    routes: tuple[LeaseRoute, ...] = ()
    """The default route first; of option 121, which excludes the router of option 3."""
    dns: tuple[str, ...] = ()
    """Name servers."""
    domains: tuple[str, ...] = ()
    """The search list (option 119), else the domain (option 15)."""
    mtu: int | None = None
    """Most bytes of an IP packet, 576 or more."""
    options: dict[int, bytes] = dataclasses.field(default_factory=dict)
    """All options as they came, by their numbers."""
    obtained: float = dataclasses.field(default_factory=time.time, compare=False)
    """When it was granted, in seconds as `time.time` counts them."""

    @property
    def expires(self) -> float:
        """When it ends unless it is renewed, in seconds as `time.time` counts them."""
        return self.obtained + self.lifetime

    @property
    def settings(self) -> tuple[object, ...]:
        """What a stack is to be set to: two leases with the same need no change."""
        return (self.address, self.routes, self.dns, self.domains, self.mtu)


def read_lease(message: Message) -> Lease | None:
    """Return the lease that an OFFER or ACK describes, None where that is no lease."""
    server, options = message.server, message.options
    lifetime = _seconds(options.get(Option.LEASE))
    if server is None or lifetime is None or lifetime <= 0 or not _is_host(server):
        return None
    address = _interface(message.address, options.get(Option.MASK))
    if address is None:
        return None
    rebind = _seconds(options.get(Option.REBIND))
    if rebind is None or not 0 < rebind < lifetime:
        rebind = lifetime * _REBIND
    renew = _seconds(options.get(Option.RENEW))
    if renew is None or not 0 < renew < rebind:
        renew = min(lifetime * _RENEW, rebind)
    if Option.ROUTES in options:
        routes = _classless(options[Option.ROUTES])
    else:
        routes = _default(address, options.get(Option.ROUTER, b""))
    return Lease(
        address,
        server,
        lifetime,
        renew,
        rebind,
        tuple(sorted(routes, key=lambda route: route.network.prefixlen)),
        tuple(str(dns) for dns in _addresses(options.get(Option.DNS, b"")) if _is_host(dns)),
        _search(options.get(Option.SEARCH, b"")) or _domain(options.get(Option.DOMAIN, b"")),
        _mtu(options.get(Option.MTU)),
        dict(options),
    )


def _seconds(value: bytes | None) -> float | None:
    if value is None or len(value) != 4:
        return None
    number = int.from_bytes(value, "big")
    return math.inf if number == _FOREVER else float(number)


def _is_host(address: ipaddress.IPv4Address) -> bool:
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or int(address) >> 28 == 0xF
        or int(address) >> 24 == 0
    )


def _interface(
    address: ipaddress.IPv4Address, mask: bytes | None
) -> ipaddress.IPv4Interface | None:
    if not _is_host(address):
        return None
    if mask is None:
        # RFC 2131 leaves it to the address: its class, RFC 791.
        first = int(address) >> 24
        prefix = 8 if first < 128 else 16 if first < 192 else 24
    else:
        prefix = _prefix(mask)
    if not prefix:
        return None
    found = ipaddress.IPv4Interface((address, prefix))
    network = found.network
    if prefix < 31 and address in (network.network_address, network.broadcast_address):
        return None
    return found


def _prefix(mask: bytes) -> int:
    """Return how many bits lead, 0 for what is no mask."""
    number = int.from_bytes(mask, "big")
    prefix = number.bit_count()
    return prefix if len(mask) == 4 and number == (_FOREVER << (32 - prefix)) & _FOREVER else 0


def _addresses(value: bytes) -> Iterator[ipaddress.IPv4Address]:
    for at in range(0, len(value) - 3, 4):
        yield ipaddress.IPv4Address(value[at : at + 4])


def _default(address: ipaddress.IPv4Interface, value: bytes) -> list[LeaseRoute]:
    everywhere = ipaddress.IPv4Network("0.0.0.0/0")
    for router in _addresses(value):
        if router in address.network and router != address.ip:
            return [LeaseRoute(everywhere, router)]
    return []


def _classless(value: bytes) -> list[LeaseRoute]:
    """Return the routes of option 121 (RFC 3442), none at all where one is malformed."""
    found: dict[ipaddress.IPv4Network, LeaseRoute] = {}
    at = 0
    while at < len(value):
        prefix = value[at]
        size = (prefix + 7) // 8
        network, router = value[at + 1 : at + 1 + size], value[at + 1 + size : at + 5 + size]
        if prefix > 32 or len(router) != 4:
            return []
        at += 5 + size
        # RFC 3442: bits beyond the mask are not part of it.
        destination = ipaddress.IPv4Network((network.ljust(4, b"\0"), prefix), strict=False)
        via = ipaddress.IPv4Address(router)
        if via.is_unspecified:
            found.setdefault(destination, LeaseRoute(destination, None))
        elif _is_host(via):
            found.setdefault(destination, LeaseRoute(destination, via))
    return list(found.values())[:_MOST_ROUTES]


def _domain(value: bytes) -> tuple[str, ...]:
    # Some servers end it with a null byte.
    return told_domains([value.rstrip(b"\0").decode("ascii", "replace")])


def _search(value: bytes) -> tuple[str, ...]:
    """Return the names of option 119 (RFC 3397), which are compressed as those of DNS."""
    import dpkt.dns

    names: list[str] = []
    at = 0
    while at < len(value):
        try:
            name, at = dpkt.dns.unpack_name(value, at)
        except (dpkt.dpkt.Error, struct.error, LookupError, ValueError):
            break
        names.append(name)
    return told_domains(names)


def _mtu(value: bytes | None) -> int | None:
    mtu = int.from_bytes(value, "big") if value is not None and len(value) == 2 else 0
    return mtu if mtu >= _LEAST_MTU else None
