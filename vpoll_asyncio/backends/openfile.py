"""What the duplicates of a vpoll share, as descriptors share a ``struct file``.

Operations on a vpoll without a kernel object are one assignment each, between two
bytecodes at which the interpreter would run a signal handler.  With a kernel object
an operation has system calls in its middle, where a handler or a finalizer may come
in and operate the same vpoll.  So it becomes one entry in a queue, the append being
the moment it happens; whoever finds the vpoll busy leaves its entry to the operation
that it interrupted.  Each command is idempotent: an entry that is counted twice,
because a handler looks just then, changes nothing.

The lock costs more than the rest of an operation, and most vpolls are operated by one
thread only.  So the first thread that operates the kernel object gets the *bias*: its
operations are *direct*, without lock and queue, when nobody is at it, until another
thread comes.  That one takes the bias away for ever, waits until a direct operation
that is under way has ended, and from then on everybody takes the lock.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from threading import get_ident
from typing import Final
from weakref import WeakSet

from ..events import ERR, IN, OUT
from ..hot.vpoll import DirectState
from . import choose
from .base import ADD, DEL, SET, Backend, Mirror
from .forks import FORKS

__all__ = ["NOBODY", "OpenFile"]

# No thread has these identifiers.
NOBODY: Final = 0
_ANYBODY: Final = -1

_PAUSE: Final = 50e-6  # seconds

# Stands for the queue of retired descriptors until there is a kernel object: empty for ever.
_NO_DESCRIPTORS: Final[deque[int]] = deque(maxlen=0)


class OpenFile(DirectState):
    """Mask, wait queue and kernel object of one vpoll.

    `mask` is in force while `pending` is None, that is without a kernel object; then
    it is read and assigned directly, with no call between the look at `pending` and the
    assignment: no handler and no other thread comes in there.  With a kernel object,
    `operate` and `current` take their place.  Parameters as for `VPoll`.
    """

    __slots__ = (
        "__weakref__",
        "backend",
        "busy",
        "generation",
        "handles",
        "lock",
        "map_err",
        "mirror",
        "need",
        "retired",
    )

    def __init__(self, mask: int, backend: Backend | None, need: int, map_err: bool) -> None:
        super().__init__(mask)
        # Made on demand: duplicates without a kernel object never need it.
        self.lock: threading.RLock | None = None
        self.mirror: Mirror | None = None
        self.retired = _NO_DESCRIPTORS
        # Whether anything may be in either queue.
        self.waiting = False
        self.busy = False
        # The thread whose operations may be direct: the first to operate the mirror.
        self.bias = _ANYBODY
        # The same, while nothing is under way or waits.
        self.ready = NOBODY
        # The mirror's, where somebody has the bias.
        self.apply = after
        # The thread that is at a direct operation.
        self.direct = NOBODY
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
            self.lock = None
            self.busy = False
            self.ready = self.direct = NOBODY
            self.bias = _ANYBODY
            if self.mirror is not None:
                self.mirror.guarded = True
                self.bias = NOBODY
            if self.pending is not None:
                self._drop_queue()
                if self.mirror is not None:
                    self.pending = deque()
            self.generation = FORKS.value

    def guard(self) -> threading.RLock:
        """Return the lock for whatever is more than one assignment."""
        lock = self.lock
        if lock is None:
            made = threading.RLock()
            if self.lock is None:
                self.lock = made
            lock = self.lock
        return lock

    def shown(self, mask: int) -> int:
        """Return what the kernel object is to show for `mask`."""
        if self.map_err and mask & ERR:
            return (mask & ~ERR) | IN | OUT
        return mask

    def operate(self, command: int, argument: int) -> int:
        """Carry out one operation where `pending` is not None; return the new mask.

        Calls the waiters.  Raises what the kernel object answered, when that was an error:
        the mask has changed all the same, with ERR when the kernel object is gone, and the
        waiters have been told.  Raises as `Mirror.check_owner` does; then nothing has
        changed.

        `VPoll` spares itself the call for a direct operation: where `ready` is this
        thread's identifier, it moves that to `direct`, changes the mask, has `apply` change
        the mirror, and makes `direct` NOBODY.  `end_direct` does the rest where something
        has come in between; else `ready` is `bias` again.
        """
        if self.generation != FORKS.value:
            self.adopt()
        me = get_ident()
        done = False
        while not done:
            if self.bias != me:
                self.disturb(me)
            with self.guard():
                done, new, failure = self._operate_locked(command, argument, me)
        return self._tell(new, failure)

    def end_direct(self, failure: OSError | None = None) -> int:
        """Do what is left of a direct operation to which something has come in between.

        failure -- what the mirror raised

        Returns and raises as `operate` does.
        """
        self.direct = NOBODY
        if failure is not None:
            self._note_failure()
        self.disturb()
        with self.guard():
            failure = self.settle() or failure
            self._let_go()
            new = self._known()
        return self._tell(new, failure)

    def _tell(self, new: int, failure: OSError | None) -> int:
        for waiter in self.waiters:
            waiter(new)
        if failure is not None:
            raise failure
        return new

    def _let_go(self) -> None:
        if self.busy or self.direct or self.pending or self.retired:
            return
        self.waiting = False
        # A handler may have forked, and this be the child.
        if self.generation == FORKS.value:
            self.ready = self.bias

    def _operate_locked(
        self, command: int, argument: int, me: int
    ) -> tuple[bool, int, OSError | None]:
        pending = self.pending
        if pending is None:
            # Closed meanwhile, or no kernel object could be made.
            # One statement each, as in `VPollState`, whose operations take no lock.
            if command == ADD:
                new = self.mask = self.mask | argument
            elif command == DEL:
                new = self.mask = self.mask & ~argument
            else:
                new = self.mask = argument
            return True, new, None
        if self.bias == _ANYBODY and self.mirror is not None and not self.map_err:
            _biased.add(self)
            self.apply = self.mirror.apply
            self.bias = me
        elif self.bias != me:
            self.bias = self.ready = NOBODY
        if self.direct != NOBODY and self.direct != me:
            # It has got the bias since we looked, and is at it already.
            return False, 0, None
        mirror = self.mirror
        if mirror is not None and mirror.guarded:
            mirror.check_owner()
        failure = None
        if mirror is None or self.busy or self.direct or pending or self.retired or self.map_err:
            self.waiting = True
            pending.append((command, argument))
        else:
            # As good as alone, and without the queue.
            self.busy = True
            self.ready = NOBODY
            try:
                if command == ADD:
                    self.mask |= argument
                elif command == DEL:
                    self.mask &= ~argument
                else:
                    self.mask = argument
                self.mask = mirror.apply(command, argument, self.mask)
            except OSError as error:
                failure = error
                self._note_failure()
            finally:
                self.busy = False
        if pending or self.retired:
            failure = self.settle() or failure
        self._let_go()
        return True, self._known() if self.pending else self.mask, failure

    def disturb(self, me: int | None = None) -> None:
        """Take the bias from another thread; return when that is at no direct operation.

        To be called before `lock` is taken for longer, and not under it.
        """
        if me is None:
            me = get_ident()
        if self.bias == me or self.bias == _ANYBODY:
            return
        self.bias = self.ready = NOBODY
        while self.direct != NOBODY and self.direct != me:
            time.sleep(_PAUSE)

    def _note_failure(self) -> None:
        if self.mirror is not None and self.mirror.failed:
            self.mask |= ERR
            self.mirror.guarded = True
            self.bias = self.ready = NOBODY

    def settle(self) -> OSError | None:
        """Carry out what waits, unless an interrupted caller will.  Called under the lock."""
        failure = None
        while (
            not self.busy
            and self.direct == NOBODY
            and self.mirror is not None
            and (self.pending or self.retired)
        ):
            self.busy = True
            self.ready = NOBODY
            try:
                while self.pending:
                    command, argument = self.pending[0]
                    self.mask = after(self.mask, command, argument)
                    self.pending.popleft()
                    try:
                        self._apply(self.mirror, command, argument)
                    except OSError as error:
                        failure = error
                        self._note_failure()
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
        mirror = self.mirror
        if mirror is None or not mirror.shared or self.map_err:
            mask = self.mask
            if not self.pending:
                return mask
            with self.guard():
                return self._known()
        self.disturb()
        with self.guard():
            mirror = self.mirror
            if mirror is None or self.busy or self.direct or self.pending:
                return self._known()
            return mirror.read_mask(self.mask)

    def _known(self) -> int:
        """Return the mask with what waits in the queue.  Called under the lock."""
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
            if self.retired is _NO_DESCRIPTORS:
                self.retired = deque()
            self.pending = deque()
        outermost, self.busy = not self.busy, True
        try:
            made = backend.create(self.shown(self.mask))
        except BaseException:
            if outermost and self.mirror is None:
                self._drop_queue()
            raise
        finally:
            if outermost:
                self.busy = False
        mirror = self._install(backend, made)
        if failure := self.settle():
            raise failure
        self._let_go()
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
        return None if self.mirror is None else self.retire(fd)

    def retire(self, fd: int) -> OSError | None:
        """Take back the descriptor `fd` of a handle that stays open.  Called under the lock.

        Returns the error of closing, if there was one.
        """
        self.waiting = True
        self.retired.append(fd)
        failure = self.settle()
        self._let_go()
        return failure

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
                    mirror.lent = False
                    return
                mirror.lent = False
            mirror.release(fd)
            return
        self.bias = self.ready = NOBODY
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


_biased: Final[WeakSet[OpenFile]] = WeakSet()


def _forget_biases() -> None:
    for file in _biased:
        file.bias = file.ready = NOBODY


# A child's first thread has the identifier of the thread that forked.
os.register_at_fork(after_in_child=_forget_biases)
