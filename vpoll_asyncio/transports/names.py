"""Names on their way into transports and ``sock_*``: looked up without holding up the loop."""

from __future__ import annotations

import socket
from typing import Any, NoReturn

from ..sockaddr import Address, numeric_address
from ..sockets import UserSocket
from ..stacks.base import AddrInfo, Stack

__all__ = ["resolve", "resolve_address"]


async def resolve(
    stack: Stack, address: Any, family: int, kind: int, proto: int = 0, flags: int = 0
) -> list[AddrInfo]:
    """Return the stack's answers for the ``(host, port)`` that `address` begins with.

    The flow information and scope id of a numeric IPv6 `address` are kept.  Raises
    `socket.gaierror`, OSError (ENETDOWN) when the stack is closed.
    """
    stack.refuse_closed()
    host, port = address[:2]
    infos = await stack.agetaddrinfo(host, port, family, kind, proto, flags)
    if not infos:
        raise OSError("getaddrinfo() returned empty list")
    if len(address) > 2 and infos[0][0] == socket.AF_INET6 and infos[0][4][0] == host:
        flow, scope = (*address[2:], 0)[:2]
        infos = [(*info[:4], (host, int(info[4][1]), flow, scope)) for info in infos]
    return infos


class _NeedsLookup(Exception):
    """The host of an address is not numeric in the usual form."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


def _refuse(host: str) -> NoReturn:
    raise _NeedsLookup(host)


async def resolve_address(sock: UserSocket, address: Any, caller: str) -> Address:
    """Return what ``sock.resolve_address(address, caller)`` returns, and raises, without waiting.

    A name is looked up by the socket's own stack.
    """
    try:
        return numeric_address(address, sock.family, _refuse, caller)
    except _NeedsLookup as exc:
        host = exc.host
    found = await sock.stack.agetaddrinfo(host, None, sock.family, sock.type)
    return numeric_address(address, sock.family, lambda host: found[0][4], caller)
