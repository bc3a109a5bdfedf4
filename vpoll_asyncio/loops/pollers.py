"""Pollers: callbacks that get the exact mask of what they poll.

A vpoll is watched by its wait queue, a descriptor of the kernel by an epoll of its own,
which the loop watches as a reader.  A poller is thus independent of the readers and
writers of the same descriptor, and of a transport's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..descriptors import DescriptorWatch, file_of
from ..events import ALWAYS, EventMask, check_mask
from ..vpoll import VPoll
from ..watch import Watch

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["Pollers"]


class Pollers:
    """The pollers of one loop, one for each file."""

    def __init__(self) -> None:
        self._watches: dict[VPoll | int, tuple[object, Watch | DescriptorWatch]] = {}

    def add(
        self,
        loop: asyncio.AbstractEventLoop,
        fileobj: FileDescriptorLike,
        mask: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        """Have `loop` call ``callback(*args, seen)``; see `DispatchMixin.add_poller`."""
        wanted = check_mask(mask)
        file = file_of(fileobj)

        def report(seen: int) -> None:
            callback(*args, EventMask(seen))

        label = callback if loop.get_debug() else None
        watch: Watch | DescriptorWatch
        if isinstance(file, VPoll):
            watch = Watch(loop, file, wanted | ALWAYS, report, label=label)
        else:
            watch = DescriptorWatch(loop, file, wanted, report, label=label)
        old = self._watches.get(file)
        self._watches[file] = (fileobj, watch)
        if old is not None:
            old[1].cancel()

    def remove(self, fileobj: FileDescriptorLike) -> bool:
        """Remove the poller of `fileobj`, open or closed; return whether there was one."""
        file: VPoll | int | None
        try:
            file = file_of(fileobj)
        except (OSError, ValueError):
            file = self._closed(fileobj)
        if file is None or file not in self._watches:
            return False
        self._watches.pop(file)[1].cancel()
        return True

    def _closed(self, fileobj: object) -> VPoll | int | None:
        for file, (known, _) in self._watches.items():
            if known is fileobj or (isinstance(fileobj, int) and known == fileobj):
                return file
        return None

    def clear(self) -> None:
        """Remove all of them."""
        while self._watches:
            self._watches.popitem()[1][1].cancel()
