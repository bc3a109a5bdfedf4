"""Which error a hung-up socket means, and whose sockets we take."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from ..sockets import UserSocket

__all__ = ["RETRY", "closed_error", "pending_error", "stack_down", "user_socket"]

RETRY = (BlockingIOError, InterruptedError)
"""What a hook raises that would have to wait."""


def user_socket(sock: Any, kind: int | None = None) -> UserSocket:
    """Return `sock`, which must be a `UserSocket` of the type `kind`, if that is given.

    Raises TypeError for a kernel socket and ValueError for the wrong type.
    """
    if not isinstance(sock, UserSocket):
        raise TypeError(
            f"a UserSocket was expected, got {sock!r}: "
            "a kernel socket goes to the loop's own method"
        )
    if kind is not None and sock.type != kind:
        wanted = "Stream" if kind == socket.SOCK_STREAM else "Datagram"
        raise ValueError(f"A {wanted} Socket was expected, got {sock!r}")
    return sock


def closed_error() -> OSError:
    """Return the error for a socket that was closed under its user (EBADF)."""
    return OSError(errno.EBADF, "the socket was closed")


def stack_down(sock: UserSocket) -> OSError | None:
    """Return the error for a socket whose stack is closed (ENETDOWN), else None.

    The same goes for one whose vpoll has lost its kernel object (ENOTCONN).
    """
    if not sock.stack.closed:
        return sock.vpoll.failure
    return OSError(
        errno.ENETDOWN,
        f"the {sock.stack.name} stack is closed: keep it open until its sockets are done with",
    )


def pending_error(sock: UserSocket) -> OSError | None:
    """Take the error that `sock` waits to tell (SO_ERROR); None when there is none.

    A socket always has that one to tell which `stack_down` has for it.
    """
    if down := stack_down(sock):
        return down
    try:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as exc:
        return exc
    return OSError(number, os.strerror(number)) if number else None
