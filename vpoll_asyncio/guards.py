"""What `install` puts in the place of calls that would take a signal for data.

The descriptor of a user socket only signals events.  These are the calls by which
programs use a socket's descriptor as the socket itself: each works on the user socket or
raises OSError (ENOTSUP), which says what to do instead.  docs/reference/blocking.md has the table,
and what cannot be seen from here.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable
from typing import Any, Final

from . import signalling
from .signalling import EXISTING
from .sockets import SharedSocket, UserSocket
from .tlssockets import wrap_user_socket

__all__ = ["GUARDED", "socket_of_descriptor"]


def _find(fd: Any, call: str) -> UserSocket | None:
    try:
        return signalling.find(fd)
    except signalling.Ended:
        raise OSError(
            errno.EBADF,
            f"{call}: descriptor {fd} is left over from a user socket that is closed: "
            "duplicate the socket (dup()) to keep its connection open",
        ) from None


def _refuse(fd: Any, call: str, instead: str) -> None:
    sock = _find(fd, call)
    if sock is not None:
        raise OSError(
            errno.ENOTSUP,
            f"{call}: descriptor {fd} only signals the events of {sock!r}: {instead}",
        )


def socket_of_descriptor(fd: int) -> UserSocket | None:
    """Return the user socket that ``socket.socket(fileno=fd)`` makes, None for the kernel's.

    It is another handle of the connection whose events `fd` signals, and owns `fd`, unless
    that belongs to an open handle already.  Raises OSError (EBADF) when the connection has
    ended.
    """
    sock = _find(fd, "socket(fileno=)")
    if sock is None:
        return None
    owner = signalling.noted(fd)
    taken = owner is not None and owner.vpoll.descriptor == fd
    return SharedSocket(sock) if taken else SharedSocket(sock, fd)


_kernel_read: Final = os.read
_kernel_write: Final = os.write


def _read(fd: int, length: int, /) -> bytes:
    if EXISTING and length:
        _refuse(fd, "os.read()", "use recv()")
    return _kernel_read(fd, length)


def _write(fd: int, data: Any, /) -> int:
    if EXISTING and memoryview(data).nbytes:
        _refuse(fd, "os.write()", "use send()")
    return _kernel_write(fd, data)


_kernel_sendfile: Final = os.sendfile


def _sendfile(out_fd: int, in_fd: int, *args: Any, **options: Any) -> int:
    _refuse(out_fd, "os.sendfile()", "use the socket's sendfile()")
    return _kernel_sendfile(out_fd, in_fd, *args, **options)


_kernel_fdopen: Final = os.fdopen


def _fdopen(fd: int, *args: Any, **options: Any) -> Any:
    _refuse(fd, "os.fdopen()", "use the socket's makefile()")
    return _kernel_fdopen(fd, *args, **options)


_kernel_send_fds: Final = socket.send_fds


def _send_fds(
    sock: socket.socket, buffers: Any, fds: Iterable[int], flags: int = 0, address: Any = None
) -> int:
    fds = list(fds)
    for fd in fds:
        _refuse(fd, "send_fds()", "a user socket cannot leave its process: pass data on instead")
    return _kernel_send_fds(sock, buffers, fds, flags, address)


_kernel_popen: Final = subprocess.Popen.__init__
_STREAMS: Final = {"stdin": 2, "stdout": 3, "stderr": 4}


def _popen(self: Any, args: Any, *rest: Any, **options: Any) -> None:
    for fd in options.get("pass_fds", ()):
        _refuse(fd, "Popen(pass_fds=)", "a child process cannot have it: give it a pipe")
    for name, place in _STREAMS.items():
        given = options.get(name, rest[place] if len(rest) > place else None)
        if isinstance(given, int) and given >= 0:
            _refuse(given, f"Popen({name}=)", "a child process cannot have it: give it a pipe")
    _kernel_popen(self, args, *rest, **options)


_kernel_wrap_socket: Final = ssl.SSLContext.wrap_socket


def _wrap_socket(
    self: ssl.SSLContext,
    sock: Any,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    # Programs wrap sockets in objects that hand their methods through.
    behind = getattr(getattr(sock, "fileno", None), "__self__", sock)
    wrap: Callable[..., ssl.SSLSocket] = _kernel_wrap_socket.__get__(self)
    if isinstance(behind, UserSocket):
        sock = behind
        wrap = wrap_user_socket.__get__(self)
    return wrap(
        sock,
        server_side,
        do_handshake_on_connect,
        suppress_ragged_eofs,
        server_hostname,
        session,
    )


GUARDED: Final[tuple[tuple[Any, str, Any], ...]] = (
    (ssl.SSLContext, "wrap_socket", _wrap_socket),
    (subprocess.Popen, "__init__", _popen),
    (socket, "send_fds", _send_fds),
    (os, "read", _read),
    (os, "write", _write),
    (os, "sendfile", _sendfile),
    (os, "fdopen", _fdopen),
)
"""(where, name, what takes its place) of every call that `install` guards."""
