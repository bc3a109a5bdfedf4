"""The names of Debian's libvpoll, for programs that are ported from C.

`vpoll_create`, `vpoll_ctl` and `vpoll_close` take what the functions of vpoll(3) take
and return what those return on success; where those return -1 and set ``errno``, here
OSError with that errno is raised.  A descriptor from here is an ordinary one of the
kernel's.  It shows what is exactly set: `vpoll_create` takes the fastest backend that
shows all twelve named events, or where there is none the one that shows the most.

The descriptor is a duplicate of the vpoll's own.  A program that closes it with
``os.close`` instead of `vpoll_close` loses a descriptor then (until the number is handed
out here again), but never has another file closed that got its number.
"""

from __future__ import annotations

import atexit
import errno
import os
from collections.abc import Callable
from fcntl import FD_CLOEXEC
from typing import Final, NamedTuple

from .events import ERR, IN, KEPT, OUT, PRI, EventMask
from .vpoll import VPoll

__all__ = [
    "FD_CLOEXEC",
    "VPOLL_CTL_ADDEVENTS",
    "VPOLL_CTL_DELEVENTS",
    "VPOLL_CTL_SETEVENTS",
    "vpoll_close",
    "vpoll_create",
    "vpoll_ctl",
]

VPOLL_CTL_ADDEVENTS: Final = 1
VPOLL_CTL_DELEVENTS: Final = 2
VPOLL_CTL_SETEVENTS: Final = 3

_OPERATIONS: Final[dict[int, Callable[[VPoll, int], int]]] = {
    VPOLL_CTL_ADDEVENTS: VPoll.add_events,
    VPOLL_CTL_DELEVENTS: VPoll.del_events,
    VPOLL_CTL_SETEVENTS: VPoll.set_events,
}

_CLOSE_ON_EXEC: Final = FD_CLOEXEC | os.O_CLOEXEC

# Best first: every named event, what a TCP pair shows, what any machine can show.
_NEEDS: Final = (sum(EventMask), IN | OUT | PRI | ERR, IN | OUT)


class _File(NamedTuple):
    vpoll: VPoll
    identity: tuple[int, int]
    """Device and inode: a number that somebody else closed may be another file's by now."""


_files: Final[dict[int, _File]] = {}


def vpoll_create(init_events: int, flags: int) -> int:
    """Return a new descriptor whose pending events are `init_events` (``EPOLL*``).

    flags -- FD_CLOEXEC closes it on exec(2), and so does O_CLOEXEC; with 0 programs
        that are started inherit it

    Raises OSError: EINVAL for other flags and for events outside bits 0 to 27, EMFILE,
    ENFILE.
    """
    if flags & ~_CLOSE_ON_EXEC:
        raise OSError(errno.EINVAL, f"flags {flags:#x}: expected FD_CLOEXEC or 0")
    vpoll = _open(_checked(init_events))
    try:
        fd = os.dup(vpoll.fileno())
        try:
            os.set_inheritable(fd, not flags)
            file = _File(vpoll, _identity(fd))
        except BaseException:
            os.close(fd)
            raise
    except BaseException:
        vpoll.close()
        raise
    # Numbers that are in use again: somebody closed them behind our back.  Files of one
    # backend may have one inode, so the identity alone would not tell.
    stale = [_files.pop(number, None) for number in (vpoll.fileno(), fd)]
    _files[fd] = file
    for gone in stale:
        if gone is not None:
            gone.vpoll.close()
    return fd


def vpoll_ctl(fd: int, op: int, events: int) -> int:
    """Change the pending events of `fd`, wake its waiters and return 0.

    fd -- what `vpoll_create` returned, in this process or in one that it was forked from
    op -- VPOLL_CTL_ADDEVENTS, VPOLL_CTL_DELEVENTS or VPOLL_CTL_SETEVENTS

    May be called from any thread and from signal handlers.  Raises OSError, with nothing
    changed: EBADF when `fd` is closed or was not made here, EINVAL for another `op` and
    for events outside bits 0 to 27, EPERM in a forked child where the backend is a pair.
    """
    operation = _OPERATIONS.get(op)
    if operation is None:
        raise OSError(errno.EINVAL, f"operation {op!r}: expected one of the VPOLL_CTL_* constants")
    mask = _checked(events)
    file = _files.get(fd)
    if file is None:
        raise _not_ours(fd)
    if _identity(fd) != file.identity:
        raise _not_ours(fd)
    operation(file.vpoll, mask)
    return 0


def vpoll_close(fd: int) -> int:
    """Close `fd` and return 0.

    Raises OSError (EBADF) when it is closed or was not made by `vpoll_create`.
    """
    file = _files.pop(fd, None)
    if file is None:
        raise _not_ours(fd)
    try:
        if _identity(fd) != file.identity:
            raise _not_ours(fd)
        os.close(fd)
    finally:
        file.vpoll.close()
    return 0


def _checked(events: int) -> int:
    if events & ~KEPT:
        raise OSError(errno.EINVAL, f"events {events:#x} have bits outside {KEPT:#x}")
    return events


def _open(events: int) -> VPoll:
    """Return a vpoll with a kernel object, the most exact that there is here."""
    *better, least = _NEEDS
    for need in better:
        try:
            return _with_descriptor(events, need)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
    return _with_descriptor(events, least)


def _with_descriptor(events: int, need: int) -> VPoll:
    vpoll = VPoll(events, need=need)
    try:
        vpoll.fileno()
    except BaseException:
        vpoll.close()
        raise
    return vpoll


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _not_ours(fd: int) -> OSError:
    return OSError(errno.EBADF, f"descriptor {fd} is not one that vpoll_create returned")


@atexit.register
def _close_all() -> None:
    """Close what is left, as the end of a C program does, without a ResourceWarning."""
    for fd in list(_files):
        try:
            vpoll_close(fd)
        except OSError:
            pass
