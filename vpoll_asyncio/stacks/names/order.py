"""Which address of a host to try first: RFC 6724, over the stack's own addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

__all__ = ["sort_addresses"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Section 2.1: prefix, precedence, label; the longest prefix that matches decides.
_POLICY: Final = tuple(
    (ipaddress.IPv6Network(prefix), precedence, label)
    for prefix, precedence, label in (
        ("::1/128", 50, 0),
        ("::ffff:0:0/96", 35, 4),
        ("::/96", 1, 3),
        ("2001::/32", 5, 5),
        ("2002::/16", 30, 2),
        ("3ffe::/16", 1, 12),
        ("fec0::/10", 1, 11),
        ("fc00::/7", 3, 13),
        ("::/0", 40, 1),
    )
)
_LINK_LOCAL: Final = 2
_SITE_LOCAL: Final = 5
_GLOBAL: Final = 14


def _six(address: _Address) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    return ipaddress.IPv6Address(int(address))


def _policy(address: _Address) -> tuple[int, int]:
    six = _six(address)
    matching = [entry for entry in _POLICY if six in entry[0]]
    _, precedence, label = max(matching, key=lambda entry: entry[0].prefixlen)
    return precedence, label


def _scope(address: _Address) -> int:
    if address.is_loopback or address.is_link_local:
        return _LINK_LOCAL
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return _SITE_LOCAL
    return _GLOBAL


def _common(one: _Address, other: _Address) -> int:
    """Return how many leading bits two addresses share."""
    width = one.max_prefixlen
    return width - (int(one) ^ int(other)).bit_length()


def _source(target: _Address, own: Iterable[_Address]) -> _Address | None:
    """Return the own address that packets to `target` would have: section 5, in short."""
    if target.is_loopback:
        return target
    same = [address for address in own if address.version == target.version]
    if not same:
        return None
    wanted, label = _scope(target), _policy(target)[1]

    def worth(address: _Address) -> tuple[bool, bool, int]:
        scope = _scope(address)
        fits = scope == wanted
        return fits or scope > wanted, _policy(address)[1] == label, _common(address, target)

    return max(same, key=worth)


def sort_addresses(addresses: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return `addresses` with those first that are best to connect to (RFC 6724, section 6).

    own -- the stack's addresses with their prefix lengths, as `Stack.addresses` has them

    Those that the stack has no address for come last; of equals the order stays.
    """
    sources = [ipaddress.ip_interface(text).ip for text in own]

    def key(text: str) -> tuple[int, ...]:
        target = ipaddress.ip_address(text)
        source = _source(target, sources)
        precedence, label = _policy(target)
        scope = _scope(target)
        if source is None:
            return 1, 0, 0, -precedence, scope, 0
        return (
            0,
            int(_scope(source) != scope),
            int(_policy(source)[1] != label),
            -precedence,
            scope,
            -_common(source, target) if target.version == 6 else 0,
        )

    return sorted(addresses, key=key)
