"""Real pollers, with one interface: epoll for descriptors, `VPollSelector` for virtual ones."""

from __future__ import annotations

import errno
import select
from typing import Protocol

from ..selector import VPollSelector

__all__ = ["EpollObserver", "Observer", "SelectorObserver"]


class Observer(Protocol):
    """Many registrations in one wait."""

    def register(self, number: int, interest: int) -> None:
        """Register a descriptor or virtual number.  Raises OSError, EEXIST among others."""

    def modify(self, number: int, interest: int) -> None:
        """Change what it is registered for.  Raises OSError, ENOENT among others."""

    def unregister(self, number: int) -> None:
        """Remove it.  Raises OSError, ENOENT among others."""

    def wait(self, maxevents: int | None = None) -> list[tuple[int, int]]:
        """Return what is ready now: (number, events)."""

    def close(self) -> None:
        """Give back what it holds."""


class EpollObserver:
    """The kernel's epoll."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.register = self.epoll.register
        self.modify = self.epoll.modify
        self.unregister = self.epoll.unregister
        self.close = self.epoll.close

    def wait(self, maxevents: int | None = None) -> list[tuple[int, int]]:
        """Return what is ready now: (descriptor, events)."""
        return self.epoll.poll(0, -1 if maxevents is None else maxevents)


class SelectorObserver:
    """`VPollSelector`, asked by mask."""

    def __init__(self) -> None:
        self._selector = VPollSelector()
        self.close = self._selector.close

    def register(self, number: int, interest: int) -> None:
        """Register `number`.  Raises OSError (EEXIST) when it is registered."""
        try:
            self._selector.register_mask(number, interest)
        except KeyError as error:
            raise OSError(errno.EEXIST, str(error)) from None

    def modify(self, number: int, interest: int) -> None:
        """Change the interest in `number`.  Raises OSError (ENOENT) when it has none."""
        try:
            self._selector.modify_mask(number, interest)
        except KeyError as error:
            raise OSError(errno.ENOENT, str(error)) from None

    def unregister(self, number: int) -> None:
        """Remove `number`.  Raises OSError (ENOENT) when it is not registered."""
        try:
            self._selector.unregister(number)
        except KeyError as error:
            raise OSError(errno.ENOENT, str(error)) from None

    def wait(self, maxevents: int | None = None) -> list[tuple[int, int]]:
        """Return what is ready now: (number, events); `maxevents` is not heeded."""
        return [(key.fd, int(events)) for key, events in self._selector.select(0)]
