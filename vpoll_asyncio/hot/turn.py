"""What a turn of the asyncio loop does for each event: the kernel asked, handles run.

asyncio's private names are the subject of this module, as of `_asyncio`.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._asyncio import report_exception
from ..events import ALWAYS
from .accelerator import ACCELERATOR
from .vpoll import VPollState

__all__ = ["ReaderState", "poll_now", "run_ready"]

_Handle: Final[Any] = asyncio.Handle


def poll_now(epoll: select.epoll, count: int) -> list[tuple[int, int]]:
    """Return up to `count` (descriptor, events) that are ready, without waiting."""
    return epoll.poll(0, count)


def run_ready(ready: deque[Any]) -> None:
    """Run the handles that are in `ready` now, in their contexts."""
    handle: Any
    args: Any
    # What these queue runs in the next turn.
    for _ in range(len(ready)):
        handle = ready.popleft()
        if handle._cancelled:
            continue
        if handle.__class__ is not _Handle:
            handle._run()
            continue
        args = handle._args
        try:
            # Unpacking nothing costs more than the rest of the call.
            if args:
                handle._context.run(handle._callback, *args)
            else:
                handle._context.run(handle._callback)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            report_exception(handle, exc)
    # The frame may live on in the traceback of an exception.
    handle = args = None


class ReaderState(asyncio.Handle):
    """A reader or writer of a vpoll: a waiter that puts itself on the ready queue.

    `host` is the loop, with its `push`, `rouse` and `vpoll_selector`.
    """

    __slots__ = ("_host", "_push", "_queued", "_vpoll", "_wanted")

    _args: tuple[Any, ...]
    _callback: Callable[..., object]
    _context: contextvars.Context

    def __init__(
        self,
        host: Any,
        vpoll: VPollState,
        interest: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        super().__init__(callback, args, host)
        self._vpoll: Any = vpoll
        self._wanted = interest | ALWAYS
        self._queued = False
        self._host = host
        self._push = host.push
        vpoll.add_waiter(self)
        self(vpoll.peek())

    def __call__(self, mask: int) -> None:
        if mask & self._wanted and not self._queued:
            self._queued = True
            self._push(self)
            selector = self._host.vpoll_selector
            selector.spare = True
            if selector.asleep:
                self._host.rouse()

    def cancel(self) -> None:
        """End it: no call comes any more."""
        self._wanted = 0
        self._vpoll.remove_waiter(self)
        super().cancel()

    def _run(self) -> None:
        # Reset before the look: an event published after the look queues anew.
        self._queued = False
        file = self._vpoll.file
        if file is None:
            return
        try:
            pending = file.mask if file.pending is None else self._vpoll.peek()
        except OSError:
            return
        if not pending & self._wanted:
            return
        args = self._args
        try:
            # As in `run_ready`.
            if args:
                self._context.run(self._callback, *args)
            else:
                self._context.run(self._callback)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            report_exception(self, exc)
        finally:
            # Level-triggered: look again.  Cancelled, it wants nothing.
            if self._wanted and not self._queued:
                try:
                    self(self._vpoll.peek())
                except OSError:
                    pass


def describe(handle: Any) -> str:
    """Return what `repr` shows of a handle that is none of asyncio's."""
    shown = _Handle.__new__(_Handle)
    for name in ("_callback", "_args", "_cancelled", "_loop", "_source_traceback"):
        setattr(shown, name, getattr(handle, name))
    shown._repr = None
    return repr(shown)


if not TYPE_CHECKING and ACCELERATOR is not None:
    poll_now = ACCELERATOR.poll_now
    run_ready = ACCELERATOR.run_ready
    ReaderState = ACCELERATOR.ReaderState
