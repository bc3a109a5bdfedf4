"""What a frame may measure, and which errors cost a frame rather than the link."""

from __future__ import annotations

import errno
from typing import Final

from .base import Medium

__all__ = [
    "ETHERNET_HEADER",
    "FRAME_LOST",
    "check_mtu",
    "closed_error",
    "longest_frame",
    "shortest_frame",
]

ETHERNET_HEADER: Final = 14
_VLAN_TAG: Final = 4

FRAME_LOST: Final = frozenset(
    {
        errno.EACCES,  # a packet filter, or broadcast without SO_BROADCAST
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINVAL,  # TUN: the packet's version is neither 4 nor 6
        errno.EIO,  # TAP and TUN: the interface is down
        errno.EMSGSIZE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EPERM,  # a packet filter
    }
)
"""Errors of a send after which the next frame may well pass: a cable that is unplugged."""


def check_mtu(mtu: int, *, low: int = 68, high: int = 65535) -> int:
    """Return `mtu`.  Raises ValueError unless it is from `low` to `high` (68: RFC 791)."""
    if not low <= mtu <= high:
        raise ValueError(f"mtu {mtu!r}: expected {low} to {high} bytes of IP packet")
    return mtu


def longest_frame(medium: Medium, mtu: int) -> int:
    """Return the most bytes of a frame: an Ethernet one may carry an 802.1Q tag."""
    return mtu + ETHERNET_HEADER + _VLAN_TAG if medium == "ethernet" else mtu


def shortest_frame(medium: Medium) -> int:
    """Return the fewest bytes of a frame: a whole Ethernet header, or anything at all."""
    return ETHERNET_HEADER if medium == "ethernet" else 1


def closed_error(link: object) -> OSError:
    """Return the error of a use after `close`."""
    return OSError(errno.EBADF, f"{link!r} is closed")
