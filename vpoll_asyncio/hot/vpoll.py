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

__all__ = ["FileState", "VPollState", "Waiter"]

Waiter = Callable[[int], object]
"""Called with the whole current mask after every operation on a vpoll.

It runs in whichever thread set the events, perhaps inside a signal handler, so it
must be quick, must not block and must not raise.  Calls of operations that overlap
may come in either order: a waiter that needs the latest mask looks at `VPoll.peek`.
"""


class FileState:
    """What the duplicates of a vpoll share and every event touches.

    `mask` is in force, and may be assigned by whoever then calls the waiters, while
    `pending` is None; once there is a kernel object, operations wait in `pending`.
    """

    __slots__ = ("apply", "bias", "direct", "mask", "pending", "ready", "waiters", "waiting")

    mask: int
    pending: deque[tuple[int, int]] | None
    waiters: tuple[Waiter, ...]
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

    @abstractmethod
    def add_waiter(self, waiter: Waiter) -> None:
        """Call `waiter` with the whole mask after every operation from now on."""

    @abstractmethod
    def operate(self, command: int, mask: int) -> int:
        """Carry out ADD, DEL or SET on a vpoll that is closed or has a kernel object."""

    @abstractmethod
    def ask(self) -> int:
        """Return the mask of a vpoll that is closed or has a kernel object."""


if not TYPE_CHECKING and ACCELERATOR is not None:
    FileState = ACCELERATOR.FileState
    VPollState = ACCELERATOR.VPollState
