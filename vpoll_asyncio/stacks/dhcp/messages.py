"""Messages of DHCP (RFC 2131, 2132) as bytes; dpkt reads and writes them."""

from __future__ import annotations

import dataclasses
import enum
import errno
import ipaddress
import struct
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["CLIENT_PORT", "SERVER_PORT", "Kind", "Message", "Option", "decode", "encode", "require"]

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

_REQUEST: Final = 1
_REPLY: Final = 2
_ETHERNET: Final = 1
_MAGIC: Final = 0x63825363
_BROADCAST: Final = 0x8000
_HEADER: Final = 240
_SNAME: Final = slice(44, 108)
_FILE: Final = slice(108, 236)
# RFC 1542, 2.1: relays and servers may drop what is shorter than a message of BOOTP.
_SHORTEST: Final = 300


class Kind(enum.IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


class Option(enum.IntEnum):
    """Those of RFC 2132 and its successors that the client sends or understands."""

    MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    ADDRESS = 50
    LEASE = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    TEXT = 56
    LONGEST = 57
    RENEW = 58
    REBIND = 59
    CLIENT_ID = 61
    SEARCH = 119
    ROUTES = 121


@dataclasses.dataclass(frozen=True)
class Message:
    """What a server says."""

    kind: Kind
    xid: int
    mac: bytes
    address: ipaddress.IPv4Address
    """``yiaddr``, the client's."""
    options: dict[int, bytes]
    """The parts of one that is there several times are joined (RFC 3396)."""

    @property
    def server(self) -> ipaddress.IPv4Address | None:
        """The server's identifier."""
        value = self.options.get(Option.SERVER, b"")
        return ipaddress.IPv4Address(value) if len(value) == 4 else None


def require() -> None:
    """Raise OSError (ENOPKG) when dpkt is not installed."""
    _dpkt()


def _dpkt() -> Any:
    try:
        import dpkt.dhcp
    except ImportError as exc:
        raise OSError(
            errno.ENOPKG,
            f"messages of DHCP are read with dpkt ({exc}): pip install 'vpoll-asyncio[dhcp]'",
        ) from exc
    return dpkt


def encode(
    kind: Kind,
    xid: int,
    mac: bytes,
    options: Iterable[tuple[int, bytes]],
    *,
    seconds: float = 0,
    address: ipaddress.IPv4Address | None = None,
) -> bytes:
    """Return a client's message.

    seconds -- since the client has begun
    address -- ``ciaddr``, where the client can be reached; without it the answer is to come
        as a broadcast, since lwIP takes nothing else before it has an address
    """
    dhcp = _dpkt().dhcp.DHCP(
        op=_REQUEST,
        hrd=_ETHERNET,
        hln=len(mac),
        xid=xid,
        secs=min(int(seconds), 0xFFFF),
        flags=0 if address is not None else _BROADCAST,
        ciaddr=0 if address is None else int(address),
        chaddr=mac.ljust(16, b"\0"),
        opts=[(int(Option.KIND), bytes([kind])), *((int(code), data) for code, data in options)],
    )
    return bytes(dhcp).ljust(_SHORTEST, b"\0")


def decode(wire: bytes) -> Message | None:
    """Return what a server's message says, None for anything else."""
    dpkt = _dpkt()
    if len(wire) < _HEADER:
        return None
    try:
        dhcp = dpkt.dhcp.DHCP(wire)
        options = _joined(dhcp.opts)
        overload = options.get(Option.OVERLOAD, b"")
        for bit, field in ((1, _FILE), (2, _SNAME)):
            if len(overload) == 1 and overload[0] & bit:
                # They hold options in place of names; RFC 2132, 9.3.
                further = dpkt.dhcp.DHCP(wire[:_HEADER] + wire[field])
                options = _joined([*options.items(), *further.opts])
        kind = Kind(int.from_bytes(options[Option.KIND], "big"))
    except (dpkt.dpkt.Error, struct.error, LookupError, ValueError):
        return None
    if (dhcp.op, dhcp.hrd, dhcp.hln, dhcp.magic) != (_REPLY, _ETHERNET, 6, _MAGIC):
        return None
    address = ipaddress.IPv4Address(dhcp.yiaddr)
    return Message(kind, dhcp.xid, bytes(dhcp.chaddr), address, options)


def _joined(options: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for code, data in options:
        found[code] = found.get(code, b"") + bytes(data)
    return found
