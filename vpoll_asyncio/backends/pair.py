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
from collections.abc import Callable
from typing import Final

from ..ending import ending
from ..events import ERR, HUP, IN, MSG, NVAL, OUT, PRI, RDBAND, RDHUP, RDNORM, WRBAND, WRNORM
from ..kernel import KernelSocket
from .base import Mirror
from .forks import FORKS

__all__ = [
    "AT_ONCE",
    "DONT_WAIT",
    "FILLING",
    "NEAREST",
    "UNKNOWN",
    "PairMirror",
    "drain",
    "nearest",
    "send",
]

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

DONT_WAIT: Final = int(socket.MSG_DONTWAIT)
AT_ONCE: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

UNKNOWN: Final = -1
"""What a front shows while that is being changed: an exception out of a signal handler
may strike between two system calls."""


class PairMirror(Mirror):
    """Two connected stream sockets: `front` for pollers and `back` for us.

    Takes both over and closes them.  `exact` is the backend's exact set; a subclass
    with more than IN and OUT extends `change`.
    """

    def __init__(self, front: socket.socket, back: socket.socket, exact: int) -> None:
        self.front = front
        self.back = back
        self.fd = front.fileno()
        self._exact = exact
        # What the front shows; UNKNOWN where `_flipped` says it.
        self._shown = UNKNOWN
        # What differs from it by IN alone, where that is one byte and nothing is to be
        # looked at; else UNKNOWN.
        self._flipped = UNKNOWN
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
        if mask != self._flipped:
            return self._adjust(mask)
        # What is changed the most, with the fewest calls.
        self._flipped = UNKNOWN
        try:
            if mask:
                self.back.send(b"!", AT_ONCE)
            else:
                self.front.recv(1, DONT_WAIT)
        except BlockingIOError:
            return self._adjust(mask)
        self._flipped = mask ^ IN
        return mask

    def _adjust(self, mask: int) -> int:
        want = nearest(mask, self._exact)
        shown = self._shown if self._flipped < 0 else self._flipped ^ IN
        self._flipped = UNKNOWN
        if shown & want or shown < 0:
            shown = self.look()
        if shown != want:
            self._shown = UNKNOWN
            self.change(shown, want)
        if want & ~IN:
            self._shown = want
        else:
            self._shown = UNKNOWN
            self._flipped = want ^ IN
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
        self.front = KernelSocket(front.family, front.type, front.proto, fileno=fd)
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

    def __del__(self, _ending: Callable[[], bool] = ending) -> None:
        if _ending():
            # As quietly as a descriptor ends: only a user's own sockets are worth a warning.
            for end in (self.front, self.back):
                end.detach()


def send(end: socket.socket, data: bytes) -> int:
    """Send what fits of `data`; return how much that was.  Never blocks."""
    try:
        return end.send(data, AT_ONCE)
    except BlockingIOError:
        return 0


def drain(end: socket.socket) -> int:
    """Receive and drop what has arrived; return how much that was.  Never blocks."""
    try:
        return end.recv_into(_scratch, 0, DONT_WAIT)
    except BlockingIOError:
        return 0
