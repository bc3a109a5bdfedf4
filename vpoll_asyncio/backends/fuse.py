"""The `fuse` backend: every event on a stock kernel, by a file system of one file.

A daemon, a process of its own, serves a mount that no mount table shows.  Every open
file of it is one event mask, which the kernel asks the daemon for when somebody polls
it; the daemon notifies the kernel's waiters on every operation.  The ioctl requests of
``/dev/vpoll`` operate it and return the new mask, and so does an eight-byte write(2) of
``(command << 32) | mask``, as on an EFD_VPOLL.  read(2) of exactly eight bytes returns
the mask; any other size fails (EINVAL), a loop's own read included.

One daemon serves all vpolls of a process and of the children that it forks.  It is
started for the first vpoll, and the kernel ends it once the last descriptor is closed.

A daemon that is killed leaves descriptors that report ERR to every poller for ever;
nothing in the kernel can be told otherwise.  So the first operation that fails makes
every registration in an epoll of this process edge-triggered: it reports ERR once
more, for those who have not seen it, and no loop spins on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from typing import Final

from ..events import (
    ERR,
    HUP,
    IN,
    MSG,
    NVAL,
    OUT,
    PRI,
    RDBAND,
    RDHUP,
    RDNORM,
    WRBAND,
    WRNORM,
)
from .base import ADD, DEL, SET, SHORTAGES, Backend, Mirror
from .device import request
from .fuse_launch import COMPILED, PYTHON, Daemon, launch

__all__ = ["FuseBackend", "FuseMirror", "current_daemon"]

# What fs/fuse passes on of the daemon's answer.
_SHOWN: Final = IN | PRI | OUT | ERR | HUP | NVAL | RDNORM | RDBAND | WRNORM | WRBAND | MSG | RDHUP

# What every request gets once the daemon is gone: those before, and those under way.
_GONE: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV})

DEVICE: Final = "/dev/fuse"

_REQUESTS: Final = {command: request(command) for command in (ADD, DEL, SET)}
# Under `install` the names in the modules refuse the descriptors of user sockets.
_ioctl: Final = fcntl.ioctl
_read: Final = os.read

_mask_word: Final = struct.Struct("=Q")

CHOICE: Final = "VPOLL_FUSE_DAEMON"
"""Environment variable: ``compiled`` or ``python`` instead of the first that works."""


class _Connection:
    """A daemon and how many mirrors of this process use it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.users = 0
        self.gone = False


_lock = threading.RLock()
_current: _Connection | None = None


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


# Another thread of the parent may have held it.
os.register_at_fork(after_in_child=_new_lock)


def _wanted() -> str | None:
    kind = os.environ.get(CHOICE) or None
    if kind not in (None, COMPILED, PYTHON):
        raise ValueError(f"environment variable {CHOICE}: {kind!r}: expected compiled or python")
    return kind


def _acquire() -> _Connection:
    """Return a connection that has one user more.  Raises as `launch` does."""
    global _current
    kind = _wanted()
    with _lock:
        found = _current
        if found is None or found.gone or kind not in (None, found.daemon.kind):
            # A handler that interrupts this may start one as well; each has its users.
            found = _current = _Connection(launch(kind))
        found.users += 1
        return found


def _release(connection: _Connection) -> None:
    global _current
    with _lock:
        connection.users -= 1
        if not connection.users:
            if _current is connection:
                _current = None
            connection.daemon.close()


def current_daemon() -> int | None:
    """Return the process id of the daemon that a new vpoll would use, or None.

    None where no vpoll is open, or where the daemon is known to be gone.
    """
    with _lock:
        if _current is None or _current.gone:
            return None
        return _current.daemon.pid


class FuseMirror(Mirror):
    """One open file of the daemon's, which every process that holds it may operate."""

    shared = True

    def __init__(self, fd: int, connection: _Connection) -> None:
        self.fd = fd
        self._fds = {fd}
        self._connection = connection
        self._closed = False

    def apply(self, command: int, argument: int, mask: int) -> int:
        try:
            return _ioctl(self.fd, _REQUESTS[command], argument)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._notice()
            self.failed = True
            raise _gone() from None

    def check_owner(self) -> None:
        if self.failed:
            self._notice()
            raise _gone()

    def read_mask(self, mask: int) -> int:
        """Return the mask in force; with ERR, as pollers see it, once the daemon is gone."""
        if self.failed:
            return mask | ERR
        try:
            known: int = _mask_word.unpack(_read(self.fd, _mask_word.size))[0]
            return known
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._notice()
            return mask | ERR

    def _notice(self) -> None:
        self._connection.gone = True
        _report_once_more(self._fds)

    def dup(self) -> int:
        fd = super().dup()
        self._fds.add(fd)
        return fd

    def release(self, fd: int) -> None:
        self._fds.discard(fd)
        if not self._is_ours(fd):
            raise OSError(errno.EBADF, f"descriptor {fd} of a vpoll was closed by somebody else")
        super().release(fd)

    def _is_ours(self, fd: int) -> bool:
        # libuv closes what its transports were given, and the number may be another file's.
        try:
            return os.fstat(fd).st_dev == self._connection.daemon.device
        except OSError as error:
            return error.errno in _GONE

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _release(self._connection)


def _gone() -> OSError:
    return OSError(
        errno.ENOTCONN,
        "the daemon of the fuse backend is gone: the vpoll cannot be operated any more; "
        "a new one starts a new daemon",
    )


def _report_once_more(fds: set[int]) -> None:
    """Make what epolls of this process know of `fds` edge-triggered, where it is not."""
    for number, fd, events in tuple(_registrations(fds)):
        try:
            with select.epoll.fromfd(os.dup(number)) as epoll:
                if events & select.EPOLLEXCLUSIVE:
                    # It cannot be modified.
                    epoll.unregister(fd)
                    epoll.register(fd, events | select.EPOLLET)
                else:
                    epoll.modify(fd, events | select.EPOLLET)
        except OSError:
            # Closed or removed meanwhile.
            pass


def _registrations(fds: set[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (epoll, descriptor, events) of those that are not edge-triggered: proc(5)."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}") as file:
                lines = file.readlines()
        except OSError:
            continue
        for line in lines:
            if not line.startswith("tfd:"):
                continue
            words = line.replace(":", " ").split()
            fd, events, data = int(words[1]), int(words[3], 16), int(words[5], 16)
            # Changing it would lose the data of a library that keeps more than the number.
            if fd in fds and data & 0xFFFF_FFFF == fd and not events & select.EPOLLET:
                yield int(name), fd, events


class FuseBackend(Backend):
    """A FUSE daemon: every named event, one round trip to a process an operation."""

    name = "fuse"
    exact = _SHOWN

    def __init__(self) -> None:
        self._tried: dict[tuple[int, str | None], str] = {}

    def missing(self) -> str:
        try:
            key = os.geteuid(), _wanted()
        except ValueError as error:
            return str(error)
        if self._tried.get(key) == "":
            return ""
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return (
                f"{DEVICE}: {error.strerror}: the kernel needs FUSE, and this user the right "
                "to open its device"
            )
        if key not in self._tried:
            try:
                launch(key[1]).close()
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
                self._tried[key] = f"no daemon: {error.strerror or error}"
            else:
                self._tried[key] = ""
        return self._tried[key]

    def create(self, mask: int) -> Mirror:
        try:
            return _open(mask)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        # The daemon was gone already; now a new one is started.
        return _open(mask)


def _open(mask: int) -> Mirror:
    connection = _acquire()
    fd = -1
    try:
        fd = connection.daemon.open()
        if mask:
            _ioctl(fd, _REQUESTS[SET], mask)
        return FuseMirror(fd, connection)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _GONE:
            connection.gone = True
        if fd >= 0:
            os.close(fd)
        _release(connection)
        raise
