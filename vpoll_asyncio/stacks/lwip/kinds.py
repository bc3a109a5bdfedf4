"""Which sockets there are: by family, type and protocol, as inet_create() has it."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

__all__ = ["DATAGRAM", "PING", "RAW", "STREAM", "kind_of"]

# The C side's ``enum vp_kind``.
DATAGRAM: Final = 0
STREAM: Final = 1
RAW: Final = 2
PING: Final = 3

_PLAIN: Final = {
    (int(socket.SOCK_STREAM), 0): STREAM,
    (int(socket.SOCK_STREAM), int(socket.IPPROTO_TCP)): STREAM,
    (int(socket.SOCK_DGRAM), 0): DATAGRAM,
    (int(socket.SOCK_DGRAM), int(socket.IPPROTO_UDP)): DATAGRAM,
}
_ECHO: Final = {
    int(socket.AF_INET): int(socket.IPPROTO_ICMP),
    int(socket.AF_INET6): int(socket.IPPROTO_ICMPV6),
}
_TYPES: Final = (int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM), int(socket.SOCK_RAW))


def kind_of(family: int, type: int, proto: int) -> int:
    """Return the C side's number for a kind of socket.

    type -- without flags

    A program on the stack may do what one with CAP_NET_RAW may on Linux: raw sockets, of any
    protocol, and ping sockets.  Raises OSError: ESOCKTNOSUPPORT, EPROTONOSUPPORT, EINVAL.
    """
    plain = _PLAIN.get((type, proto))
    if plain is not None:
        return plain
    if type not in _TYPES:
        raise OSError(errno.ESOCKTNOSUPPORT, os.strerror(errno.ESOCKTNOSUPPORT))
    if not 0 <= proto <= 0xFF:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if type == socket.SOCK_RAW and proto:
        return RAW
    if type == socket.SOCK_DGRAM and proto == _ECHO[family]:
        return PING
    raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
