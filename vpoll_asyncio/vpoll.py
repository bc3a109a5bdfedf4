"""VPoll: a descriptor whose pending events user space sets.

The kernel keeps two things for whatever can be polled: a mask (``f_op->poll``) and
a wait queue.  A `VPoll` is those two in user space.  Waiters of this process sit on
the queue and need no descriptor; a backend is one more waiter, which mirrors the
mask into a kernel object once somebody asks for `VPoll.fileno`.

Wake-ups cannot be lost: an operation first publishes the mask, then calls every
waiter, in the thread of whoever sets.  It may be a signal handler or a finalizer
that interrupted another operation in the same thread, hence the re-entrant lock and
the queue of mirror operations that the interrupted one carries out.
"""

from __future__ import annotations

import errno
import threading
import warnings
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, Self

from .backends import by_name, choose
from .backends.base import ADD, DEL, SET, Backend, Mirror
from .backends.virtual import VirtualMirror, number_of
from .events import ALWAYS, ERR, IN, KEPT, OUT, REFUSED, EventMask, bad_mask, check_mask

__all__ = ["VPoll", "Waiter"]

Waiter = Callable[[int], object]
"""Called with the whole current mask after every operation on a vpoll.

It runs in whichever thread set the events, perhaps inside a signal handler, so it
must be quick, must not block and must not raise.
"""

_DEFAULT_NEED: Final = EventMask.IN | EventMask.OUT


class _OpenFile:
    """What duplicates share: the kernel's ``struct file``."""

    __slots__ = (
        "applying",
        "backend",
        "handles",
        "lock",
        "map_err",
        "mask",
        "mirror",
        "need",
        "pending",
        "waiters",
    )

    def __init__(self, mask: int, backend: Backend | None, need: int, map_err: bool) -> None:
        self.mask = mask
        self.waiters: tuple[Waiter, ...] = ()
        self.lock = threading.RLock()
        self.mirror: Mirror | None = None
        self.pending: deque[tuple[int, int]] | None = None
        self.applying = False
        self.backend = backend
        self.need = need
        self.map_err = map_err
        self.handles = 1

    def shown(self, mask: int) -> int:
        if self.map_err and mask & ERR:
            return (mask & ~ERR) | IN | OUT
        return mask

    def open_mirror(self, *, refusing_read: bool) -> Mirror:
        """Return the mirror, making it on the first call.  Called under the lock."""
        if self.mirror is None:
            if self.backend is None:
                self.backend = choose(self.need, refusing_read=refusing_read)
            # `pending` first: an operation that interrupts `create` is then replayed.
            self.pending = deque()
            mirror = self.backend.create(self.shown(self.mask))
            self.mirror = mirror
            self.mirror_operation(SET, self.mask)
        return self.mirror

    def mirror_operation(self, command: int, argument: int) -> None:
        """Pass one operation to the mirror, in order.  Called under the lock."""
        pending, mirror = self.pending, self.mirror
        assert pending is not None
        pending.append((command, argument))
        if mirror is None:
            return
        # Whoever interrupts this thread in here finds `applying` set and leaves its
        # operation in the queue, which is looked at again after `applying` is reset.
        while pending and not self.applying:
            self.applying = True
            try:
                while pending:
                    command, argument = pending.popleft()
                    if self.map_err:
                        mirror.apply(SET, self.shown(self.mask), self.shown(self.mask))
                    else:
                        self.mask = mirror.apply(command, argument, self.mask)
            finally:
                self.applying = False


class VPoll:
    """A set of pending events with a wait queue, and a descriptor on demand.

    Parameters:
    events -- the first event mask, bits 0 to 27
    backend -- name of the backend that `fileno` uses (`backends` lists them); None
        for the fastest available one whose exact set covers `need`
    need -- events that the descriptor must raise and clear exactly
    map_err -- the descriptor shows ERR as IN|OUT, for libuv, which gives up a
        descriptor at its first ERR; `events` keeps the true mask

    Every method may be called from any thread and from signal handlers.  Each
    operation that succeeds wakes all waiters with the whole current mask, a
    repeated one too (as EFD_VPOLL does).

    After fork(2) a child has a copy of the mask, but a kernel object is shared: on
    the backends that are one kernel object (`eventfd`, `device`) the child's
    operations reach every holder; on a pair the mask's owner is the parent, and
    operations of the child raise PermissionError (EPERM).  A VPoll cannot be
    pickled (TypeError), and one that is collected open gives a ResourceWarning.

    Raises ValueError for a bad mask or an unknown backend, OSError (ENOSYS) when the
    named backend is not available here.
    """

    __slots__ = ("__weakref__", "_fd", "_file")

    _file: _OpenFile | None

    def __init__(
        self,
        events: int = 0,
        *,
        backend: str | None = None,
        need: int = _DEFAULT_NEED,
        map_err: bool = False,
    ) -> None:
        self._file = None
        self._fd = -1
        mask, need = check_mask(events), check_mask(need)
        chosen = None if backend is None else by_name(backend)
        self._file = _OpenFile(mask, chosen, need, bool(map_err))

    def add_events(self, mask: int) -> int:
        """Add `mask` to the pending events, wake the waiters, return the new mask.

        Raises ValueError for bits outside 0 to 27 (nothing is changed) and OSError:
        EBADF when the vpoll is closed, or what the kernel object answers.
        """
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self._file
        if file is None:
            self._raise_closed()
        with file.lock:
            # One statement without a call in it: a signal handler runs before or after.
            file.mask = file.mask | mask
            if file.pending is not None:
                file.mirror_operation(ADD, mask)
            new = file.mask
        for waiter in file.waiters:
            waiter(new)
        return new

    def del_events(self, mask: int) -> int:
        """Remove `mask` from the pending events, wake the waiters, return the new mask.

        Raises as `add_events` does.
        """
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self._file
        if file is None:
            self._raise_closed()
        with file.lock:
            file.mask = file.mask & ~mask
            if file.pending is not None:
                file.mirror_operation(DEL, mask)
            new = file.mask
        for waiter in file.waiters:
            waiter(new)
        return new

    def set_events(self, mask: int) -> int:
        """Make `mask` the pending events, wake the waiters, return the new mask.

        Raises as `add_events` does.
        """
        if mask & REFUSED:
            raise bad_mask(mask)
        file = self._file
        if file is None:
            self._raise_closed()
        with file.lock:
            file.mask = mask
            if file.pending is not None:
                file.mirror_operation(SET, mask)
            new = file.mask
        for waiter in file.waiters:
            waiter(new)
        return new

    @property
    def events(self) -> EventMask:
        """The pending events: the true mask, whatever the backend can show of it.

        Raises OSError (EBADF) when the vpoll is closed.
        """
        return EventMask(self.peek())

    def peek(self) -> int:
        """Return the pending events as a plain int.  Raises OSError (EBADF) when closed."""
        file = self._file
        if file is None:
            self._raise_closed()
        return file.mask

    def add_waiter(self, waiter: Waiter) -> None:
        """Call `waiter` with the whole mask after every operation from now on.

        A waiter that is added twice is called twice.  Look at `events` after adding:
        what was pending before brings no call.  Raises OSError (EBADF) when closed.
        """
        file = self._file
        if file is None:
            self._raise_closed()
        with file.lock:
            file.waiters = (*file.waiters, waiter)

    def remove_waiter(self, waiter: Waiter) -> bool:
        """Take `waiter` from the wait queue; return whether it was there.

        An operation in another thread may still be calling it.
        """
        file = self._file
        if file is None:
            return False
        with file.lock:
            waiters = list(file.waiters)
            try:
                waiters.remove(waiter)
            except ValueError:
                return False
            file.waiters = tuple(waiters)
        return True

    def wait(self, mask: int, timeout: float | None = None) -> EventMask:
        """Block the calling thread until an event of `mask`, ERR or HUP is pending.

        timeout -- seconds; None waits for ever, 0 looks once

        Returns what of these is pending: an empty mask after `timeout`.  Raises
        ValueError for a bad mask and OSError (EBADF) when the vpoll is closed.
        """
        wanted = check_mask(mask) | ALWAYS
        if seen := self.peek() & wanted:
            return EventMask(seen)
        if timeout is not None and timeout <= 0:
            return EventMask(0)
        woken = threading.Event()

        def wake(events: int) -> None:
            if events & wanted:
                woken.set()

        self.add_waiter(wake)
        try:
            if not self.peek() & wanted:
                woken.wait(timeout)
        finally:
            self.remove_waiter(wake)
        return EventMask(self.peek() & wanted)

    def fileno(self) -> int:
        """Return a descriptor that the kernel's pollers see the events on.

        The first call makes the kernel object.  With ``backend="virtual"`` it is a
        number at or above 2**30 that only `VPollSelector` understands.

        Raises OSError: EBADF when closed, ENOSYS when no backend covers the need,
        or what the kernel answers (EMFILE …).
        """
        return self._open_fd(refusing_read=False)

    def fileno_refusing_read(self) -> int:
        """Return `fileno` where a stray ``read(2)`` on it cannot be mistaken for data.

        uvloop's transports read whatever descriptor they are given.  Raises OSError
        as `fileno` does, and ENOTSUP when the kernel object is already one that can
        be read.
        """
        fd = self._open_fd(refusing_read=True)
        file = self._file
        if file is not None and file.backend is not None and not file.backend.refuses_read:
            raise OSError(
                errno.ENOTSUP,
                f"the vpoll already shows itself through {file.backend.name!r}, whose "
                "descriptor would be read as data",
            )
        return fd

    def _open_fd(self, *, refusing_read: bool) -> int:
        file = self._file
        if file is None:
            self._raise_closed()
        if self._fd < 0:
            with file.lock:
                if self._fd < 0:
                    first = file.mirror is None
                    mirror = file.open_mirror(refusing_read=refusing_read)
                    if isinstance(mirror, VirtualMirror):
                        self._fd = number_of(self)
                    else:
                        self._fd = mirror.fd if first else mirror.dup()
        return self._fd

    @property
    def backend(self) -> str | None:
        """Name of the backend, or None until the first `fileno` chooses one."""
        file = self._file
        if file is None or file.backend is None:
            return None
        return file.backend.name

    @property
    def exact(self) -> EventMask:
        """Events that a waiter sees raised and cleared exactly.

        All of them until a kernel object exists, since waiters of this process see
        the mask itself; afterwards the backend's exact set.
        """
        file = self._file
        if file is None or file.backend is None:
            return EventMask(KEPT)
        return EventMask(file.backend.exact)

    def dup(self) -> VPoll:
        """Return another handle for the same events, waiters and kernel object, as dup(2).

        Raises OSError (EBADF) when closed.
        """
        file = self._file
        if file is None:
            self._raise_closed()
        twin = VPoll.__new__(VPoll)
        twin._fd = -1
        with file.lock:
            file.handles += 1
            twin._file = file
        return twin

    def close(self) -> None:
        """Close this handle.  Closing twice is allowed.

        Waiters are not woken.  They stay registered until the last duplicate is
        closed, which gives back the kernel object.
        """
        file, self._file = self._file, None
        if file is None:
            return
        with file.lock:
            fd, self._fd = self._fd, -1
            mirror = file.mirror
            file.handles -= 1
            last = file.handles == 0
            if last:
                file.waiters = ()
                file.mirror = file.pending = None
        if mirror is None:
            return
        if fd >= 0:
            if fd == mirror.fd and not last:
                # The mirror goes on working on a number of its own.
                mirror.move(mirror.dup())
            mirror.release(fd)
        if last:
            if fd != mirror.fd and mirror.fd >= 0:
                mirror.release(mirror.fd)
            mirror.close()

    @property
    def closed(self) -> bool:
        """Whether this handle has been closed."""
        return self._file is None

    def _raise_closed(self) -> NoReturn:
        raise OSError(errno.EBADF, "the vpoll is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("cannot pickle a VPoll: it stands for an open file of this process")

    def __repr__(self) -> str:
        file = self._file
        if file is None:
            return "<VPoll closed>"
        where = "" if self._fd < 0 else f" fd={self._fd}"
        backend = "" if file.backend is None else f" backend={file.backend.name}"
        return f"<VPoll {EventMask(file.mask)!r}{where}{backend}>"

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()
