"""What `install` puts in the place of calls on a descriptor itself: its life and its flags.

On a kernel socket ``os.close(sock.fileno())`` or ``os.set_blocking(sock.fileno(), False)``
act on the socket.  The descriptor of a user socket only signals events; closing it behind
the socket's back would leave the next file with its number to be taken for the signal.
So these calls are carried out on the user socket where that is what they mean, and raise
OSError (ENOTSUP) where it cannot be.  Only the number that `UserSocket.fileno` returned
is the socket; a duplicate of it is the kernel's to close.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Any, Final

from . import signalling
from .guards import NO_CHILD, refuse
from .signalling import EXISTING
from .sockets import UserSocket

__all__ = ["ON_DESCRIPTORS"]

_FIONBIO: Final = 0x5421
_STANDARD: Final = 3


def _owner(fd: Any) -> UserSocket | None:
    """Return the open user socket whose own descriptor `fd` is."""
    if isinstance(fd, UserSocket):
        return None if fd.vpoll.closed else fd
    if not isinstance(fd, int):
        fileno = getattr(fd, "fileno", None)
        fd = fileno() if callable(fileno) else None
    if fd not in EXISTING:
        return None
    sock = signalling.noted(fd)
    if sock is None or sock.vpoll.closed or sock.vpoll.descriptor != fd:
        return None
    return sock


_kernel_close: Final = os.close
_kernel_socket_close: Final = socket.close
_kernel_closerange: Final = os.closerange
_kernel_dup2: Final = os.dup2


def _close(fd: int) -> None:
    sock = _owner(fd) if EXISTING else None
    if sock is None:
        _kernel_close(fd)
    else:
        sock.close_handle()


def _socket_close(fd: int, /) -> None:
    sock = _owner(fd) if EXISTING else None
    if sock is None:
        _kernel_socket_close(fd)
    else:
        sock.close_handle()


def _closerange(fd_low: int, fd_high: int, /) -> None:
    for number in list(EXISTING):
        if fd_low <= number < fd_high and (sock := _owner(number)) is not None:
            sock.close_handle()
    _kernel_closerange(fd_low, fd_high)


def _dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    if EXISTING and fd != fd2:
        sock = _owner(fd2)
        if sock is not None:
            raise OSError(
                errno.ENOTSUP,
                f"os.dup2(): descriptor {fd2} only signals the events of {sock!r}, which "
                "would lose it: close the socket first",
            )
        if 0 <= fd2 < _STANDARD:
            refuse(fd, "os.dup2() to a standard stream", NO_CHILD)
    return _kernel_dup2(fd, fd2, inheritable)


_kernel_set_inheritable: Final = os.set_inheritable
_kernel_get_blocking: Final = os.get_blocking
_kernel_set_blocking: Final = os.set_blocking


def _set_inheritable(fd: int, inheritable: Any, /) -> None:
    if inheritable:
        refuse(fd, "os.set_inheritable()", NO_CHILD)
    _kernel_set_inheritable(fd, inheritable)


def _get_blocking(fd: int, /) -> bool:
    sock = _owner(fd)
    return _kernel_get_blocking(fd) if sock is None else sock.gettimeout() is None


def _set_blocking(fd: int, blocking: Any, /) -> None:
    sock = _owner(fd)
    if sock is None:
        _kernel_set_blocking(fd, blocking)
    else:
        _switch(sock, bool(blocking))


def _switch(sock: UserSocket, blocking: bool) -> None:
    # O_NONBLOCK is set on a kernel socket with a timeout, too, and clearing it there leaves
    # the timeout.
    if not blocking:
        sock.setblocking(False)
    elif sock.gettimeout() == 0.0:
        sock.setblocking(True)


_kernel_fcntl: Final = fcntl.fcntl
_kernel_ioctl: Final = fcntl.ioctl


def _fcntl(fd: Any, cmd: int, arg: Any = 0, /) -> Any:
    sock = _owner(fd) if cmd in (fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_SETFD) else None
    if sock is None:
        return _kernel_fcntl(fd, cmd, arg)
    if cmd == fcntl.F_GETFL:
        return os.O_RDWR | (0 if sock.gettimeout() is None else os.O_NONBLOCK)
    if cmd == fcntl.F_SETFL:
        _switch(sock, not arg & os.O_NONBLOCK)
        return 0
    if not arg & fcntl.FD_CLOEXEC:
        refuse(sock.fileno(), "fcntl.fcntl(F_SETFD)", NO_CHILD)
    return _kernel_fcntl(fd, cmd, arg)


def _ioctl(fd: Any, request: int, arg: Any = 0, mutate_flag: Any = True, /) -> Any:
    sock = _owner(fd)
    if sock is None:
        return _kernel_ioctl(fd, request, arg, mutate_flag)
    if isinstance(arg, int):
        # A number is an address in the caller's memory, or means nothing here.
        return sock.ioctl(request, arg)
    given = arg.encode() if isinstance(arg, str) else bytes(memoryview(arg).cast("B"))
    if request == _FIONBIO:
        _switch(sock, not any(given[:4]))
        answer = given
    else:
        try:
            value = sock.ioctl(request, given)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            raise OSError(
                errno.ENOTTY,
                f"ioctl(): the sockets of the {sock.stack.name} stack know no request {request:#x}",
            ) from None
        result = struct.pack("i", value) if isinstance(value, int) else bytes(value)
        answer = (result + given[len(result) :])[: len(given)]
    if isinstance(arg, (str, bytes)) or memoryview(arg).readonly or not mutate_flag:
        return answer
    memoryview(arg).cast("B")[:] = answer
    return 0


ON_DESCRIPTORS: Final[tuple[tuple[Any, str, Any], ...]] = (
    (os, "close", _close),
    (os, "closerange", _closerange),
    (os, "dup2", _dup2),
    (os, "get_blocking", _get_blocking),
    (os, "set_blocking", _set_blocking),
    (os, "set_inheritable", _set_inheritable),
    (socket, "close", _socket_close),
    (fcntl, "fcntl", _fcntl),
    (fcntl, "ioctl", _ioctl),
)
"""(where, name, what takes its place) of every call that `install` carries out itself."""
