"""`wait_events`: waiting for any event of anything that can be polled, on any loop."""

from __future__ import annotations

import asyncio
import errno
import select
from typing import TYPE_CHECKING, Final

from .descriptors import DescriptorWatch, file_of
from .events import ALWAYS, EventMask, check_mask
from .sockets import UserSocket
from .transports import sockops
from .vpoll import VPoll
from .watch import Watch

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["wait_events"]

# poll(2) keeps events in 16 bits.
_POLLED: Final = 0xFFFF


async def wait_events(fileobj: FileDescriptorLike, mask: int) -> EventMask:
    """Wait until an event of `mask` is pending on `fileobj`; return what is.

    fileobj -- a descriptor or an object with ``fileno()``; or a VPoll, a user socket or a
        virtual number, which are waited for by their wait queue and need no descriptor
    mask -- any events (`EventMask`, ``select.EPOLL*``), bits 0 to 27: PRI, RDHUP or ERR
        alone, too.  ERR and HUP end every wait, as with poll(2).

    It works in every event loop: stock asyncio, uvloop, those of this package.  What is
    returned was pending a moment ago; nothing is consumed, so that the next wait for the
    same events returns at once.  Any number of tasks may wait for one object, beside its
    readers and its transport.  Cancelling leaves nothing registered.

    What another process does to a vpoll that it shares by fork(2) is seen through the
    descriptor only: wait for ``vpoll.fileno()`` then.

    A file that epoll refuses since it is always ready, such as one on disk, is ready for
    IN, OUT, RDNORM and WRNORM as poll(2) has it, and never for anything else.

    Closing what is waited for does not end the wait, as it does not end epoll's, and the
    next file with its number is another one; a user socket that is closed raises OSError
    (EBADF) here, and so does a VPoll whose duplicate then gets an event.

    Raises ValueError for bits outside 0 to 27, OSError: EBADF when `fileobj` is closed,
    EMFILE, ENFILE, and TypeError for what is no file.
    """
    wanted = check_mask(mask)
    loop = asyncio.get_running_loop()
    if isinstance(fileobj, UserSocket):
        seen = await sockops.wait_ready(loop, fileobj, wanted | ALWAYS)
        return EventMask(seen)
    file = file_of(fileobj)
    pending: asyncio.Future[int] = loop.create_future()
    wait = _Wait(pending)
    watch: Watch | DescriptorWatch
    if isinstance(file, VPoll):
        watch = Watch(loop, file, wanted | ALWAYS, wait.report, owner=wait)
    else:
        try:
            watch = DescriptorWatch(loop, file, wanted, wait.report)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            if ready := _poll(file, wanted):
                loop.call_soon(wait.report, ready)
            return EventMask(await pending)
    try:
        return EventMask(await pending)
    finally:
        watch.cancel()


class _Wait:
    def __init__(self, pending: asyncio.Future[int]) -> None:
        self._pending = pending

    def report(self, seen: int) -> None:
        if not self._pending.done():
            self._pending.set_result(seen)

    def vpoll_closed(self) -> None:
        if not self._pending.done():
            self._pending.set_exception(
                OSError(errno.EBADF, "the vpoll was closed during the wait")
            )


def _poll(fd: int, mask: int) -> int:
    poll = select.poll()
    poll.register(fd, mask & _POLLED)
    return next((seen for _, seen in poll.poll(0)), 0)
