"""What a backend offers: a kernel object that shows an event mask."""

from __future__ import annotations

import abc
import errno
import os
from typing import Final, NamedTuple

from ..events import ADD, DEL, SET, EventMask

__all__ = ["ADD", "DEL", "SET", "Backend", "BackendInfo", "Mirror"]

SHORTAGES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
"""Errors that say nothing of a backend: the process or the machine has run out."""


class Mirror(abc.ABC):
    """One kernel object that shows the event mask of one vpoll.

    Methods are called under the vpoll's lock, never concurrently; a signal handler
    does not re-enter them.  `fd` is the descriptor that pollers wait on.
    """

    fd: int
    shared: bool = False
    """Whether other processes that hold the descriptor can operate the mask."""
    failed: bool = False
    """Whether an operation has found the kernel object gone; pollers see ERR for ever."""
    guarded: bool = False
    """Whether `check_owner` is to be called before each operation.  The vpoll's."""
    lent: bool = False
    """Whether a handle of the vpoll has given `fd` itself away.  The vpoll's."""

    @abc.abstractmethod
    def apply(self, command: int, argument: int, mask: int) -> int:
        """Carry out `command` (ADD, DEL or SET) with `argument`; return the mask now in force.

        `mask` is what the mask becomes as far as this process knows.  A backend
        whose kernel object can be operated from several processes passes the
        command on and returns what the kernel then holds; a pair shows `mask`.
        Called after `check_owner`.  Raises OSError when the kernel object is gone.
        """

    def check_owner(self) -> None:
        """Raise OSError where this process may not, or can no longer, operate the mask.

        PermissionError (EPERM) in a forked child when the mask's owner is the parent;
        ENOTCONN once `failed` holds.
        """

    def read_mask(self, mask: int) -> int:
        """Return the mask in force, of which this process knows `mask`.

        Asked where `shared` holds.  Raises OSError when the kernel object is gone.
        """
        return mask

    def dup(self) -> int:
        """Return a new close-on-exec descriptor for the same kernel object."""
        return os.dup(self.fd)

    def move(self, fd: int) -> None:
        """Work through `fd`, which `dup` returned, from now on; leave the old one open."""
        self.fd = fd

    def release(self, fd: int) -> None:
        """Close one descriptor: `self.fd` or one that `dup` returned."""
        os.close(fd)

    def close(self) -> None:
        """Give back everything but the descriptors that `release` closes."""


class Backend(abc.ABC):
    """A way to make a vpoll visible to the kernel's pollers."""

    name: str
    exact: int
    """Events that it can raise and clear, each independently of the others."""
    chosen_by_name_only: bool = False

    @abc.abstractmethod
    def missing(self) -> str:
        """Return why it cannot be used here, or an empty string when it can.

        Raises OSError (one of `SHORTAGES`) when the process has nothing left to find out.
        Safe to call from any thread, leaves nothing open and caches what is dear.
        """

    @abc.abstractmethod
    def create(self, mask: int) -> Mirror:
        """Return a new mirror that shows `mask`.  Raises OSError when the kernel refuses."""


class BackendInfo(NamedTuple):
    """A backend as `backends` lists it."""

    name: str
    available: bool
    exact: EventMask
    """Events that it raises and clears exactly; the rest bring the nearest wake-up."""
    why: str
    """What is missing, when it is not available; else empty."""
