"""VPoll: a descriptor whose pending events user space sets.

The kernel keeps two things for whatever can be polled: a mask (``f_op->poll``) and
a wait queue.  A `VPoll` is those two in user space.  Waiters of this process sit on
the queue and need no descriptor; a backend is one more waiter, which mirrors the
mask into a kernel object once somebody asks for `VPoll.fileno`.

Wake-ups cannot be lost: an operation first publishes the mask, then calls every
waiter, in the thread of whoever sets.  It may be a signal handler or a finalizer
that interrupted another operation in the same thread.  Without a kernel object an
operation looks and assigns with no call in between, so under the interpreter's lock a
handler or another thread comes before or after; with one, `OpenFile` keeps the order.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import Final, NoReturn, Self

from .backends import by_name
from .backends.base import Mirror
from .backends.forks import FORKS
from .backends.openfile import NOBODY, OpenFile
from .backends.virtual import VirtualMirror, number_of
from .ending import ending, unclosed
from .events import ADD, ALWAYS, DEL, IN, KEPT, OUT, REFUSED, EventMask, check_mask
from .hot.vpoll import FileState, VPollState, Waiter
from .sleeper import Sleeper

__all__ = ["VPoll", "Waiter"]

_DEFAULT_NEED: Final = IN | OUT


class VPoll(VPollState):
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
    the backends that are one kernel object (`eventfd`, `device`, `fuse`) the child's
    operations reach every holder; on a pair the mask's owner is the parent, and
    operations of the child raise PermissionError (EPERM).  A VPoll cannot be
    pickled (TypeError), and one that is collected open gives a ResourceWarning.

    Raises ValueError for a bad mask or an unknown backend, OSError (ENOSYS) when the
    named backend is not available here.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(
        self,
        events: int = 0,
        *,
        backend: str | None = None,
        need: int = _DEFAULT_NEED,
        map_err: bool = False,
    ) -> None:
        self.file = None
        self._fd = -1
        mask = events
        if mask.__class__ is not int or mask & REFUSED:
            mask = check_mask(mask)
        if need is not _DEFAULT_NEED:
            need = check_mask(need)
        if backend is None and need is _DEFAULT_NEED and not map_err:
            self.file = FileState(mask)
        else:
            chosen = None if backend is None else by_name(backend)
            self.file = OpenFile(mask, chosen, need, bool(map_err))

    def _open_file(self) -> OpenFile:
        """Return what duplicates and the kernel object share, made on the first call."""
        while True:
            file = self.file
            if file is None:
                self._raise_closed()
            if isinstance(file, OpenFile):
                return file
            made = OpenFile(0, None, _DEFAULT_NEED, False)
            if self.succeed(file, made):
                return made

    def operate(self, command: int, mask: int) -> int:
        # None, or what has something pending, as only an `OpenFile` ever has.
        file: OpenFile | None = self.file  # type: ignore[assignment]
        if file is None:
            self._raise_closed()
        if get_ident() != file.ready:
            return file.operate(command, mask)
        file.direct, file.ready = file.ready, NOBODY
        try:
            if command == ADD:
                new = file.mask = file.mask | mask
            elif command == DEL:
                new = file.mask = file.mask & ~mask
            else:
                new = file.mask = mask
            known = file.apply(command, mask, new)
            if known != new:
                new = file.mask = known
        except OSError as error:
            return file.end_direct(error)
        finally:
            file.direct = NOBODY
        if file.waiting:
            return file.end_direct()
        file.ready = file.bias
        if file.waiters:
            for waiter in file.waiters:
                waiter(new)
        return new

    def ask(self) -> int:
        file: OpenFile | None = self.file  # type: ignore[assignment]  # as above
        if file is None:
            self._raise_closed()
        if file.pending is None:
            return file.mask
        if file.generation != FORKS.value:
            file.adopt()
        return file.current()

    @property
    def events(self) -> EventMask:
        """The pending events: the true mask, whatever the backend can show of it.

        On `eventfd`, `device` and `fuse` it is the kernel's, with what other processes set.
        Raises OSError (EBADF) when the vpoll is closed.
        """
        return EventMask(self.peek())

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
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        sleeper = Sleeper()

        def wake(events: int) -> None:
            if events & wanted:
                sleeper.wake()

        self.add_waiter(wake)
        try:
            while True:
                sleeper.prepare()
                if seen := self.peek() & wanted:
                    return EventMask(seen)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return EventMask(0)
                sleeper.sleep(remaining)
        finally:
            self.remove_waiter(wake)

    def fileno(self) -> int:
        """Return a descriptor that the kernel's pollers see the events on.

        The first call makes the kernel object.  With ``backend="virtual"`` it is a
        number at or above 2**30 that only `VPollSelector` understands.

        Raises OSError: EBADF when closed, ENOSYS when no backend covers the need,
        or what the kernel answers (EMFILE …).
        """
        file = self._open_file()
        if self._fd >= 0:
            return self._fd
        if file.generation != FORKS.value:
            file.adopt()
        file.disturb()
        with file.guard():
            mirror = file.open_mirror()
            virtual = isinstance(mirror, VirtualMirror)
            # A handler may close this handle or get the descriptor for it at any call, so
            # between these comparisons and the assignment there is none.
            if self.file is not None and self._fd < 0:
                if virtual or mirror.lent:
                    self._take(number_of(self) if virtual else mirror.dup(), mirror)
                else:
                    mirror.lent = True
                    self._fd = mirror.fd
            if self.file is None:
                self._raise_closed()
            return self._fd

    def _take(self, fd: int, mirror: Mirror) -> None:
        if self.file is not None and self._fd < 0:
            self._fd = fd
        else:
            mirror.release(fd)

    @property
    def descriptor(self) -> int:
        """The number that `fileno` returned, -1 while nobody has asked for it."""
        return self._fd

    def adopt_descriptor(self, fd: int) -> None:
        """Make `fd`, a duplicate of the kernel object's descriptor, this handle's own.

        It is what `fileno` returns from now on, and is closed with the handle.  Raises
        ValueError when the handle has a descriptor or there is no kernel object, OSError
        (EBADF) when the vpoll is closed.
        """
        file = self._open_file()
        with file.guard():
            if self._fd >= 0 or file.mirror is None:
                raise ValueError(f"descriptor {fd} is none that {self!r} could take")
            self._fd = fd

    def close_descriptor(self) -> None:
        """Close the descriptor that `fileno` returned, and keep the handle open.

        Waiters and duplicates are not concerned, and the next `fileno` makes another.
        Does nothing where there is none.  Raises OSError (EBADF) when the vpoll is closed.
        """
        file = self._open_file()
        if self._fd < 0:
            return
        if file.generation != FORKS.value:
            file.adopt()
        file.disturb()
        with file.guard():
            fd, self._fd = self._fd, -1
            failure = file.retire(fd)
        if failure is not None:
            raise failure

    @property
    def backend(self) -> str | None:
        """Name of the backend, or None until the first `fileno` chooses one."""
        file = self.file
        if not isinstance(file, OpenFile) or file.backend is None:
            return None
        return file.backend.name

    @property
    def exact(self) -> EventMask:
        """Events that a waiter sees raised and cleared exactly.

        All of them until a kernel object exists, since waiters of this process see
        the mask itself; afterwards the backend's exact set.
        """
        file = self.file
        if not isinstance(file, OpenFile) or file.backend is None:
            return EventMask(KEPT)
        return EventMask(file.backend.exact)

    @property
    def failure(self) -> OSError | None:
        """Why no operation can succeed any more (ENOTCONN), or None.

        Set once an operation has found that the kernel object is gone, as `fuse` has it
        when its daemon is killed.  ERR stays pending then.
        """
        file = self.file
        if not isinstance(file, OpenFile) or file.mirror is None or not file.mirror.failed:
            return None
        return OSError(
            errno.ENOTCONN, f"the kernel object of the vpoll is gone (backend {self.backend!r})"
        )

    def dup(self) -> VPoll:
        """Return another handle for the same events, waiters and kernel object, as dup(2).

        Raises OSError (EBADF) when closed.
        """
        file = self._open_file()
        twin = VPoll.__new__(VPoll)
        twin.file = None
        twin._fd = -1
        if file.generation != FORKS.value:
            file.adopt()
        with file.guard():
            if file.handles == 0:
                self._raise_closed()
            file.handles += 1
            twin.file = file
        return twin

    def close(self) -> None:
        """Close this handle.  Closing twice is allowed.

        Waiters are not woken.  They stay registered until the last duplicate is
        closed, which gives back the kernel object.  Never fails for want of
        descriptors; raises OSError (EBADF) when somebody else has closed the
        descriptor.
        """
        file, self.file = self.file, None
        if not isinstance(file, OpenFile):
            if file is not None:
                file.waiters = ()
            return
        if file.lock is None and file.pending is None and file.handles == 1:
            # No kernel object has been asked for, and nobody is at making one.
            file.handles = 0
            file.waiters = ()
            return
        if file.generation != FORKS.value:
            file.adopt()
        file.disturb()
        with file.guard():
            fd, self._fd = self._fd, -1
            failure = file.close_handle(fd)
        if failure is not None:
            raise failure

    @property
    def closed(self) -> bool:
        """Whether this handle has been closed."""
        return self.file is None

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
        file = self.file
        if file is None:
            return "<VPoll closed>"
        where = "" if self._fd < 0 else f" fd={self._fd}"
        name = self.backend
        backend = "" if name is None else f" backend={name}"
        return f"<VPoll {EventMask(file.mask)!r}{where}{backend}>"

    def __del__(
        self,
        _ending: Callable[[], bool] = ending,
        _unclosed: Callable[..., None] = unclosed,
    ) -> None:
        # At the end those inside of stacks and links would be told of, one by one.
        if getattr(self, "file", None) is not None and not _ending():
            _unclosed(self, self.close)
