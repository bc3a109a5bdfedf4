"""What a vpoll is, in plain Python without a system call: a mask, a wait queue, descriptors.

The rules are those that were observed of EFD_VPOLL and of ``/dev/vpoll``
(``docs/reference/kernel-differences.md``) and of Linux' own epoll: `VPollModel` is one descriptor
of a vpoll, `EpollModel` an epoll over such descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from ..events import EventMask, check_mask
from .pollable import DescriptorModel, PollableModel, closed_error

__all__ = ["VPollModel"]


class _OpenVPoll(PollableModel):
    """What the duplicates of one vpoll share."""

    def __init__(self, mask: int, keyed: bool) -> None:
        super().__init__()
        self.mask = mask
        self.keyed = keyed
        self.descriptors = 1
        self.waiters: list[Callable[[int], object]] = []

    def look(self) -> int:
        return self.mask

    def operate(self, mask: int) -> int:
        self.mask = mask
        for waiter in tuple(self.waiters):
            waiter(mask)
        self.wake_all(mask if self.keyed else 0)
        return mask


class VPollModel(DescriptorModel):
    """A reference model of one descriptor of a vpoll.

    Parameters:
    events -- the first event mask, bits 0 to 27
    keyed -- whether a wake-up tells which events are pending, as EFD_VPOLL and
        ``/dev/vpoll`` have it; that of `fuse` does not.  The difference is seen by
        an edge-triggered waiter for an epoll in which something else is pending, and
        by exclusive waiters.

    Methods have the names that `VPoll` gives them.  Every operation that succeeds wakes
    all watchers and waiters with the whole current mask, a repeated one too.  Not for
    use by several threads.

    Raises ValueError for bits outside 0 to 27.
    """

    def __init__(self, events: int = 0, *, keyed: bool = True) -> None:
        self._file: _OpenVPoll | None = _OpenVPoll(check_mask(events), keyed)

    @property
    def file(self) -> _OpenVPoll:
        if self._file is None:
            raise closed_error()
        return self._file

    @property
    def closed(self) -> bool:
        return self._file is None

    @property
    def events(self) -> EventMask:
        """The pending events.  Raises OSError (EBADF) when closed."""
        return EventMask(self.file.mask)

    def add_events(self, mask: int) -> int:
        """Add `mask` to the pending events, wake everybody, return the new mask.

        Raises ValueError for bits outside 0 to 27, which changes nothing and wakes
        nobody, and OSError (EBADF) when closed.
        """
        added = check_mask(mask)
        return self.file.operate(self.file.mask | added)

    def del_events(self, mask: int) -> int:
        """Remove `mask` from the pending events; else as `add_events`."""
        removed = check_mask(mask)
        return self.file.operate(self.file.mask & ~removed)

    def set_events(self, mask: int) -> int:
        """Make `mask` the pending events; else as `add_events`."""
        wanted = check_mask(mask)
        return self.file.operate(wanted)

    def add_waiter(self, waiter: Callable[[int], object]) -> None:
        """Call `waiter` with the whole mask after every operation from now on.

        Raises OSError (EBADF) when closed.
        """
        self.file.waiters.append(waiter)

    def remove_waiter(self, waiter: Callable[[int], object]) -> bool:
        """Take `waiter` from the wait queue; return whether it was there."""
        if self._file is None or waiter not in self._file.waiters:
            return False
        self._file.waiters.remove(waiter)
        return True

    def dup(self) -> VPollModel:
        """Return another descriptor of the same vpoll.  Raises OSError (EBADF) when closed."""
        file = self.file
        twin = VPollModel()
        twin._file = file
        file.descriptors += 1
        return twin

    def close(self) -> None:
        """Close this descriptor.  Closing twice is allowed.

        Nobody is woken.  What is registered in an epoll stays there, and is reported,
        until the last descriptor is closed.
        """
        file, self._file = self._file, None
        if file is not None:
            file.descriptors -= 1
            if not file.descriptors:
                file.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
