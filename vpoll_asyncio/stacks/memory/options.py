"""Socket options that both kinds of endpoints have, with Linux's defaults.

Options without an effect in memory are kept and told, since programs set them.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from typing import Final

from .addresses import oserror
from .pcb import Pcb

__all__ = ["as_int", "buffer_size", "get_common", "linger_bytes", "linger_value", "set_common"]

_SOL: Final = socket.SOL_SOCKET
_TCP: Final = socket.IPPROTO_TCP
_UDP: Final = socket.IPPROTO_UDP
_IP: Final = socket.IPPROTO_IP
_IP6: Final = socket.IPPROTO_IPV6

# net.core.rmem_max and wmem_max are 212992 by default, doubled as the kernel does it.
_BUFFER_MAX: Final = 425984
_SNDBUF_MIN: Final = 4608
_RCVBUF_MIN: Final = 2304

_SO_DONTROUTE: Final = 5
_SO_PRIORITY: Final = 12
_SO_TIMESTAMP: Final = 29
_SO_MARK: Final = 36
_SO_BUSY_POLL: Final = 46
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_TCP_NOTSENT_LOWAT: Final = 25

_FLAGS: Final = {
    (_SOL, socket.SO_KEEPALIVE): 0,
    (_SOL, socket.SO_BROADCAST): 0,
    (_SOL, _SO_DONTROUTE): 0,
    (_SOL, _SO_TIMESTAMP): 0,
}
_ANY_INT: Final = {
    (_SOL, _SO_PRIORITY): 0,
    (_SOL, _SO_MARK): 0,
    (_SOL, _SO_BUSY_POLL): 0,
    (_IP, socket.IP_TOS): 0,
    (_IP, socket.IP_TTL): 64,
    (_IP, socket.IP_MULTICAST_TTL): 1,
    (_IP, socket.IP_MULTICAST_LOOP): 1,
    (_IP, _IP_MTU_DISCOVER): 1,
    (_IP6, socket.IPV6_UNICAST_HOPS): 64,
    (_IP6, socket.IPV6_MULTICAST_HOPS): 1,
    (_IP6, socket.IPV6_MULTICAST_LOOP): 1,
    (_IP6, socket.IPV6_TCLASS): 0,
    (_IP6, _IPV6_MTU_DISCOVER): 1,
}
_TCP_FLAGS: Final = {
    (_TCP, socket.TCP_NODELAY): 0,
    (_TCP, socket.TCP_CORK): 0,
    (_TCP, socket.TCP_QUICKACK): 1,
}
_TCP_INT: Final = {
    (_TCP, socket.TCP_MAXSEG): 536,
    (_TCP, _TCP_NOTSENT_LOWAT): 0,
    (_TCP, socket.TCP_KEEPIDLE): 7200,
    (_TCP, socket.TCP_KEEPINTVL): 75,
    (_TCP, socket.TCP_KEEPCNT): 9,
    (_TCP, socket.TCP_SYNCNT): 6,
    (_TCP, socket.TCP_LINGER2): 60,
    (_TCP, socket.TCP_DEFER_ACCEPT): 0,
    (_TCP, socket.TCP_WINDOW_CLAMP): 0,
    (_TCP, socket.TCP_USER_TIMEOUT): 0,
    (_TCP, socket.TCP_FASTOPEN): 0,
}
_DATAGRAM_KEPT: Final = {**_FLAGS, **_ANY_INT}
_STREAM_KEPT: Final = {**_DATAGRAM_KEPT, **_TCP_FLAGS, **_TCP_INT}
_NORMALISED: Final = {**_FLAGS, **_TCP_FLAGS}


def as_int(value: int | bytes) -> int:
    """Return an option's value as an int.  Raises OSError (EINVAL) when it is too short."""
    if isinstance(value, int):
        return value
    if len(value) < 4:
        raise oserror(errno.EINVAL)
    return int(struct.unpack_from("i", value)[0])


def buffer_size(asked: int, least: int) -> int:
    """Return the size of a buffer for which `asked` bytes were asked (sock_setsockopt)."""
    return max(least, min(2 * max(0, asked), _BUFFER_MAX))


def get_common(pcb: Pcb, level: int, name: int, *, stream: bool) -> int | bytes:
    """Return an option's value.  Raises OSError (ENOPROTOOPT, EOPNOTSUPP)."""
    levels = (_SOL, _IP, _TCP if stream else _UDP)
    if level not in levels and not pcb.six:
        # ip_getsockopt() says so where ip_setsockopt() says ENOPROTOOPT.
        raise oserror(errno.EOPNOTSUPP)
    if level == _SOL:
        match name:
            case socket.SO_ERROR:
                return pcb.take_error()
            case socket.SO_REUSEADDR:
                return int(pcb.reuse)
            case socket.SO_REUSEPORT:
                return int(pcb.reuseport)
            case socket.SO_SNDBUF:
                return pcb.sndbuf
            case socket.SO_RCVBUF:
                return pcb.rcvbuf
    elif level == _IP6 and name == socket.IPV6_V6ONLY:
        return int(pcb.v6only)
    key = (level, name)
    kept = _STREAM_KEPT if stream else _DATAGRAM_KEPT
    if key not in kept:
        raise oserror(errno.ENOPROTOOPT)
    return kept[key] if pcb.options is None else pcb.options.get(key, kept[key])


def set_common(pcb: Pcb, level: int, name: int, value: int | bytes, *, stream: bool) -> None:
    """Set an option.  Raises OSError (ENOPROTOOPT, EINVAL)."""
    number = as_int(value)
    if level == _SOL:
        match name:
            case socket.SO_REUSEADDR:
                pcb.reuse = bool(number)
                return
            case socket.SO_REUSEPORT:
                pcb.reuseport = bool(number)
                return
            case socket.SO_SNDBUF:
                pcb.sndbuf = buffer_size(number, _SNDBUF_MIN)
                pcb.refresh()
                return
            case socket.SO_RCVBUF:
                pcb.rcvbuf = buffer_size(number, _RCVBUF_MIN)
                pcb.refresh()
                return
            case socket.SO_ERROR | socket.SO_ACCEPTCONN:
                raise oserror(errno.ENOPROTOOPT)
    elif level == _IP6:
        if not pcb.six:
            raise oserror(errno.ENOPROTOOPT)
        if name == socket.IPV6_V6ONLY:
            if pcb.table is not None:
                raise oserror(errno.EINVAL)
            pcb.v6only = bool(number)
            return
    key = (level, name)
    if key not in (_STREAM_KEPT if stream else _DATAGRAM_KEPT):
        raise oserror(errno.ENOPROTOOPT)
    kept = int(bool(number)) if key in _NORMALISED else number
    if pcb.options is None and level == _TCP:
        pcb.options = _single(name, kept)
    else:
        # Never in place: others may have the same one.
        pcb.options = {**(pcb.options or {}), key: kept}


@functools.lru_cache(64)
def _single(name: int, value: int) -> dict[tuple[int, int], int | bytes]:
    """Return options of which only this TCP one is set: most connections have just that."""
    return {(_TCP, name): value}


JUST_NODELAY: Final = _single(socket.TCP_NODELAY, 1)
"""What a transport sets, where nothing else has been set."""


def linger_value(value: int | bytes) -> tuple[int, int]:
    """Return (on, seconds) of a ``struct linger``.  Raises OSError (EINVAL)."""
    if isinstance(value, int) or len(value) < 8:
        raise oserror(errno.EINVAL)
    on, seconds = struct.unpack_from("ii", value)
    return int(bool(on)), seconds


def linger_bytes(linger: tuple[int, int]) -> bytes:
    """Return a ``struct linger``."""
    return struct.pack("ii", *linger)
