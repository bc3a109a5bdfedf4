"""What the two socket pairs share: one end to poll, and one to work it from.

Pollers wait on the *front*.  A byte that the *back* sends raises IN there, and
reading it clears IN; filling the front's send buffer clears OUT, and the back that
reads it all raises OUT.  The kernel object is touched by differences only, so an
operation that is repeated changes nothing, and what remains is checked rather than
believed: a library that reads or writes the front on its own account undoes the
signal, and the next operation of any kind puts it back.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Final

from ..events import ERR, HUP, IN, MSG, NVAL, OUT, PRI, RDBAND, RDHUP, RDNORM, WRBAND, WRNORM
from .base import Mirror
from .forks import FORKS

__all__ = ["FILLING", "NEAREST", "PairMirror", "drain", "nearest", "send"]

NEAREST: Final = {
    PRI: IN,
    ERR: IN | OUT,
    HUP: IN | OUT,
    NVAL: IN | OUT,
    RDNORM: IN,
    RDBAND: IN,
    WRNORM: OUT,
    WRBAND: OUT,
    MSG: IN,
    RDHUP: IN,
}
"""What a pair raises in place of an event outside its exact set.

The choice is the kernel's own: RDHUP on a socket always brings IN, and a waiter that
an error or a hang-up concerns may wait for either direction.  A bit without a name
has no wake-up that is near to it.
"""


def nearest(mask: int, exact: int) -> int:
    """Return what a pair whose exact set is `exact` shows for `mask`."""
    shown = mask & exact
    others = mask & ~exact
    if others:
        for bit, substitute in NEAREST.items():
            if others & bit:
                shown |= substitute
    return shown


FILLING: Final = bytes(1 << 16)
"""One send of this fills a send buffer of the least size; one receive empties it."""

_scratch: Final = bytearray(1 << 16)

_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RECEIVE: Final = socket.MSG_DONTWAIT
_UNKNOWN: Final = -1


class PairMirror(Mirror):
    """Two connected stream sockets: `front` for pollers and `back` for us.

    Takes both over and closes them.  `exact` is the backend's exact set; a subclass
    with more than IN and OUT extends `change`.
    """

    drifts = False
    """Whether an event may appear without a stranger's doing, so that each operation
    looks first; events that disappear are noticed in any case."""

    def __init__(self, front: socket.socket, back: socket.socket, exact: int) -> None:
        self.front = front
        self.back = back
        self.fd = front.fileno()
        self._exact = exact
        # What the front shows, or _UNKNOWN while that is being changed: an exception
        # out of a signal handler may strike between two system calls.
        self._shown = _UNKNOWN
        self._generation = FORKS.value
        self._watch()

    def _watch(self) -> None:
        self._poll = select.poll()
        self._poll.register(self.fd, self._exact)

    def check_owner(self) -> None:
        if self._generation != FORKS.value:
            raise PermissionError(
                errno.EPERM,
                "a vpoll on a socket pair belongs to the process that made it: "
                "a forked child may wait for it and close it, not set its events",
            )

    def apply(self, command: int, argument: int, mask: int) -> int:
        want = nearest(mask, self._exact)
        shown = self._shown
        if shown & want or shown == _UNKNOWN or self.drifts:
            shown = self.look()
        if shown != want:
            self._shown = _UNKNOWN
            self.change(shown, want)
        self._shown = want
        return mask

    def look(self) -> int:
        """Return what the front really shows of the exact set."""
        for _, seen in self._poll.poll(0):
            return seen & self._exact
        return 0

    def change(self, shown: int, want: int) -> None:
        """Make the front, which shows `shown`, show `want`.  Never blocks."""
        changed = shown ^ want
        if changed & IN:
            if want & IN:
                send(self.back, b"!")
            else:
                drain(self.front)
        if changed & OUT:
            if want & OUT:
                drain(self.back)
            else:
                send(self.front, FILLING)

    def move(self, fd: int) -> None:
        front = self.front
        self.front = socket.socket(front.family, front.type, front.proto, fileno=fd)
        front.detach()
        self.fd = fd
        self._watch()

    def release(self, fd: int) -> None:
        if fd == self.front.fileno():
            self.front.close()
        else:
            super().release(fd)

    def close(self) -> None:
        self.back.close()


def send(end: socket.socket, data: bytes) -> int:
    """Send what fits of `data`; return how much that was.  Never blocks."""
    try:
        return end.send(data, _SEND)
    except BlockingIOError:
        return 0


def drain(end: socket.socket) -> int:
    """Receive and drop what has arrived; return how much that was.  Never blocks."""
    try:
        return end.recv_into(_scratch, 0, _RECEIVE)
    except BlockingIOError:
        return 0
