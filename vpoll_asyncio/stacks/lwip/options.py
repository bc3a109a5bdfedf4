"""Socket options: which of the host's numbers lwIP has an answer for."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Any, Final

from .addresses import raise_errno
from .groups import Groups

__all__ = ["LwipOptions"]

_LINGER: Final = struct.Struct("ii")

_IPV6_TCLASS: Final = 67
_IPV6_HDRINCL: Final = 36
_IP_MULTICAST_ALL: Final = 49
_IPV6_MULTICAST_ALL: Final = 29
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1

# Bytes of ``struct icmp_filter`` and ``struct icmp6_filter``.
_FILTERS: Final = {
    (_SOL_RAW, _ICMP_FILTER): 4,
    (int(socket.IPPROTO_ICMPV6), _ICMP_FILTER): 32,
}


class LwipOptions:
    """The options of one socket: those that the C side keeps.

    Options that lwIP has no equivalent for raise OSError (ENOPROTOOPT).
    """

    __slots__ = ("_groups", "_names", "_native")

    def __init__(self, native: Any) -> None:
        lib = native.lib
        self._native = native
        self._groups = Groups(native)
        sol, ip, ip6, tcp = (
            socket.SOL_SOCKET,
            socket.IPPROTO_IP,
            socket.IPPROTO_IPV6,
            socket.IPPROTO_TCP,
        )
        self._names: dict[tuple[int, int], int] = {
            (sol, socket.SO_ERROR): lib.VP_ERROR,
            (sol, socket.SO_ACCEPTCONN): lib.VP_ACCEPTCONN,
            (sol, socket.SO_REUSEADDR): lib.VP_REUSEADDR,
            (sol, socket.SO_KEEPALIVE): lib.VP_KEEPALIVE,
            (sol, socket.SO_BROADCAST): lib.VP_BROADCAST,
            (sol, socket.SO_RCVBUF): lib.VP_RCVBUF,
            (sol, socket.SO_SNDBUF): lib.VP_SNDBUF,
            (sol, socket.SO_LINGER): lib.VP_LINGER,
            (tcp, socket.TCP_NODELAY): lib.VP_NODELAY,
            (tcp, socket.TCP_KEEPIDLE): lib.VP_KEEPIDLE,
            (tcp, socket.TCP_KEEPINTVL): lib.VP_KEEPINTVL,
            (tcp, socket.TCP_KEEPCNT): lib.VP_KEEPCNT,
            (tcp, socket.TCP_MAXSEG): lib.VP_MAXSEG,
            (ip, socket.IP_TTL): lib.VP_TTL,
            (ip, socket.IP_TOS): lib.VP_TOS,
            (ip6, socket.IPV6_UNICAST_HOPS): lib.VP_TTL,
            (ip6, _IPV6_TCLASS): lib.VP_TOS,
            (ip6, socket.IPV6_V6ONLY): lib.VP_V6ONLY,
            (ip, socket.IP_MULTICAST_TTL): lib.VP_MULTICAST_TTL,
            (ip, socket.IP_MULTICAST_LOOP): lib.VP_MULTICAST_LOOP,
            (ip, _IP_MULTICAST_ALL): lib.VP_MULTICAST_ALL,
            (ip6, socket.IPV6_MULTICAST_HOPS): lib.VP_MULTICAST_TTL,
            (ip6, socket.IPV6_MULTICAST_LOOP): lib.VP_MULTICAST_LOOP,
            (ip6, _IPV6_MULTICAST_ALL): lib.VP_MULTICAST_ALL6,
            (ip6, socket.IPV6_MULTICAST_IF): lib.VP_MULTICAST_IF6,
            (ip, socket.IP_HDRINCL): lib.VP_HDRINCL,
            (ip6, _IPV6_HDRINCL): lib.VP_HDRINCL,
            (ip6, socket.IPV6_CHECKSUM): lib.VP_CHECKSUM,
            (_SOL_RAW, socket.IPV6_CHECKSUM): lib.VP_CHECKSUM,
        }

    def _option(self, level: int, name: int) -> int:
        option = self._names.get((level, name))
        if option is None:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return option

    def device(self, handle: int) -> int:
        """Return the index of the interface that SO_BINDTODEVICE has named, 0 for none."""
        lib = self._native.lib
        index: int = lib.vp_getopt(handle, lib.VP_DEVICE)
        raise_errno(index)
        return index

    def set_device(self, handle: int, index: int) -> None:
        """Bind a socket to an interface, with 0 to none.  Raises OSError (ENODEV, EBADF)."""
        lib = self._native.lib
        raise_errno(lib.vp_setopt(handle, lib.VP_DEVICE, index))

    def get(self, handle: int, level: int, name: int) -> int | bytes:
        """Return an option's value; SO_LINGER is its ``struct linger``."""
        lib = self._native.lib
        size = _FILTERS.get((level, name))
        if size is not None:
            words = self._native.ffi.new("uint32_t[8]")
            raise_errno(lib.vp_filter(handle, 0, words))
            return bytes(self._native.ffi.buffer(words, size))
        if (level, name) == (socket.IPPROTO_IP, socket.IP_MULTICAST_IF):
            address: int = lib.vp_getopt(handle, lib.VP_MULTICAST_IF)
            raise_errno(address)
            return address.to_bytes(4, sys.byteorder)
        option = self._option(level, name)
        value: int = lib.vp_getopt(handle, option)
        if option == lib.VP_LINGER:
            if value == -errno.EBADF:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return _LINGER.pack(value >= 0, max(value, 0))
        if value < 0 and not (value == -1 and option == lib.VP_CHECKSUM):
            raise OSError(-value, os.strerror(-value))
        return value

    def set(self, handle: int, level: int, name: int, value: int | bytes) -> None:
        """Set an option.  Raises OSError: ENOPROTOOPT, or EINVAL for a bad value."""
        lib = self._native.lib
        size = _FILTERS.get((level, name))
        if size is not None:
            words = self._native.ffi.new("uint32_t[8]")
            self._native.ffi.buffer(words, size)[:] = _filter(value, size)
            raise_errno(lib.vp_filter(handle, 1, words))
            return
        if self._groups.set(handle, level, name, value):
            return
        option = self._option(level, name)
        number = (
            _linger(value)
            if option == lib.VP_LINGER
            else _as_int(value, level == socket.IPPROTO_IP)
        )
        if option in (lib.VP_TTL, lib.VP_TOS) and number == -1:
            # ip(7): back to the default.
            number = 64 if option == lib.VP_TTL else 0
        if option == lib.VP_MULTICAST_TTL and number == -1:
            number = 1
        result: int = lib.vp_setopt(handle, option, number)
        if result < 0:
            raise OSError(-result, os.strerror(-result))


def _as_int(value: int | bytes, short: bool) -> int:
    if isinstance(value, int):
        return value
    if len(value) < 4:
        if not short or not value:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return value[0]
    return int(struct.unpack_from("i", value)[0])


def _filter(value: int | bytes, size: int) -> bytes:
    if isinstance(value, int):
        value = (value & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    if len(value) < size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return value[:size]


def _linger(value: int | bytes) -> int:
    if isinstance(value, int) or len(value) < _LINGER.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    on, seconds = _LINGER.unpack_from(value)
    return max(seconds, 0) if on else -1
