"""Watching a descriptor of the kernel for any events, on any loop there is.

Event loops know readable and writable.  An epoll is itself a descriptor, readable
while an event that it was told to watch for is pending on something in it.  So one
epoll a watched descriptor carries any mask through ``add_reader``, and does not meet
what the loop, a transport or another watch has registered for that descriptor.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

from .relay import named
from .selector import vpoll_of
from .vpoll import VPoll

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["DescriptorWatch", "file_of"]


def file_of(fileobj: FileDescriptorLike) -> VPoll | int:
    """Return the vpoll that `fileobj` stands for, or else the kernel's descriptor.

    `fileobj` is what `vpoll_of` takes, a descriptor, or an object with ``fileno()``.
    Raises OSError (EBADF) for a descriptor below 0, as that of a closed socket, and for
    a virtual number without a vpoll; TypeError for what is no file; what ``fileno()``
    raises.
    """
    vpoll = vpoll_of(fileobj)
    if vpoll is not None:
        return vpoll
    if isinstance(fileobj, int):
        number = fileobj
    else:
        fileno = getattr(fileobj, "fileno", None)
        if fileno is None:
            raise TypeError(
                f"{fileobj!r} is no file: expected a descriptor, an object with fileno(), "
                "a VPoll or a user socket"
            )
        number = fileno()
    if number < 0:
        raise OSError(errno.EBADF, f"{fileobj!r} is closed: its descriptor is {number}")
    return vpoll_of(number) or number


class DescriptorWatch:
    """Calls `callback(mask)` in `loop` while an event of `interest` is pending on `fd`.

    It is to a descriptor of the kernel what `Watch` is to a vpoll: level-triggered, the
    argument being the pending part of `interest` with ERR and HUP; exceptions of the
    callback go to the loop's exception handler; `label` is the function that debug mode
    names.  Methods are for the loop's thread.

    What is watched is the open file, as epoll has it: once its last descriptor is
    closed nothing more is heard of it, whatever gets the number next.

    Raises OSError: EBADF when `fd` is closed, PermissionError (EPERM) for a file that
    is always ready, ELOOP when the loop itself is in `fd`, EMFILE, ENFILE.
    """

    __slots__ = ("_callback", "_epoll", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        interest: int,
        callback: Callable[[int], object],
        *,
        label: Callable[..., object] | None = None,
    ) -> None:
        self._loop = loop
        self._callback = callback
        # A number that is free would be the epoll's own.
        fcntl.fcntl(fd, fcntl.F_GETFD)
        self._epoll = select.epoll()
        try:
            self._epoll.register(fd, interest)
            run = self._run if label is None else named(self._run, label)
            loop.add_reader(self._epoll.fileno(), run)
        except BaseException:
            self._epoll.close()
            raise

    def cancel(self) -> None:
        """End the watch: no call comes any more.  Cancelling twice is allowed."""
        if not self._epoll.closed:
            try:
                self._loop.remove_reader(self._epoll.fileno())
            finally:
                self._epoll.close()

    def _run(self) -> None:
        # The event may have gone meanwhile, by an earlier callback of the same turn.
        if not self._epoll.closed:
            for _, seen in self._epoll.poll(0, 1):
                self._callback(seen)
