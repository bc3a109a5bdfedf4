"""Router advertisements (RFC 4861, 4.2) as values, with the options of RFC 4191 and 8106.

What comes over the network may say anything: an advertisement that is malformed is none, and
of a good one what makes no sense is left out.
"""

from __future__ import annotations

import ipaddress
import math
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..names.config import told_domains

__all__ = ["Advertisement", "Prefix", "Told", "read_advertisement"]

_ADVERTISEMENT: Final = 134
_HEADER: Final = struct.Struct("!BBxxBBHII")
_PREFIX: Final = struct.Struct("!BBII4x16s")
_PREFIX_INFORMATION, _MTU, _SERVERS, _DOMAINS = 3, 5, 25, 31
_FOREVER: Final = 0xFFFFFFFF
_LEAST_MTU: Final = 1280
_PREFERENCES: Final = {0b01: "high", 0b00: "medium", 0b11: "low"}


class Prefix(NamedTuple):
    """A network that a router has told of."""

    network: ipaddress.IPv6Network
    on_link: bool
    """Whether its hosts are neighbours."""
    autonomous: bool
    """Whether hosts make addresses of it."""
    valid: float
    """Seconds, ``inf`` for ever, 0 to take it away."""
    preferred: float
    """Seconds in which new connections may come from its addresses."""


class Told(NamedTuple):
    """A name server's address or a domain, and for how long."""

    value: str
    lifetime: float
    """Seconds, ``inf`` for ever, 0 to take it away."""


class Advertisement(NamedTuple):
    """What a router has said."""

    lifetime: float
    """Seconds for which it is a default router, 0 for one that is none."""
    preference: str
    """``"high"``, ``"medium"`` or ``"low"`` (RFC 4191)."""
    managed: bool
    """Whether addresses are to be had by DHCPv6."""
    other: bool
    """Whether other settings are to be had by DHCPv6."""
    hop_limit: int
    """Which it wants packets to have, 0 where it does not say."""
    mtu: int | None
    """Most bytes of an IPv6 packet on the link, 1280 or more."""
    prefixes: tuple[Prefix, ...]
    servers: tuple[Told, ...]
    """Name servers (RDNSS), with ``%`` and nothing behind it where they are link-local."""
    domains: tuple[Told, ...]
    """The search list (DNSSL)."""


def read_advertisement(message: bytes) -> Advertisement | None:
    """Return what an ICMPv6 message says, None where that is no valid advertisement.

    message -- from its type on; that its checksum is right, its hop limit 255 and its sender
        link-local (RFC 4861, 6.1.2) is the caller's to know
    """
    if len(message) < _HEADER.size:
        return None
    kind, code, hop_limit, flags, lifetime, _, _ = _HEADER.unpack_from(message)
    options = _options(message[_HEADER.size :])
    if kind != _ADVERTISEMENT or code != 0 or options is None:
        return None
    mtu: int | None = None
    prefixes: list[Prefix] = []
    servers: list[Told] = []
    domains: list[Told] = []
    for option, body in options:
        if option == _PREFIX_INFORMATION:
            prefixes += _prefixes(body)
        elif option == _MTU and len(body) >= 6:
            told = int.from_bytes(body[2:6], "big")
            mtu = told if told >= _LEAST_MTU else mtu
        elif option == _SERVERS:
            servers += _servers(body)
        elif option == _DOMAINS:
            domains += _domains(body)
    return Advertisement(
        float(lifetime),
        _PREFERENCES.get(flags >> 3 & 3, "medium"),
        bool(flags & 0x80),
        bool(flags & 0x40),
        hop_limit,
        mtu,
        tuple(prefixes),
        tuple(servers),
        tuple(domains),
    )


def _options(data: bytes) -> list[tuple[int, bytes]] | None:
    """Return types and bodies, None where a length is 0 or more than is there."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        size = data[at + 1] * 8 if at + 1 < len(data) else 0
        if not 0 < size <= len(data) - at:
            return None
        found.append((data[at], data[at + 2 : at + size]))
        at += size
    return found


def _seconds(value: int) -> float:
    return math.inf if value == _FOREVER else float(value)


def _prefixes(body: bytes) -> Iterator[Prefix]:
    if len(body) < _PREFIX.size:
        return
    length, flags, valid, preferred, raw = _PREFIX.unpack_from(body)
    # RFC 4861, 6.3.4 and RFC 4862, 5.5.3.
    if length > 128 or preferred > valid:
        return
    network = ipaddress.IPv6Network((raw, length), strict=False)
    if not (network.is_link_local or network.is_multicast):
        yield Prefix(
            network, bool(flags & 0x80), bool(flags & 0x40), _seconds(valid), _seconds(preferred)
        )


def _servers(body: bytes) -> Iterator[Told]:
    # RFC 8106, 5.1: at least one address, and nothing but addresses.
    if len(body) < 22 or (len(body) - 6) % 16:
        return
    lifetime = _seconds(int.from_bytes(body[2:6], "big"))
    for at in range(6, len(body), 16):
        address = ipaddress.IPv6Address(body[at : at + 16])
        if not (address.is_multicast or address.is_unspecified or address.is_loopback):
            yield Told(f"{address}%" if address.is_link_local else str(address), lifetime)


def _domains(body: bytes) -> Iterator[Told]:
    if len(body) < 14:
        return
    lifetime = _seconds(int.from_bytes(body[2:6], "big"))
    for domain in told_domains(_names(body[6:])):
        yield Told(domain, lifetime)


def _names(data: bytes) -> Iterator[str]:
    """Yield names as RFC 1035, 3.1 writes them, without compression, padded with zeros."""
    labels: list[bytes] = []
    at = 0
    while at < len(data):
        size = data[at]
        if size > 63 or at + 1 + size > len(data):
            return
        if size:
            labels.append(data[at + 1 : at + 1 + size])
        elif labels:
            yield b".".join(labels).decode("ascii", "replace")
            labels = []
        at += 1 + size
