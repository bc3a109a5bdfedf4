"""What each turn of the asyncio loop does, and what it does for each event.

asyncio's private names are the subject of this module, as of `_asyncio`.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._asyncio import (
    CANCELLED_SHARE,
    FEW_TIMERS,
    LONGEST_SLEEP,
    report_exception,
    run_handle,
)
from ..events import ALWAYS
from .accelerator import ACCELERATOR
from .vpoll import VPollState

__all__ = ["ReaderState", "TurnState", "make_trigger", "run_ready"]

_Handle: Final[Any] = asyncio.Handle
_TimerHandle: Final[Any] = asyncio.TimerHandle
# So many or fewer are no reason to look through all timers.
_FEW_CANCELLED: Final = FEW_TIMERS * CANCELLED_SHARE
_EVENT_READ: Final = selectors.EVENT_READ
_EVENT_WRITE: Final = selectors.EVENT_WRITE


def run_ready(ready: deque[Any]) -> None:
    """Run the handles that are in `ready` now, in their contexts."""
    handle: Any
    args: Any
    # What these queue runs in the next turn.
    for _ in range(len(ready)):
        # No call from the look to the removal: a handler that raises comes before or after.
        handle = ready[0]
        del ready[0]
        if handle._cancelled:
            continue
        kind = handle.__class__
        if kind is not _Handle and kind is not _TimerHandle:
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


class TurnState:
    """A turn of asyncio's loop, with the same things in the same order as there.

    Subclasses have ``_debug_turn()``, a turn of asyncio's own; ``_drop_cancelled_timers()``,
    and ``_take_timers(end)``, which queues the timers that are due before `end`.

    The compiled class also has ``call_soon``, ``create_future`` and ``get_debug``, which do
    what asyncio's do.  In Python too little would be gained, and they are asyncio's.
    """

    __slots__ = ()

    _clock_resolution: float
    _debug: bool
    _ready: deque[Any]
    _scheduled: list[Any]
    _selector: Any
    _stopping: bool
    _timer_cancelled_count: int
    _debug_turn: Callable[[], None]
    _drop_cancelled_timers: Callable[[], None]
    _remove_reader: Callable[[Any], object]
    _remove_writer: Callable[[Any], object]
    _take_timers: Callable[[float], None]
    time: Callable[[], float]

    def _run_once(self) -> None:
        # Debug mode times every handle.  Tools that watch a loop replace Handle._run.
        if self._debug or _Handle._run is not run_handle:
            self._debug_turn()
            return
        ready = self._ready
        scheduled = self._scheduled
        cancelled = self._timer_cancelled_count
        # asyncio counts those that became due as cancelled ever after.
        if cancelled and scheduled and (cancelled > _FEW_CANCELLED or scheduled[0]._cancelled):
            self._drop_cancelled_timers()
        timeout: float | None = None
        if ready or self._stopping:
            timeout = 0
        elif self._scheduled:
            timeout = self._scheduled[0]._when - self.time()
            if timeout < 0:
                timeout = 0
            elif timeout > LONGEST_SLEEP:
                timeout = LONGEST_SLEEP
        found = self._selector.select(timeout)
        if found:
            self._process_events(found)
            found = None
        if self._scheduled:
            end = self.time() + self._clock_resolution
            if self._scheduled[0]._when < end:
                self._take_timers(end)
        run_ready(ready)

    def _process_events(self, found: list[tuple[Any, int]]) -> None:
        for (fileobj, _, _, (reader, writer)), events in found:
            if events & _EVENT_READ and reader is not None:
                if reader._cancelled:
                    self._remove_reader(fileobj)
                else:
                    self._ready.append(reader)
            if events & _EVENT_WRITE and writer is not None:
                if writer._cancelled:
                    self._remove_writer(fileobj)
                else:
                    self._ready.append(writer)


class ReaderState(asyncio.Handle):
    """A reader or writer of a vpoll: a waiter that puts itself on the ready queue.

    `host` is the loop, with its `rouse` and `vpoll_selector`.
    """

    __slots__ = ("_queued", "_selector", "_vpoll", "_wanted")

    _args: tuple[Any, ...]
    _callback: Callable[..., object]
    _context: contextvars.Context
    _loop: Any

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
        self._selector = host.vpoll_selector
        vpoll.add_waiter(self._notice)
        self._notice(vpoll.peek())

    # A method and no ``__call__``: the interpreter calls functions without a C call in between.
    def _notice(self, mask: int) -> None:
        if mask & self._wanted and not self._queued:
            self._queued = True
            selector = self._selector
            try:
                selector.push(self)
                selector.spare = True
                if selector.asleep:
                    self._loop.rouse()
            except BaseException:
                # A signal handler's: as in `RelayState.push`.
                selector.spare = True
                self._loop.rouse()
                raise

    def cancel(self) -> None:
        """End it: no call comes any more."""
        self._wanted = 0
        self._vpoll.remove_waiter(self._notice)
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
                    self._notice(self._vpoll.peek())
                except OSError:
                    pass


def make_trigger(
    handle: asyncio.Handle,
    push: Callable[[asyncio.Handle], None],
    selector: Any,
    rouse: Callable[[], None],
) -> Callable[[], None]:
    """Return a function that pushes `handle` and wakes the loop if it sleeps.

    selector -- the loop's, a `SelectorState`
    """

    def trigger() -> None:
        push(handle)
        selector.spare = True
        if selector.asleep:
            rouse()

    return trigger


def describe(handle: Any) -> str:
    """Return what `repr` shows of a handle that is none of asyncio's."""
    shown = _Handle.__new__(_Handle)
    for name in ("_callback", "_args", "_cancelled", "_loop", "_source_traceback"):
        setattr(shown, name, getattr(handle, name))
    shown._repr = None
    return repr(shown)


if not TYPE_CHECKING and ACCELERATOR is not None:
    run_ready = ACCELERATOR.run_ready
    ReaderState = ACCELERATOR.ReaderState
    make_trigger = ACCELERATOR.make_trigger
    TurnState = ACCELERATOR.TurnState
