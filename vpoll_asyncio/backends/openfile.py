"""What the duplicates of a vpoll share, as descriptors share a ``struct file``.

Operations on a vpoll without a kernel object are one assignment each, between two
bytecodes at which the interpreter would run a signal handler.  With a kernel object
an operation has system calls in its middle, where a handler or a finalizer may come
in and operate the same vpoll.  So it becomes one entry in a queue, the append being
the moment it happens; whoever finds the vpoll busy leaves its entry to the operation
that it interrupted.  Each command is idempotent: an entry that is counted twice,
because a handler looks just then, changes nothing.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable

from ..events import ERR, IN, OUT
from . import choose
from .base import ADD, DEL, SET, Backend, Mirror
from .forks import FORKS

__all__ = ["OpenFile"]


class OpenFile:
    """Mask, wait queue and kernel object of one vpoll.

    `mask` is in force while `pending` is None, that is without a kernel object; then
    it is read and assigned directly, under `lock`.  With one, `operate` and `current`
    take their place.  Parameters as for `VPoll`.
    """

    __slots__ = (
        "backend",
        "busy",
        "generation",
        "handles",
        "lent",
        "lock",
        "map_err",
        "mask",
        "mirror",
        "need",
        "pending",
        "retired",
        "waiters",
    )

    def __init__(self, mask: int, backend: Backend | None, need: int, map_err: bool) -> None:
        self.mask = mask
        self.waiters: tuple[Callable[[int], object], ...] = ()
        self.lock = threading.RLock()
        self.mirror: Mirror | None = None
        self.pending: deque[tuple[int, int]] | None = None
        self.retired: deque[int] = deque()
        self.busy = False
        # Whether a handle has given the mirror's own descriptor away.
        self.lent = False
        self.backend = backend
        self.need = need
        self.map_err = map_err
        self.handles = 1
        self.generation = FORKS.value

    def adopt(self) -> None:
        """Make what a forked child inherited fit for use.

        A thread that the child lacks may have held the lock; what it was doing to the
        kernel object, it does in the parent.
        """
        with FORKS.adoption:
            if self.generation == FORKS.value:
                return
            self.lock = threading.RLock()
            self.busy = False
            if self.pending is not None:
                self._drop_queue()
                if self.mirror is not None:
                    self.pending = deque()
            self.generation = FORKS.value

    def shown(self, mask: int) -> int:
        """Return what the kernel object is to show for `mask`."""
        if self.map_err and mask & ERR:
            return (mask & ~ERR) | IN | OUT
        return mask

    def operate(self, command: int, argument: int) -> OSError | None:
        """Carry out one operation where `pending` is not None.  Called under the lock.

        Returns what the kernel object answered, when that was an error: the mask has
        changed all the same, with ERR when the kernel object is gone, and waiters are
        to be told.  Raises as `Mirror.check_owner` does; then nothing has changed.
        """
        pending = self.pending
        assert pending is not None
        if self.mirror is not None:
            self.mirror.check_owner()
        pending.append((command, argument))
        return self.settle()

    def settle(self) -> OSError | None:
        """Carry out what waits, unless an interrupted caller will.  Called under the lock."""
        failure = None
        while not self.busy and self.mirror is not None and (self.pending or self.retired):
            self.busy = True
            try:
                while self.pending:
                    command, argument = self.pending[0]
                    self.mask = after(self.mask, command, argument)
                    self.pending.popleft()
                    try:
                        self._apply(self.mirror, command, argument)
                    except OSError as error:
                        failure = error
                        if self.mirror.failed:
                            self.mask |= ERR
                while self.retired:
                    self._give_back(self.mirror, self.retired.popleft())
            except OSError as error:
                failure = error
            finally:
                self.busy = False
        return failure

    def _apply(self, mirror: Mirror, command: int, argument: int) -> None:
        if self.map_err:
            shown = self.shown(self.mask)
            mirror.apply(SET, shown, shown)
        else:
            self.mask = mirror.apply(command, argument, self.mask)

    def current(self) -> int:
        """Return the mask in force, where `pending` is not None.

        Raises OSError when the kernel object is asked for it and is gone.
        """
        with self.lock:
            mirror = self.mirror
            if (
                mirror is not None
                and mirror.shared
                and not (self.busy or self.pending or self.map_err)
            ):
                return mirror.read_mask(self.mask)
            mask = self.mask
            for command, argument in tuple(self.pending or ()):
                mask = after(mask, command, argument)
            return mask

    def _drop_queue(self) -> None:
        while True:
            pending = self.pending
            if not pending:
                self.pending = None
                return
            self.mask = after(self.mask, *pending[0])
            pending.popleft()

    def open_mirror(self) -> Mirror:
        """Return the kernel object, making it on the first call.  Called under the lock.

        Raises OSError when no backend qualifies or the kernel refuses.
        """
        if self.mirror is not None:
            return self.mirror
        backend = self.backend
        if backend is None:
            backend = choose(self.need)
        # First of all: operations that interrupt `create` then wait in the queue.
        if self.pending is None:
            self.pending = deque()
        outermost, self.busy = not self.busy, True
        try:
            made = backend.create(self.shown(self.mask))
        except OSError:
            if outermost and self.mirror is None:
                self._drop_queue()
            raise
        finally:
            if outermost:
                self.busy = False
        mirror = self._install(backend, made)
        if failure := self.settle():
            raise failure
        return mirror

    def _install(self, backend: Backend, made: Mirror) -> Mirror:
        if self.mirror is None and self.handles:
            self.backend = backend
            self.mirror = made
            return made
        # A signal handler has closed the vpoll meanwhile, or made the object itself.
        made.release(made.fd)
        made.close()
        if self.mirror is None:
            raise OSError(errno.EBADF, "the vpoll was closed while its descriptor was made")
        return self.mirror

    def close_handle(self, fd: int) -> OSError | None:
        """Take back one handle and its descriptor `fd` (-1: none).  Called under the lock.

        Returns the error of closing, if there was one.
        """
        self.handles -= 1
        if self.handles == 0:
            self.waiters = ()
        if self.mirror is None:
            return None
        self.retired.append(fd)
        return self.settle()

    def _give_back(self, mirror: Mirror, fd: int) -> None:
        if self.handles:
            if fd < 0:
                return
            if fd == mirror.fd:
                try:
                    mirror.move(mirror.dup())
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                        raise
                    # The mirror keeps this number, as there is no other to work through.
                    self.lent = False
                    return
                self.lent = False
            mirror.release(fd)
            return
        self.mirror = self.pending = None
        numbers = {fd, mirror.fd, *self.retired}
        self.retired.clear()
        failure = None
        for number in numbers:
            if number >= 0:
                try:
                    mirror.release(number)
                except OSError as error:
                    failure = error
        mirror.close()
        if failure is not None:
            raise failure


def after(mask: int, command: int, argument: int) -> int:
    """Return what `command` (ADD, DEL or SET) makes of `mask`."""
    if command == ADD:
        return mask | argument
    if command == DEL:
        return mask & ~argument
    return argument
