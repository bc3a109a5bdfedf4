"""Links: where a stack's frames go, and how a locator names one.

A Virtual Network Locator, as vdeplug4 has it, is ``SCHEME://ADDRESS``, or has another
one inside, ``SCHEME://ARGUMENTS{LOCATOR}``.  ``tap``, ``tun``, ``wire`` and, around
another link, ``pcap`` and ``netem`` are served here; every other scheme is a plugin of libvdeplug.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from ..suggestions import did_you_mean
from . import libvdeplug
from .base import Link, Medium, NativePort
from .fd import FdLink
from .nesting import Nested, parse_nested
from .netem import NetemCounters, NetemLink, parse_netem
from .packet import PacketLink
from .pcap import PcapLink, parse_pcap
from .tap import DEVICE, DEVICE_HINTS, TapLink, TunLink
from .vde import VdeLink, scheme_of
from .wire import WireHub, WireLink, wire_hub, wire_pair

__all__ = [
    "FdLink",
    "Link",
    "LinkInfo",
    "Medium",
    "NativePort",
    "NetemCounters",
    "NetemLink",
    "PacketLink",
    "PcapLink",
    "TapLink",
    "TunLink",
    "VdeLink",
    "WireHub",
    "WireLink",
    "available",
    "open_link",
    "wire_hub",
    "wire_pair",
]

# CAP_NET_ADMIN, linux/capability.h
_CAP_NET_ADMIN: Final = 12


class LinkInfo(NamedTuple):
    """A scheme of locators, and whether it can be opened here."""

    name: str
    available: bool
    why: str
    """What is missing, or what else is worth knowing; empty where there is nothing to say."""


def _open_wire(name: str) -> WireLink:
    return wire_hub(name).open()


_OURS: Final[dict[str, Callable[..., Link]]] = {
    "tap": TapLink,
    "tun": TunLink,
    "wire": _open_wire,
}
_open_vde: Final[Callable[..., Link]] = VdeLink


def _record(arguments: str) -> Callable[[Link], Link]:
    file, snaplen = parse_pcap(arguments)
    return lambda inner: PcapLink(inner, file, snaplen=snaplen)


def _emulate(arguments: str) -> Callable[[Link], Link]:
    options = parse_netem(arguments)
    return lambda inner: NetemLink(inner, **options)


_WRAPPERS: Final[dict[str, Callable[[str], Callable[[Link], Link]]]] = {
    "netem": _emulate,
    "pcap": _record,
}
"""By scheme: what reads the arguments, and returns what puts a link around another."""


def open_link(vnl: str, **options: object) -> Link:
    """Open the link that a Virtual Network Locator names.

    Parameters:
    vnl -- ``tap://NAME`` and ``tun://NAME`` (no name: the kernel chooses one);
        ``wire://NAME``, an Ethernet hub that all its openers in this process share; or
        what libvdeplug knows, `VdeLink`: ``slirp://``, ``vde:///path`` or the path
        alone, ``switch:///path``, ``hub:///path``, ``ptp:///path``,
        ``udp://PORT->HOST:PORT``, ``vxvde://``, ``cmd://COMMAND``, ``null://`` …;
        or one of these with a link of ours around it: ``pcap://FILE{slirp://}``,
        `PcapLink`, and ``netem://delay=10ms,loss=2%{slirp://}``, `NetemLink`
    options -- keyword arguments of the link's class (`TapLink`, `TunLink`, `VdeLink`),
        of the innermost one where they nest: ``mtu``, and of `VdeLink` ``timeout``

    Raises ValueError for what is no locator and for a scheme that nothing here serves,
    TypeError for an option that the link does not have, and OSError with what is
    missing and the Debian package that has it.
    """
    scheme = scheme_of(vnl)
    if scheme in _WRAPPERS:
        nested = parse_nested(vnl)
        if nested is not None:
            return _open_around(vnl, nested, options)
        if scheme not in libvdeplug.PLUGIN_PACKAGES:
            raise ValueError(
                f"{vnl!r}: expected another locator in braces: {scheme}://…{{slirp://}}"
            )
    ours = _OURS.get(scheme)
    if ours is not None:
        return ours(vnl.partition("://")[2], **options)
    if scheme not in libvdeplug.PLUGIN_PACKAGES and not _has_plugin(scheme):
        raise ValueError(
            f"{vnl!r}: no link serves {scheme}://: expected one of {', '.join(_schemes())}, "
            f"or another plugin of libvdeplug{did_you_mean(scheme, _schemes())}"
        )
    return _open_vde(vnl, **options)


def _open_around(vnl: str, nested: Nested, options: dict[str, object]) -> Link:
    try:
        wrap = _WRAPPERS[nested.scheme](nested.arguments)
    except ValueError as error:
        raise ValueError(f"{vnl!r}: {error}") from None
    inner = open_link(nested.inner, **options)
    try:
        return wrap(inner)
    except BaseException:
        inner.close()
        raise


def available() -> list[LinkInfo]:
    """Return every scheme with whether it can be opened here, and what is missing."""
    around = "around another link: netem://delay=10ms,loss=2%{LOCATOR}"
    listing = [
        LinkInfo("tap", *_tuntap()),
        LinkInfo("tun", *_tuntap()),
        LinkInfo("wire", True, ""),
        LinkInfo("netem", True, around),
    ]
    for scheme, package in libvdeplug.PLUGIN_PACKAGES.items():
        try:
            found = libvdeplug.plugin_path(scheme) is not None
        except OSError as error:
            found, why = False, error.strerror or str(error)
        else:
            why = "" if found else f"no plugin: install the Debian package {package}"
        if scheme in _WRAPPERS:
            # A plugin has that name too, for locators without braces.
            around = f"around another link: {scheme}://FILE{{LOCATOR}}"
            found, why = True, f"{around}; without braces: {why}" if why else around
        listing.append(LinkInfo(scheme, found, why))
    return listing


def _schemes() -> list[str]:
    return [*_OURS, "netem", *libvdeplug.PLUGIN_PACKAGES]


def _has_plugin(scheme: str) -> bool:
    try:
        return libvdeplug.plugin_path(scheme) is not None
    except OSError:
        return False


def _tuntap() -> tuple[bool, str]:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = DEVICE_HINTS.get(error.errno or 0)
        return False, f"{DEVICE}: {error.strerror}" + (f": {hint}" if hint else "")
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(
            (int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0
        )
    if effective >> _CAP_NET_ADMIN & 1:
        return True, ""
    return True, "without CAP_NET_ADMIN: interfaces that were made for this user only"
