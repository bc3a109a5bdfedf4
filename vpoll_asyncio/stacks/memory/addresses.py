"""Addresses inside a memory network: numeric text, IPv4 in its own form whatever asks.

A socket of AF_INET6 sees an IPv4 address as ``::ffff:10.0.0.1``.  Inside, that is
``10.0.0.1``, so that one lookup serves both families.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
from typing import Final

from ...sockaddr import Address

__all__ = [
    "ANY",
    "ANY6",
    "LINK",
    "Interface",
    "canonical_name",
    "destination",
    "external",
    "internal",
    "is_link_local",
    "is_loopback",
    "is_multicast",
    "is_six",
    "local",
    "oserror",
    "overlap",
    "parse_interface",
    "parse_name",
]

ANY: Final = "0.0.0.0"
ANY6: Final = "::"

LINK: Final = 2
"""The scope id of link-local addresses: a host has one interface besides its loopback."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_INET: Final = int(socket.AF_INET)
_FEW: Final = 16
_recent: Final[dict[Address, Address]] = {}


def oserror(number: int) -> OSError:
    """Return the OSError that a system call with errno `number` raises."""
    return OSError(number, os.strerror(number))


def parse_interface(text: str) -> Interface:
    """Return ``"10.0.0.1/24"`` as an interface; without a prefix length it is a host's.

    Raises ValueError for what is no such address.
    """
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no IP address with a prefix length: "
            "expected one like '10.0.0.1/24' or 'fd00::1/64'"
        ) from None
    if interface.ip.is_unspecified or interface.ip.is_loopback or interface.ip.is_multicast:
        raise ValueError(f"{text!r} is no address of a host: every host has its own loopback")
    return interface


def parse_name(text: str) -> str:
    """Return `text`, by which other hosts may find one; "" is none.

    Raises ValueError for what nobody could look up.
    """
    said = "expected a host's name such as 'server' or 'db.example'"
    if not isinstance(text, str):
        raise ValueError(f"name {text!r}: {said}")
    if not text.isprintable() or any(character in text for character in " %/:[]@"):
        raise ValueError(f"name {text!r}: {said}, without blanks and the like")
    try:
        # As getaddrinfo takes it, with whom "1.2" and "7" are addresses, too.
        socket.inet_aton(text)
    except OSError:
        pass
    else:
        raise ValueError(f"name {text!r} is an address, which nobody looks up: {said}")
    try:
        text.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"name {text!r}: {said}: {error}") from None
    if canonical_name(text) == "localhost":
        raise ValueError(f"name {text!r} is what each host calls itself: {said}")
    return text


def canonical_name(text: str) -> str:
    """Return the name `text` as all its spellings have it: case and a last dot do not count."""
    return text.rstrip(".").lower()


@functools.lru_cache(1024)
def _canonical_six(host: str) -> str:
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def internal(family: int, address: Address) -> tuple[str, int]:
    """Return (host, port) as this network writes them.  `address` is numeric."""
    if family == _INET:
        return address[0], address[1]
    try:
        return _canonical_six(address[0]), address[1]
    except OSError:
        raise oserror(errno.EINVAL) from None


@functools.lru_cache(32)
def local(family: int, address: Address) -> tuple[str, int]:
    """Return `internal` of an address for bind(2).

    Raises OSError for a link-local address: EINVAL without a scope, ENODEV for one that
    is no interface's.
    """
    host, port = internal(family, address)
    if is_link_local(host):
        scope = _scope(address)
        if not scope:
            raise oserror(errno.EINVAL)
        if scope != LINK:
            raise oserror(errno.ENODEV)
    return host, port


def destination(family: int, address: Address, connecting_from: str = "") -> tuple[str, int]:
    """Return `internal` of an address to send to, or to connect to.

    connecting_from -- for connect(2), the socket's local address

    Raises OSError for a link-local address: ENETUNREACH for a scope that is no
    interface's, and EINVAL when connect(2) is given none, and none follows from the
    local address.
    """
    host, port = internal(family, address)
    if is_link_local(host):
        scope = _scope(address)
        if not scope and connecting_from and not is_link_local(connecting_from):
            raise oserror(errno.EINVAL)
        if scope not in (0, LINK):
            raise oserror(errno.ENETUNREACH)
    return host, port


def _scope(address: Address) -> int:
    return address[3] if len(address) == 4 else 0


def external(family: int, host: str, port: int) -> Address:
    """Return (host, port) as a socket of `family` is told.

    Both ends of a connection ask for both addresses, one soon after the other, and keep
    them: they get the same objects.
    """
    if family == _INET:
        address: Address = (host, port)
    elif is_link_local(host):
        address = (host, port, 0, LINK)
    else:
        address = ((host if ":" in host else f"::ffff:{host}"), port, 0, 0)
    if len(_recent) >= _FEW:
        _recent.clear()
    return _recent.setdefault(address, address)


def is_six(host: str) -> bool:
    """Return whether `host`, in this network's form, is an IPv6 address."""
    return ":" in host


def is_link_local(host: str) -> bool:
    """Return whether `host` is an IPv6 address of fe80::/10, of which each link has its own."""
    return host[:2] == "fe" and host[2:3] in tuple("89ab") and host[4:5] == ":"


def is_loopback(host: str) -> bool:
    """Return whether `host`, in this network's form, is the own host wherever it is used."""
    return host == "::1" or host.startswith("127.")


@functools.lru_cache(1024)
def is_multicast(host: str) -> bool:
    """Return whether `host`, in this network's form, is a group's address."""
    return ipaddress.ip_address(host).is_multicast


def overlap(host: str, v6only: bool, other: str, other_v6only: bool) -> bool:
    """Return whether two local addresses have one in common (ipv6_rcv_saddr_equal)."""
    if host == other:
        return True
    if host == ANY:
        return not is_six(other) or (other == ANY6 and not other_v6only)
    if other == ANY:
        return not is_six(host) or (host == ANY6 and not v6only)
    if host == ANY6:
        return is_six(other) or not v6only
    if other == ANY6:
        return is_six(host) or not other_v6only
    return False
