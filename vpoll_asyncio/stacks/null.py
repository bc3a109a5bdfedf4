"""The `null` stack: a machine without a network."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import ClassVar, Final, NoReturn

from .base import Stack

__all__ = ["NullStack"]

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class NullStack(Stack):
    """Every socket is refused with OSError (EAFNOSUPPORT), as if the kernel had no network.

    Under `vpoll_asyncio.install` it is asked for every address family but AF_UNIX: so
    ``AF_PACKET``, ``AF_NETLINK`` and others do not lead round it.  Sockets within the
    machine (AF_UNIX, `socket.socketpair`) stay the kernel's.

    Numeric addresses and ``localhost`` resolve, so that a program which resolves first
    meets the same error; no other name does (EAI_NONAME).  There is nothing to drive,
    and nothing to close.  Every method may be called from any thread.
    """

    name: ClassVar[str] = "null"

    def __init__(self) -> None:
        self._closed = False

    def supported_domain(self, family: int) -> bool:
        """Return False."""
        return False

    def claims(self, family: int) -> bool:
        return family != socket.AF_UNIX

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> NoReturn:
        """Raise OSError: EAFNOSUPPORT, and ENETDOWN when the stack is closed."""
        self.refuse_closed()
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    def resolves(self, family: int) -> bool:
        return family in _FAMILIES

    def set_dns(self, servers: str | Iterable[str], domain: str | Iterable[str] = ()) -> NoReturn:
        """Raise OSError (EOPNOTSUPP): nobody can be asked."""
        raise OSError(errno.EOPNOTSUPP, "the null stack has no sockets to ask name servers with")

    def close(self) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        return f"<NullStack{' closed' if self._closed else ''}>"
