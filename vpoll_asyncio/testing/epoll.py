"""What epoll makes of the files that are registered in it: every trigger mode, nested too.

An epoll has a *ready list*.  A wake-up that concerns an item puts it there, and so does
registering or modifying it while one of its events is pending.  `EpollModel.wait` asks
each item of the list for its events again: one that has none is dropped in silence, one
that has is reported, and put back behind the others where it is level-triggered.  All
of epoll(7) follows: an edge is a wake-up, and what was pending before is one only for
a new or a modified registration.
"""

from __future__ import annotations

import errno
from typing import Final

from ..events import ALWAYS, ERR, HUP, IN, OUT, RDNORM, EventMask
from .pollable import DescriptorModel, PollableModel, closed_error

__all__ = ["EpollModel"]

EDGE: Final = 1 << 31
ONE_SHOT: Final = 1 << 30
EXCLUSIVE: Final = 1 << 28
_FLAGS: Final = EDGE | ONE_SHOT | EXCLUSIVE
# What fs/eventpoll.c lets an exclusive waiter ask for.
_ALLOWED_WITH_EXCLUSIVE: Final = IN | OUT | ERR | HUP | EDGE | EXCLUSIVE
_DIRECTIONS: Final = IN | OUT


def key_of(target: DescriptorModel) -> tuple[PollableModel, object]:
    """Return what a registration is found by: the open file and the descriptor's number."""
    return target.file, target if target.number is None else target.number


class _Item:
    """One registration: a descriptor in an epoll."""

    __slots__ = ("epoll", "exclusive", "file", "interest", "key", "target")

    def __init__(self, epoll: EpollModel, target: DescriptorModel, interest: int) -> None:
        self.epoll = epoll
        self.target = target
        self.file = target.file
        self.key = key_of(target)
        self.interest = interest | ALWAYS
        self.exclusive = bool(interest & EXCLUSIVE)

    def look(self) -> int:
        return self.file.look() & self.interest & ~_FLAGS

    def wake(self, key: int) -> bool:
        armed = self.interest & ~_FLAGS
        if not armed or (key and not key & armed):
            return False
        slept = self.epoll.make_ready(self)
        # A thread that sleeps for IN alone is not the one to wake for OUT alone; a
        # wake-up for both directions goes on to the next.
        direction = key & _DIRECTIONS
        return slept and direction != _DIRECTIONS and (not direction or bool(armed & direction))

    def orphan(self) -> None:
        self.epoll.forget(self)


class EpollModel(DescriptorModel, PollableModel):
    """A reference model of an epoll over `VPollModel` and other `EpollModel` descriptors.

    The methods are those of `select.epoll`, but report descriptors, not numbers.  An
    epoll has one descriptor here.  Not modelled: the limits on nesting (five levels) and
    on the number of registrations.  Not for use by several threads: threads that sleep
    in it are modelled by `sleep` and `resume`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._closed = False
        self._items: dict[tuple[PollableModel, object], _Item] = {}
        self._ready: list[_Item] = []
        self._asleep = 0
        self._woken = 0

    @property
    def file(self) -> EpollModel:
        if self._closed:
            raise closed_error()
        return self

    @property
    def closed(self) -> bool:
        return self._closed

    def register(self, target: DescriptorModel, interest: int) -> None:
        """Register `target` for `interest`: events and trigger flags (EPOLL_CTL_ADD).

        Raises OSError: EBADF for a closed descriptor, EEXIST when it is registered,
        EINVAL for itself, for EPOLLEXCLUSIVE with an epoll, with EPOLLONESHOT or with
        events besides IN, OUT, ERR and HUP, ELOOP for an epoll that has this one in it.
        """
        self._check(target)
        nested = isinstance(target, EpollModel)
        if interest & EXCLUSIVE and (nested or interest & ~_ALLOWED_WITH_EXCLUSIVE):
            raise OSError(errno.EINVAL, f"EPOLLEXCLUSIVE does not go with {interest:#x}")
        if isinstance(target, EpollModel) and target.reaches(self):
            raise OSError(errno.ELOOP, "the epoll is registered in the one to register")
        if key_of(target) in self._items:
            raise OSError(errno.EEXIST, "the descriptor is registered already")
        item = _Item(self, target, interest)
        self._items[item.key] = item
        item.file.attach(item)
        self._offer(item)

    def modify(self, target: DescriptorModel, interest: int) -> None:
        """Change what `target` is registered for, and arm it again (EPOLL_CTL_MOD).

        Raises OSError: EBADF for a closed descriptor, ENOENT when it is not registered,
        EINVAL when either interest, old or new, has EPOLLEXCLUSIVE.
        """
        self._check(target)
        if interest & EXCLUSIVE:
            raise OSError(errno.EINVAL, "EPOLLEXCLUSIVE cannot be set by EPOLL_CTL_MOD")
        item = self._find(target)
        if item.exclusive:
            raise OSError(errno.EINVAL, "an exclusive registration cannot be modified")
        item.interest = interest | ALWAYS
        self._offer(item)

    def unregister(self, target: DescriptorModel) -> None:
        """Remove `target` (EPOLL_CTL_DEL).

        Raises OSError: EBADF for a closed descriptor, whose registration lives until the
        last duplicate is closed, ENOENT when it is not registered, EINVAL for itself.
        """
        self._check(target)
        self.forget(self._find(target))

    def wait(self, maxevents: int | None = None) -> list[tuple[DescriptorModel, EventMask]]:
        """Return what epoll_wait(2) with a time-out of 0 reports, in its order.

        maxevents -- how many at the most; None for all of them

        Raises OSError (EBADF) when closed.
        """
        scanned, self._ready = self.file._ready, []
        told: list[tuple[DescriptorModel, EventMask]] = []
        while scanned and (maxevents is None or len(told) < maxevents):
            item = scanned.pop(0)
            seen = item.look()
            if not seen:
                continue
            told.append((item.target, EventMask(seen)))
            if item.interest & ONE_SHOT:
                item.interest &= _FLAGS
            elif not item.interest & EDGE:
                self._ready.append(item)
        self._ready = scanned + self._ready
        return told

    def sleep(self) -> bool:
        """Let a thread sleep in it, unless there is something to report.

        Returns whether it sleeps.
        """
        if self.look():
            return False
        self._asleep += 1
        return True

    def resume(self) -> list[tuple[DescriptorModel, EventMask]]:
        """Return what a thread that was woken reports; nothing where none was woken.

        One that finds nothing to report goes back to sleep.
        """
        if not self._woken:
            return []
        self._woken -= 1
        told = self.wait()
        if not told:
            self._asleep += 1
        return told

    def look(self) -> int:
        """Return IN|RDNORM when `wait` would report something, else 0."""
        while self._ready:
            if self._ready[0].look():
                return IN | RDNORM
            self._ready.pop(0)
        return 0

    def close(self) -> None:
        """Close it.  What it is registered in forgets it.  Closing twice is allowed."""
        if not self._closed:
            self._closed = True
            for item in tuple(self._items.values()):
                self.forget(item)
            self.release()

    def reaches(self, other: EpollModel) -> bool:
        """Return whether `other` is registered in this epoll, or in one that is in it."""
        inner = [item.file for item in self._items.values() if isinstance(item.file, EpollModel)]
        return any(epoll is other or epoll.reaches(other) for epoll in inner)

    def make_ready(self, item: _Item) -> bool:
        """Put `item` on the ready list; return whether that woke a sleeping thread."""
        if item not in self._ready:
            self._ready.append(item)
        slept = self._asleep > 0
        if slept:
            self._asleep -= 1
            self._woken += 1
        self.wake_all(IN)
        return slept

    def forget(self, item: _Item) -> None:
        """Drop one registration."""
        del self._items[item.key]
        if item in self._ready:
            self._ready.remove(item)
        item.file.detach(item)

    def _offer(self, item: _Item) -> None:
        if item.look() and item not in self._ready:
            self.make_ready(item)

    def _check(self, target: DescriptorModel) -> None:
        if self.closed or target.closed:
            raise closed_error()
        if target is self:
            raise OSError(errno.EINVAL, "an epoll cannot be registered in itself")

    def _find(self, target: DescriptorModel) -> _Item:
        item = self._items.get(key_of(target))
        if item is None:
            raise OSError(errno.ENOENT, "the descriptor is not registered")
        return item
