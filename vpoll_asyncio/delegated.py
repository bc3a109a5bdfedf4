"""Several handles of one user socket, as the duplicates of a descriptor share an open file.

The protocol object is known to the socket that the stack made, the *origin*.  Another
handle of the same connection asks the origin's hooks, and the connection ends when the
last handle is closed, whichever that is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .sockhooks import Data, SocketHooks, StreamStart

if TYPE_CHECKING:
    from .sockaddr import Address
    from .sockets import UserSocket

__all__ = ["SHARED", "DelegatedHooks", "Description"]

# A finalizer may close a handle in the middle of another's closing, in the same thread.
_lock: Final = threading.RLock()


class Description:
    """What the handles of one connection share."""

    __slots__ = ("handles", "origin")

    origin: UserSocket
    """The socket that the stack made: its hooks work until the last handle is closed."""
    handles: int
    """How many handles are open."""

    def __init__(self, origin: UserSocket) -> None:
        self.origin = origin
        self.handles = 1

    def enter(self) -> None:
        """Count one handle more."""
        with _lock:
            self.handles += 1

    def leave(self) -> bool:
        """Count one handle less; return whether it was the last."""
        with _lock:
            self.handles -= 1
            if self.handles:
                return False
            SHARED.pop(self.origin, None)
            return True

    @staticmethod
    def of(origin: UserSocket) -> Description:
        """Return what the handles of `origin` share, made where it is its only handle."""
        with _lock:
            found = SHARED.get(origin)
            if found is None:
                found = SHARED[origin] = Description(origin)
            return found


SHARED: Final[dict[UserSocket, Description]] = {}
"""The descriptions of sockets with more than one handle, or another than the first."""


class DelegatedHooks(SocketHooks):
    """The hooks of a handle that the stack does not know: those of its origin."""

    __slots__ = ()

    description: Description

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        return self.description.origin.do_recv(bufsize, flags)

    def do_recv_some(self, bufsize: int) -> bytes:
        return self.description.origin.do_recv_some(bufsize)

    def stream_calls(self) -> tuple[Callable[[int], bytes], Callable[[Data, int, None], int]]:
        return self.description.origin.stream_calls()

    def begin_stream(self, peername: Address | None) -> StreamStart:
        return self.description.origin.begin_stream(peername)

    def names(self) -> tuple[Address | None, Address | None]:
        return self.description.origin.names()

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        return self.description.origin.do_recvfrom(bufsize, flags)

    def do_recv_into(self, buffer: memoryview, flags: int) -> int:
        return self.description.origin.do_recv_into(buffer, flags)

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        return self.description.origin.do_send(data, flags, address)

    def do_bind(self, address: Address) -> None:
        self.description.origin.do_bind(address)

    def do_connect(self, address: Address) -> None:
        self.description.origin.do_connect(address)

    def begin_connect(self, address: Address) -> bool:
        return self.description.origin.begin_connect(address)

    def do_finish_connect(self) -> int:
        return self.description.origin.do_finish_connect()

    def do_listen(self, backlog: int) -> None:
        self.description.origin.do_listen(backlog)

    def do_accept(self) -> tuple[UserSocket, Address]:
        return self.description.origin.do_accept()

    def do_shutdown(self, how: int) -> None:
        self.description.origin.do_shutdown(how)

    def do_getsockname(self) -> Address:
        return self.description.origin.do_getsockname()

    def do_getpeername(self) -> Address:
        return self.description.origin.do_getpeername()

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        return self.description.origin.do_getsockopt(level, optname)

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        self.description.origin.do_setsockopt(level, optname, value)

    def do_ioctl(self, request: int, argument: Any) -> Any:
        return self.description.origin.do_ioctl(request, argument)
