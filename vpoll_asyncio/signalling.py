"""Which descriptors only signal the events of a user socket.

Whoever reads or writes one has no data of the socket but takes, or makes, a signal.  So
those that have been given away are known here: by their number, and sockets by their
inode too, which what ``os.dup`` made of one has as well, and what another process sends
back.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, WeakValueDictionary

if TYPE_CHECKING:
    from .sockets import UserSocket

__all__ = ["EXISTING", "Ended", "find", "note", "noted"]

EXISTING: Final[dict[int, None]] = {}
"""Numbers that have been noted: empty where no user socket ever had a descriptor."""

_by_number: Final[WeakValueDictionary[int, UserSocket]] = WeakValueDictionary()
_by_inode: Final[dict[tuple[int, int], WeakSet[UserSocket]]] = {}

# How many connections that have ended are remembered, since a program may still hold a
# duplicate of their descriptors.
_MOST_ENDED: Final = 4096


class Ended(Exception):
    """The descriptor signalled the events of a user socket that has been closed."""


def noted(number: int) -> UserSocket | None:
    """Return the socket that `note` was last told of with `number`, if it still exists."""
    return _by_number.get(number)


def note(number: int, sock: UserSocket) -> None:
    """Remember that the descriptor `number` signals the events of `sock`."""
    _by_number[number] = sock
    EXISTING[number] = None
    status = os.fstat(number)
    if not stat.S_ISSOCK(status.st_mode):
        return
    if len(_by_inode) >= 2 * _MOST_ENDED:
        ended = [key for key, handles in list(_by_inode.items()) if not any(map(_open, handles))]
        for key in ended[:-_MOST_ENDED]:
            _by_inode.pop(key, None)
    _by_inode.setdefault((status.st_dev, status.st_ino), WeakSet()).add(sock)


def _open(sock: UserSocket) -> bool:
    return not sock.vpoll.closed


def find(number: int) -> UserSocket | None:
    """Return a user socket whose events the descriptor `number` signals, or None.

    Its connection is open, though the object may be closed where it has duplicates.
    None for a number that is not open, too.  Raises `Ended` for a duplicate that has
    outlived the connection.
    """
    sock = _by_number.get(number)
    if sock is not None and _open(sock) and sock.vpoll.descriptor == number:
        return sock
    if not EXISTING:
        return None
    try:
        status = os.fstat(number)
    except (OSError, TypeError, OverflowError):
        return None
    handles = _by_inode.get((status.st_dev, status.st_ino))
    if handles is None:
        return None
    for sock in list(handles):
        if _open(sock):
            return sock
    raise Ended
