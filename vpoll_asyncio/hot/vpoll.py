"""The operations of a vpoll that has no kernel object: a mask, and whom to tell.

They are one statement each: between the look at `FileState.pending` and the assignment
of the mask there is no call, at which alone the interpreter changes threads or runs a
signal handler.  So they need no lock.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import ADD, DEL, REFUSED, SET, bad_mask
from .accelerator import ACCELERATOR

__all__ = ["DirectState", "FileState", "VPollState", "Waiter"]

Waiter = Callable[[int], object]
"""Called with the whole current mask after every operation on a vpoll.

It runs in whichever thread set the events, perhaps inside a signal handler, so it
must be quick, must not block and must not raise.  Calls of operations that overlap
may come in either order: a waiter that needs the latest mask looks at `VPoll.peek`.
"""


class FileState:
    """What an event on a vpoll touches: a mask, and whom to tell.

    `mask` is in force, and may be assigned by whoever then calls the waiters, while
    `pending` is None.  It always is until somebody asks for a descriptor or a duplicate:
    the vpoll then gets an `OpenFile` in place of this.
    """

    __slots__ = ("mask", "pending", "waiters")

    pending: deque[tuple[int, int]] | None
    waiters: tuple[Waiter, ...]

    def __init__(self, mask: int) -> None:
        self.mask = mask
        self.pending = None
        self.waiters = ()


class DirectState(FileState):
    """What an operation touches that one thread carries out on a kernel object alone."""

    __slots__ = ("apply", "bias", "direct", "ready", "waiting")

    apply: Callable[[int, int, int], int]
    """The kernel object's part of an operation, for the thread that has the bias."""
    bias: int
    """The thread whose operations may be direct, see `OpenFile`."""
    direct: int
    """The thread that is at a direct operation."""
    ready: int
    """`bias`, while nothing is under way or waits; else 0."""
    waiting: bool
    """Whether anything may wait for the end of an operation."""

    @abstractmethod
    def end_direct(self, failure: OSError | None = None) -> int:
        """Do what is left of a direct operation to which something has come in between."""


class VPollState:
    """The operations of a `VPoll`.

    `file` is None once the handle is closed.
    """

    __slots__ = ("file",)

    file: FileState | None

    def add_events(self, mask: int) -> int:
        """Add `mask` to the pending events, wake the waiters, return the new mask.

        Raises ValueError for bits outside 0 to 27 and OSError: EBADF when the vpoll is
        closed, EPERM in a forked child that does not own the mask, ENOTCONN when
        `failure` is set; nothing is changed then.  What else the kernel object answers
        is raised after the mask has changed and the waiters are woken.
        """
        if mask.__class__ is not int:
            mask = operator.index(mask)
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self.file
        if file is None or file.pending is not None:
            return self.operate(ADD, mask)
        new = file.mask = file.mask | mask
        for waiter in file.waiters:
            waiter(new)
        return new

    def del_events(self, mask: int) -> int:
        """Remove `mask` from the pending events, wake the waiters, return the new mask.

        Raises as `add_events` does.
        """
        if mask.__class__ is not int:
            mask = operator.index(mask)
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self.file
        if file is None or file.pending is not None:
            return self.operate(DEL, mask)
        new = file.mask = file.mask & ~mask
        for waiter in file.waiters:
            waiter(new)
        return new

    def set_events(self, mask: int) -> int:
        """Make `mask` the pending events, wake the waiters, return the new mask.

        Raises as `add_events` does.
        """
        if mask.__class__ is not int:
            mask = operator.index(mask)
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self.file
        if file is None or file.pending is not None:
            return self.operate(SET, mask)
        new = file.mask = mask
        for waiter in file.waiters:
            waiter(new)
        return new

    def peek(self) -> int:
        """Return the pending events as a plain int.  Raises OSError (EBADF) when closed."""
        file = self.file
        if file is None or file.pending is not None:
            return self.ask()
        return file.mask

    def add_waiter(self, waiter: Waiter) -> None:
        """Call `waiter` with the whole mask after every operation from now on.

        A waiter that is added twice is called twice.  Look at `events` after adding:
        what was pending before brings no call.  Raises OSError (EBADF) when closed.
        """
        while True:
            # A handler or another thread may come in before the comparison, not after.
            file = self.file
            if file is None:
                self.ask()
                return
            before = file.waiters
            longer = (*before, waiter)
            if self.file is file and file.waiters is before:
                file.waiters = longer
                return

    def remove_waiter(self, waiter: Waiter) -> bool:
        """Take `waiter` from the wait queue; return whether it was there.

        An operation in another thread may still be calling it.
        """
        while True:
            file = self.file
            if file is None:
                return False
            before = file.waiters
            remaining: tuple[Waiter, ...] = ()
            # Most vpolls have one.
            if len(before) != 1 or before[0] != waiter:
                shorter = list(before)
                try:
                    shorter.remove(waiter)
                except ValueError:
                    return False
                remaining = tuple(shorter)
            if self.file is file and file.waiters is before:
                file.waiters = remaining
                return True

    def succeed(self, file: FileState, heir: FileState) -> bool:
        """Put `heir` in the place of `file`, with its mask and waiters, while that is there.

        Returns whether it was.
        """
        while self.file is file:
            heir.mask, heir.waiters = file.mask, file.waiters
            if self.file is file and heir.mask == file.mask and heir.waiters is file.waiters:
                # As above, nothing comes in between.
                self.file = heir
                return True
        return False

    @abstractmethod
    def operate(self, command: int, mask: int) -> int:
        """Carry out ADD, DEL or SET on a vpoll that is closed or has a kernel object."""

    @abstractmethod
    def ask(self) -> int:
        """Return the mask of a vpoll that is closed or has a kernel object."""


if not TYPE_CHECKING and ACCELERATOR is not None:
    DirectState = ACCELERATOR.DirectState
    FileState = ACCELERATOR.FileState
    VPollState = ACCELERATOR.VPollState
