"""Socket addresses as Python writes them: ``(host, port)`` and IPv6's longer form."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

__all__ = ["Address", "numeric_address"]

Address = tuple[str, int] | tuple[str, int, int, int]
"""An AF_INET or AF_INET6 address as `socket.socket` takes and gives it."""


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
    name = family.name
    if not isinstance(address, tuple):
        kind = type(address).__name__
        raise TypeError(f"{caller}(): {name} address must be tuple, not {kind}")
    if len(address) not in ((2, 3, 4) if six else (2,)):
        form = "(host, port[, flowinfo[, scopeid]])" if six else "a pair (host, port)"
        raise TypeError(f"{caller}(): {name} address must be {form}, not {address!r}")
    host, port = address[:2]
    if not isinstance(port, int):
        raise TypeError(f"{caller}(): port must be an integer, not {port!r}")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("idna")
    if not isinstance(host, str):
        raise TypeError(f"{caller}(): host must be str or bytes, not {type(host).__name__}")
    flowinfo, scope = (*address[2:], 0, 0)[:2]
    if six:
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
