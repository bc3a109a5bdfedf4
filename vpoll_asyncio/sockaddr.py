"""Socket addresses as Python writes them: ``(host, port)`` and IPv6's longer form."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

__all__ = ["AddrInfo", "Address", "numeric_address", "numeric_answer"]

Address = tuple[str, int] | tuple[str, int, int, int]
"""An AF_INET or AF_INET6 address as `socket.socket` takes and gives it."""

AddrInfo = tuple[
    socket.AddressFamily,
    socket.SocketKind,
    int,
    str,
    tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
]
"""One answer of getaddrinfo(3), as `socket.getaddrinfo` gives it."""

_PLAIN_FLAGS: Final = int(socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
_KINDS: Final = {
    int(socket.SOCK_STREAM): (socket.SOCK_STREAM, int(socket.IPPROTO_TCP)),
    int(socket.SOCK_DGRAM): (socket.SOCK_DGRAM, int(socket.IPPROTO_UDP)),
}
# RFC 8200, 3: a flow label has 20 bits.
_MOST_FLOWINFO: Final = (1 << 20) - 1
_INET: Final = socket.AF_INET
_INET6: Final = socket.AF_INET6


def numeric_answer(
    host: object, port: object, family: int, kind: int, proto: int, flags: int
) -> AddrInfo | None:
    """Return the one answer of `socket.getaddrinfo` to a plain question, or None for others.

    Plain is a numeric host in the usual form and without a zone, a port as an int, and
    one type of socket.  `socket.getaddrinfo` takes ten times as long.
    """
    if type(host) is not str or type(port) is not int or not 0 <= port <= 0xFFFF:
        return None
    known = _KINDS.get(kind)
    if known is None or flags & ~_PLAIN_FLAGS or proto not in (0, known[1]):
        return None
    kind, number = known
    six = ":" in host
    if family and family != (_INET6 if six else _INET):
        return None
    try:
        packed = socket.inet_pton(_INET6 if six else _INET, host)
    except (OSError, ValueError):
        return None
    if six:
        return _INET6, kind, number, "", (socket.inet_ntop(_INET6, packed), port, 0, 0)
    return _INET, kind, number, "", (host, port)


def numeric_address(
    address: Any,
    family: socket.AddressFamily,
    lookup: Callable[[str], tuple[Any, ...]],
    caller: str,
) -> Address:
    """Return `address` with a numeric host, two long for AF_INET, four for AF_INET6.

    lookup -- returns the first address of a host that is not numeric
    caller -- the method to name in errors

    Raises TypeError and OverflowError as `socket.socket` does for what is no address
    of `family`, and whatever `lookup` raises.
    """
    six = family == socket.AF_INET6
    if not isinstance(address, tuple):
        kind = type(address).__name__
        raise TypeError(f"{caller}(): {family.name} address must be tuple, not {kind}")
    if len(address) not in ((2, 3, 4) if six else (2,)):
        form = "(host, port[, flowinfo[, scopeid]])" if six else "a pair (host, port)"
        raise TypeError(f"{caller}(): {family.name} address must be {form}, not {address!r}")
    host, port = address[:2]
    if not isinstance(port, int):
        raise TypeError(f"{caller}(): port must be an integer, not {port!r}")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("idna")
    if not isinstance(host, str):
        raise TypeError(f"{caller}(): host must be str or bytes, not {type(host).__name__}")
    if six:
        flowinfo, scope = (*address[2:], 0, 0)[:2]
        if not 0 <= flowinfo <= _MOST_FLOWINFO:
            raise OverflowError(f"{caller}(): flowinfo must be 0-{_MOST_FLOWINFO}.")
        if host == "":
            return "::", port, flowinfo, scope
        try:
            # The common case: numeric and without a zone.
            socket.inet_pton(socket.AF_INET6, host)
            return host, port, flowinfo, scope
        except OSError:
            found = lookup(host)
            return str(found[0]), port, flowinfo, scope or int(found[3])
    if host == "":
        return "0.0.0.0", port
    if host == "<broadcast>":
        return "255.255.255.255", port
    try:
        socket.inet_pton(socket.AF_INET, host)
        return host, port
    except OSError:
        return str(lookup(host)[0]), port
