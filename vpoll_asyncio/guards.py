"""What `install` puts in the place of calls that would take a signal for data.

The descriptor of a user socket only signals events.  These are the calls by which
programs use a socket's descriptor as the socket itself: each works on the user socket or
raises OSError (ENOTSUP), which says what to do instead.  docs/reference/blocking.md has the table,
and what cannot be seen from here.
"""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from . import signalling
from .kernel import KernelSocket
from .signalling import EXISTING
from .sockets import SharedSocket, UserSocket
from .tlssockets import wrap_user_socket

__all__ = ["GUARDED", "NO_CHILD", "refuse", "socket_of_descriptor"]


def _find(fd: Any, call: str) -> UserSocket | None:
    try:
        return signalling.find(fd)
    except signalling.Ended:
        raise OSError(
            errno.EBADF,
            f"{call}: descriptor {fd} is left over from a user socket that is closed: "
            "duplicate the socket (dup()) to keep its connection open",
        ) from None


def refuse(fd: Any, call: str, instead: str) -> None:
    """Raise OSError (ENOTSUP) where `fd` signals the events of a user socket.

    call -- what the program did, for the message
    instead -- what it should do

    Raises OSError (EBADF) where the connection has ended.
    """
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
_kernel_readv: Final = os.readv
_kernel_writev: Final = os.writev


def _read(fd: int, length: int, /) -> bytes:
    if EXISTING and length:
        refuse(fd, "os.read()", "use recv()")
    return _kernel_read(fd, length)


def _write(fd: int, data: Any, /) -> int:
    if EXISTING and memoryview(data).nbytes:
        refuse(fd, "os.write()", "use send()")
    return _kernel_write(fd, data)


def _readv(fd: int, buffers: Any, /) -> int:
    if EXISTING:
        refuse(fd, "os.readv()", "use recvmsg_into()")
    return _kernel_readv(fd, buffers)


def _writev(fd: int, buffers: Any, /) -> int:
    if EXISTING:
        refuse(fd, "os.writev()", "use sendmsg()")
    return _kernel_writev(fd, buffers)


_kernel_splice: Final = os.splice


def _splice(src: int, dst: int, *args: Any, **options: Any) -> int:
    refuse(src, "os.splice()", "use recv()")
    refuse(dst, "os.splice()", "use the socket's sendfile()")
    return _kernel_splice(src, dst, *args, **options)


_kernel_sendfile: Final = os.sendfile


def _sendfile(out_fd: int, in_fd: int, *args: Any, **options: Any) -> int:
    refuse(out_fd, "os.sendfile()", "use the socket's sendfile()")
    return _kernel_sendfile(out_fd, in_fd, *args, **options)


_kernel_fdopen: Final = os.fdopen


def _fdopen(fd: int, *args: Any, **options: Any) -> Any:
    refuse(fd, "os.fdopen()", "use the socket's makefile()")
    return _kernel_fdopen(fd, *args, **options)


_kernel_set_wakeup_fd: Final = signal.set_wakeup_fd


def _set_wakeup_fd(fd: int, /, **options: Any) -> int:
    refuse(fd, "signal.set_wakeup_fd()", "give it an end of socket.socketpair()")
    return _kernel_set_wakeup_fd(fd, **options)


_STAYS: Final = "a user socket cannot leave its process: pass data on instead"

_kernel_send_fds: Final = socket.send_fds


def _send_fds(
    sock: socket.socket, buffers: Any, fds: Iterable[int], flags: int = 0, address: Any = None
) -> int:
    fds = list(fds)
    for fd in fds:
        refuse(fd, "send_fds()", _STAYS)
    return _kernel_send_fds(sock, buffers, fds, flags, address)


_kernel_sendmsg: Final = KernelSocket.sendmsg


def _passed(item: Any) -> Iterable[int]:
    """Return the descriptors in a control message, none in what is no control message."""
    passed = array.array("i")
    try:
        level, kind, data = item
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            given = bytes(memoryview(data))
            passed.frombytes(given[: len(given) - len(given) % passed.itemsize])
    except (TypeError, ValueError):
        # The kernel's own function says what is wrong with it.
        pass
    return passed


def _sendmsg(self: socket.socket, buffers: Any, ancdata: Any = (), *where: Any) -> int:
    if ancdata and EXISTING:
        ancdata = list(ancdata)
        for item in ancdata:
            for fd in _passed(item):
                refuse(fd, "sendmsg() of SCM_RIGHTS", _STAYS)
    return _kernel_sendmsg(self, buffers, ancdata, *where)


NO_CHILD: Final = "a child process cannot have it: give it a pipe"
"""What to do instead of handing a user socket to a child process."""

_kernel_popen: Final = subprocess.Popen.__init__
_STREAMS: Final = {"stdin": 2, "stdout": 3, "stderr": 4}
_PASS_FDS: Final = 15


def _kept(fds: Iterable[int]) -> tuple[int, ...]:
    """Return the descriptors that a child is to keep, which may come but once."""
    kept = tuple(fds)
    for fd in kept:
        refuse(fd, "Popen(pass_fds=)", NO_CHILD)
    return kept


def _popen(self: Any, args: Any, *rest: Any, **options: Any) -> None:
    if "pass_fds" in options:
        options["pass_fds"] = _kept(options["pass_fds"])
    elif len(rest) > _PASS_FDS:
        rest = (*rest[:_PASS_FDS], _kept(rest[_PASS_FDS]), *rest[_PASS_FDS + 1 :])
    for name, place in _STREAMS.items():
        given = options.get(name, rest[place] if len(rest) > place else None)
        if isinstance(given, int) and given >= 0:
            refuse(given, f"Popen({name}=)", NO_CHILD)
    _kernel_popen(self, args, *rest, **options)


_kernel_posix_spawn: Final = os.posix_spawn
_kernel_posix_spawnp: Final = os.posix_spawnp


def _check_actions(file_actions: object, call: str) -> None:
    if not isinstance(file_actions, Sequence):
        return
    for action in file_actions:
        # What is no action the kernel's own function refuses.
        if isinstance(action, tuple) and len(action) > 1 and action[0] == os.POSIX_SPAWN_DUP2:
            refuse(action[1], call, NO_CHILD)


def _posix_spawn(path: Any, argv: Any, env: Any, /, **options: Any) -> int:
    _check_actions(options.get("file_actions") or (), "os.posix_spawn()")
    return _kernel_posix_spawn(path, argv, env, **options)


def _posix_spawnp(path: Any, argv: Any, env: Any, /, **options: Any) -> int:
    _check_actions(options.get("file_actions") or (), "os.posix_spawnp()")
    return _kernel_posix_spawnp(path, argv, env, **options)


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
    (os, "posix_spawn", _posix_spawn),
    (os, "posix_spawnp", _posix_spawnp),
    (signal, "set_wakeup_fd", _set_wakeup_fd),
    (socket, "send_fds", _send_fds),
    (KernelSocket, "sendmsg", _sendmsg),
    (os, "read", _read),
    (os, "write", _write),
    (os, "readv", _readv),
    (os, "writev", _writev),
    (os, "splice", _splice),
    (os, "sendfile", _sendfile),
    (os, "fdopen", _fdopen),
)
"""(where, name, what takes its place) of every call that `install` guards."""
