"""What both models have of a file that can be polled: a mask, a wait queue, two pollers."""

from __future__ import annotations

import abc
import errno
from typing import Final, Protocol

from ..events import ALWAYS, NVAL, EventMask, to_select

__all__ = ["DescriptorModel", "PollableModel", "Watcher"]

# fs/select.c: poll(2) translates the bits that have a name and drops the others.
_POLLED: Final = sum(EventMask)


class Watcher(Protocol):
    """What sits on a wait queue: one registration in an epoll."""

    exclusive: bool

    def wake(self, key: int) -> bool:
        """Take note of a wake-up; return whether it was used up by a sleeping thread.

        key -- the events that the wake-up is about; 0 for one that does not say
        """

    def orphan(self) -> None:
        """Take note that the file is no more."""


class PollableModel(abc.ABC):
    """An open file that can be polled, as the kernel has it, shared by its descriptors."""

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []

    @abc.abstractmethod
    def look(self) -> int:
        """Return the events that hold now, as the file's ``poll`` operation does."""

    def attach(self, watcher: Watcher) -> None:
        """Put `watcher` on the wait queue: exclusive ones behind, all others in front."""
        if watcher.exclusive:
            self.watchers.append(watcher)
        else:
            self.watchers.insert(0, watcher)

    def detach(self, watcher: Watcher) -> None:
        """Take `watcher` from the wait queue."""
        self.watchers.remove(watcher)

    def wake_all(self, key: int) -> None:
        """Wake every watcher, of the exclusive ones up to the first that uses it up."""
        for watcher in tuple(self.watchers):
            if watcher.wake(key) and watcher.exclusive:
                return

    def release(self) -> None:
        """End the file: its last descriptor was closed.  No registration survives that."""
        for watcher in tuple(self.watchers):
            watcher.orphan()


class DescriptorModel(abc.ABC):
    """One descriptor of an open file, looked at by poll(2) and select(2)."""

    number: int | None = None
    """The number that the descriptor stands for, where a test knows one.

    A registration in an epoll is the kernel's for an open file and a number: a duplicate
    that is given the number of one that was closed comes into its registrations.
    """

    @property
    @abc.abstractmethod
    def file(self) -> PollableModel:
        """The open file behind it.  Raises OSError (EBADF) when it is closed."""

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether this descriptor was closed."""

    def poll(self, interest: int) -> EventMask:
        """Return what poll(2) answers to a waiter for `interest`.

        Events with a name only; ERR and HUP unasked for; NVAL alone when closed.
        """
        if self.closed:
            return EventMask(NVAL)
        return EventMask(self.file.look() & (interest | ALWAYS) & _POLLED)

    def select(self) -> tuple[bool, bool, bool]:
        """Return whether select(2) calls it readable, writable, exceptional.

        Raises OSError (EBADF) when closed.
        """
        return to_select(self.file.look())


def closed_error() -> OSError:
    """Return the error of a descriptor that is closed."""
    return OSError(errno.EBADF, "the descriptor is closed")
