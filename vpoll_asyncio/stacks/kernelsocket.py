"""Kernel sockets that belong to a stack: those of a network namespace, say.

To the kernel and to every event loop they are ordinary descriptors.  What they add is
that names in addresses are the stack's to resolve, never the host's.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from ..lookups import protocol_for
from ..sockaddr import numeric_address

if TYPE_CHECKING:
    from .base import Stack

__all__ = ["StackSocket", "stack_of_socket"]

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


class StackSocket(socket.socket):
    """A kernel socket of `stack`, which `adopt` makes of a descriptor.

    Everything is as in `socket.socket`, blocking mode and timeouts included, except that
    a host name in the address of `bind`, `connect`, `connect_ex`, `sendto` or `sendmsg`
    is looked up by `stack`; sockets that it accepts or duplicates are the stack's too.
    """

    __slots__ = ("stack",)

    stack: Stack
    """The stack that made the socket."""

    @classmethod
    def adopt(
        cls, stack: Stack, fd: int, family: int = -1, type: int = -1, proto: int = -1
    ) -> Self:
        """Return a socket over the descriptor `fd`, which it owns from now on.

        Raises OSError when `fd` is no socket.
        """
        self = cls(family, type, proto, fileno=fd)
        self.stack = stack
        return self

    @property
    def proto(self) -> int:
        """The protocol number.

        Raises OSError (ENOTSUP) where a stock asyncio loop's ``sock_connect`` asks, without
        `install`, and would look a name up on the host instead of on the stack.
        """
        # None while `socket.socket.dup` makes another of the class.
        stack: Stack | None = getattr(self, "stack", None)
        if stack is None or self.family not in _INTERNET:
            return super().proto
        return protocol_for(sys._getframe(1), super().proto, stack)

    def _numeric(self, address: Any, caller: str) -> Any:
        if self.family not in _INTERNET:
            return address
        return numeric_address(address, socket.AddressFamily(self.family), self._look_up, caller)

    def _look_up(self, host: str) -> tuple[Any, ...]:
        return self.stack.getaddrinfo(host, None, self.family, socket.SOCK_DGRAM)[0][4]

    def bind(self, address: Any, /) -> None:
        """Bind to a local address."""
        super().bind(self._numeric(address, "bind"))

    def connect(self, address: Any, /) -> None:
        """Connect to a remote address."""
        super().connect(self._numeric(address, "connect"))

    def connect_ex(self, address: Any, /) -> int:
        """Connect to a remote address; return an errno."""
        return super().connect_ex(self._numeric(address, "connect_ex"))

    def sendto(self, data: Any, *where: Any) -> int:
        """Send a datagram: ``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        if where:
            where = (*where[:-1], self._numeric(where[-1], "sendto"))
        return super().sendto(data, *where)

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send data and ancillary data."""
        if address is not None:
            address = self._numeric(address, "sendmsg")
        return super().sendmsg(buffers, ancdata, flags, address)

    def accept(self) -> tuple[Self, Any]:
        """Wait for a connection; return (socket, address of the peer)."""
        accepted, address = super().accept()
        return self._same(accepted), address

    def dup(self) -> Self:
        """Return another socket object for the same socket, close-on-exec."""
        return self._same(super().dup())

    def _same(self, other: socket.socket) -> Self:
        timeout = other.gettimeout()
        kind = (other.family, other.type, other.proto)
        own = self.adopt(self.stack, other.detach(), *kind)
        if own.gettimeout() != timeout:
            own.settimeout(timeout)
        return own


def stack_of_socket(sock: object) -> Stack | None:
    """Return the stack of a `StackSocket`; None for any other kernel socket, the host's."""
    return getattr(sock, "stack", None) if isinstance(sock, StackSocket) else None
