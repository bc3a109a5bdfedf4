"""Multicast groups: the socket options that hold structures, ip(7) and ipv6(7)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .addresses import raise_errno

__all__ = ["Groups"]

_MCAST_JOIN_GROUP: Final = 42
_MCAST_LEAVE_GROUP: Final = 45
_GROUP_REQ_SIZE: Final = 136

_IP: Final = int(socket.IPPROTO_IP)
_IPV6: Final = int(socket.IPPROTO_IPV6)


class _Request(NamedTuple):
    """A group, and the interface by its number or, over IPv4, by an address of it."""

    group: bytes
    number: int
    address: bytes


def _invalid() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _ip_mreqn(value: bytes) -> _Request:
    """``struct ip_mreq``, or the longer ``struct ip_mreqn``."""
    if len(value) < 8:
        raise _invalid()
    index = struct.unpack_from("i", value, 8)[0] if len(value) >= 12 else 0
    return _Request(value[:4], index, value[4:8])


def _ipv6_mreq(value: bytes) -> _Request:
    if len(value) < 20:
        raise _invalid()
    return _Request(value[:16], struct.unpack_from("i", value, 16)[0], bytes(16))


def _group_req4(value: bytes) -> _Request:
    return _group_req(value, socket.AF_INET, errno.EINVAL)


def _group_req6(value: bytes) -> _Request:
    return _group_req(value, socket.AF_INET6, errno.EADDRNOTAVAIL)


def _group_req(value: bytes, family: int, error: int) -> _Request:
    """``struct group_req``: an interface's number and a socket address."""
    if len(value) < _GROUP_REQ_SIZE:
        raise _invalid()
    index = struct.unpack_from("I", value)[0]
    if struct.unpack_from("H", value, 8)[0] != family:
        raise OSError(error, os.strerror(error))
    size, at = (4, 12) if family == socket.AF_INET else (16, 16)
    return _Request(value[at : at + size], index, bytes(size))


_CHANGES: Final[dict[tuple[int, int], tuple[bool, Callable[[bytes], _Request]]]] = {
    (_IP, socket.IP_ADD_MEMBERSHIP): (True, _ip_mreqn),
    (_IP, socket.IP_DROP_MEMBERSHIP): (False, _ip_mreqn),
    (_IP, _MCAST_JOIN_GROUP): (True, _group_req4),
    (_IP, _MCAST_LEAVE_GROUP): (False, _group_req4),
    (_IPV6, socket.IPV6_JOIN_GROUP): (True, _ipv6_mreq),
    (_IPV6, socket.IPV6_LEAVE_GROUP): (False, _ipv6_mreq),
    (_IPV6, _MCAST_JOIN_GROUP): (True, _group_req6),
    (_IPV6, _MCAST_LEAVE_GROUP): (False, _group_req6),
}


class Groups:
    """What sets the membership of groups, and the interface that is sent to them through.

    native -- an instance of the helper

    IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP, IPV6_JOIN_GROUP, IPV6_LEAVE_GROUP,
    MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP; IP_MULTICAST_IF, IPV6_MULTICAST_IF.
    """

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        self._native = native

    def set(self, handle: int, level: int, name: int, value: int | bytes) -> bool:
        """Set an option if it is one of these; return whether it is.

        Raises OSError as ip(7) and ipv6(7) have it: EADDRINUSE for a group that the socket
        is in already, EADDRNOTAVAIL for one that it is not in, EINVAL for what is no group,
        ENODEV for an unknown interface, ENOBUFS for more than 20 groups of IPv4, EPROTO on
        a stream.
        """
        if isinstance(value, int):
            value = struct.pack("i", value)
        change = _CHANGES.get((level, name))
        if change is not None:
            joins, parse = change
            group, number, address = parse(value)
            result = self._native.lib.vp_group(
                handle, joins, self._address(group), self._address(address, number)
            )
        elif (level, name) == (_IP, socket.IP_MULTICAST_IF):
            result = self._native.lib.vp_group_interface(handle, self._interface4(value))
        elif (level, name) == (_IPV6, socket.IPV6_MULTICAST_IF):
            if len(value) < 4:
                raise _invalid()
            index = struct.unpack_from("i", value)[0]
            result = self._native.lib.vp_group_interface(handle, self._address(bytes(16), index))
        else:
            return False
        raise_errno(result)
        return True

    def _interface4(self, value: bytes) -> Any:
        """``struct in_addr``, ``struct ip_mreq`` or ``struct ip_mreqn``."""
        if len(value) < 4:
            raise _invalid()
        if len(value) < 8:
            return self._address(value[:4])
        request = _ip_mreqn(value)
        return self._address(request.address, request.number)

    def _address(self, packed: bytes, index: int = 0) -> Any:
        out = self._native.ffi.new("struct vp_addr *")
        out.family = 4 if len(packed) == 4 else 6
        out.scope = index & 0xFFFFFFFF
        self._native.ffi.memmove(out.ip, packed, len(packed))
        return out
