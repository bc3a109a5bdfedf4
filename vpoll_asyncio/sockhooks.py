"""The hooks of a user socket: the few primitives that a stack's author writes."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from .hot.pipe import would_block

if TYPE_CHECKING:
    from .sockaddr import Address
    from .sockets import UserSocket

__all__ = ["Data", "SocketHooks", "StreamStart", "would_block"]

Data = bytes | memoryview
"""What `SocketHooks.do_send` is given: bytes as they are, all else as a flat view."""

StreamStart = tuple[
    Callable[[int], bytes], Callable[[Data, int, None], int], "Address | None", "Address | None"
]
"""Two functions as of `SocketHooks.stream_calls`, then the local and the peer's address."""


class SocketHooks:
    """What `UserSocket` asks of a stack's socket.

    No hook may block.  Each keeps the socket's vpoll at the mask that the kernel's
    socket would have afterwards.  Several threads may call at once.
    """

    __slots__ = ()

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        """Return up to `bufsize` bytes: ``b""`` at the end of a stream.

        flags -- MSG_PEEK, MSG_OOB, MSG_TRUNC as in recv(2); waiting flags never come

        Raises BlockingIOError (`would_block`) when nothing waits, else OSError.  At
        least one of `do_recv` and `do_recvfrom` is overridden.
        """
        if type(self).do_recvfrom is SocketHooks.do_recvfrom:
            self._unsupported("recv")
        return self.do_recvfrom(bufsize, flags)[0]

    def do_recv_some(self, bufsize: int) -> bytes:
        """Return some of what waits on a stream: what transports ask for.

        Fewer bytes than wait, but at least one, where more would have to be copied
        together; ``b""`` at the end.  Raises as `do_recv`, which it is unless overridden.
        """
        return self.do_recv(bufsize, 0)

    def stream_calls(self) -> tuple[Callable[[int], bytes], Callable[[Data, int, None], int]]:
        """Return (receive, send), which a stream's transport calls for every message.

        They are `do_recv_some` and `do_send` unless the stack has shorter ways to these.
        """
        return self.do_recv_some, self.do_send

    def begin_stream(self, peername: Address | None) -> StreamStart:
        """Return what a stream's transport asks for once, and set TCP_NODELAY.

        peername -- what is known of the peer's address already, by accept(2)

        It is what the other hooks say unless a stack has a shorter way.  Raises nothing: an
        address that cannot be told is None.
        """
        receive, send = self.stream_calls()
        try:
            self.do_setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass
        sockname, peer = self.names()
        return receive, send, sockname, peer if peername is None else peername

    def names(self) -> tuple[Address | None, Address | None]:
        """Return the local and the peer's address, None for what cannot be told."""
        found: list[Address | None] = []
        for ask in (self.do_getsockname, self.do_getpeername):
            try:
                found.append(ask())
            except OSError:
                found.append(None)
        return found[0], found[1]

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        """Return (data, msg_flags, sender); streams have no sender.

        msg_flags has MSG_TRUNC when a datagram was longer than `bufsize`.  Raises as
        `do_recv` does.
        """
        return self.do_recv(bufsize, flags), 0, None

    def do_recv_into(self, buffer: memoryview, flags: int) -> int:
        """Read into the flat, writable `buffer`; return the count.  Raises as `do_recv`."""
        data = self.do_recv(len(buffer), flags)
        buffer[: len(data)] = data
        return len(data)

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        """Take a prefix of `data` (datagrams: all of it) and return its length.

        data -- bytes, which may be kept by reference, or a flat memoryview of a
            buffer that the caller will change: copy it
        address -- the destination of a datagram, None for the connected peer

        Raises BlockingIOError (`would_block`) when nothing can be taken, else OSError.
        """
        self._unsupported("send")

    def do_bind(self, address: Address) -> None:
        """Bind to the numeric `address`.  Raises OSError (EADDRINUSE, EADDRNOTAVAIL …)."""
        self._unsupported("bind")

    def do_connect(self, address: Address) -> None:
        """Begin to connect to the numeric `address`.

        Returns when that is done at once, as it is for datagrams.  Raises
        BlockingIOError (EINPROGRESS) when OUT, or ERR and HUP with SO_ERROR, will
        tell; OSError (EISCONN, EALREADY, ECONNREFUSED …).
        """
        self._unsupported("connect")

    def begin_connect(self, address: Address) -> bool:
        """Begin to connect as `do_connect`, which it calls unless a stack has a shorter way.

        Returns whether that is done; False stands for BlockingIOError.
        """
        try:
            self.do_connect(address)
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def do_finish_connect(self) -> int:
        """Return the errno with which the attempt begun by `do_connect` ended, 0 for success.

        Called in blocking mode once OUT, ERR or HUP is pending; what SO_ERROR says
        unless overridden.
        """
        number = self.do_getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return number if isinstance(number, int) else int.from_bytes(number[:4], sys.byteorder)

    def do_listen(self, backlog: int) -> None:
        """Accept connections from now on.  Raises OSError."""
        self._unsupported("listen")

    def do_accept(self) -> tuple[UserSocket, Address]:
        """Return the next connection and its peer's address.

        Raises BlockingIOError (`would_block`) when none waits, OSError (EINVAL) when
        the socket does not listen.
        """
        self._unsupported("accept")

    def do_shutdown(self, how: int) -> None:
        """Shut down `how`: SHUT_RD, SHUT_WR or SHUT_RDWR.  Raises OSError (ENOTCONN)."""
        self._unsupported("shutdown")

    def do_close(self) -> None:
        """Give back what the socket holds; called once.  The vpoll is closed afterwards."""

    def do_getsockname(self) -> Address:
        """Return the local address.  Raises OSError."""
        self._unsupported("getsockname")

    def do_getpeername(self) -> Address:
        """Return the peer's address.  Raises OSError (ENOTCONN)."""
        self._unsupported("getpeername")

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        """Return the value of an option; SO_ERROR takes the pending error.

        Raises OSError (ENOPROTOOPT) for an option that the stack does not have.
        SO_TYPE, SO_DOMAIN and SO_PROTOCOL never come here.
        """
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        """Set an option.  Raises OSError (ENOPROTOOPT, EINVAL …)."""
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    def do_ioctl(self, request: int, argument: Any) -> Any:
        """Carry out an ioctl(2).  Raises OSError (ENOTTY) for an unknown request."""
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def _unsupported(self, operation: str) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, f"{operation} is not supported by {type(self).__name__}")
