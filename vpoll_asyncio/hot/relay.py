"""The queue that carries many hops in one turn of a loop, and the watches that hop in it."""

from __future__ import annotations

import asyncio
import contextvars
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from .accelerator import ACCELERATOR
from .vpoll import VPollState

__all__ = ["HOPS", "Hop", "RelayState", "WatchState", "uvloop_trigger"]

HOPS: Final = 64
"""Hops that one turn of a loop runs at most; fewer when they take longer than a millisecond."""

_GLANCE: Final = 8
_SECONDS: Final = 0.001


def uvloop_trigger(
    loop: asyncio.AbstractEventLoop, callback: Callable[[], object], context: contextvars.Context
) -> Callable[[], None]:
    """Return a function that has a loop of uvloop call `callback` in `context` in a turn to come.

    It may be called from any thread, and does nothing once the loop is closed.
    """
    running = asyncio._get_running_loop
    soon, soon_elsewhere = loop.call_soon, loop.call_soon_threadsafe

    def trigger() -> None:
        try:
            # libuv sleeps without the GIL, so code in the loop's thread means it is awake.
            if running() is loop:
                soon(callback, context=context)
            else:
                soon_elsewhere(callback, context=context)
        except RuntimeError:
            if not loop.is_closed():
                raise

    return trigger


class Hop(Protocol):
    """What waits in a relay."""

    def run(self) -> None:
        """Do a bounded piece of work.  Raises nothing but SystemExit and KeyboardInterrupt."""


class RelayState:
    """The hops of one loop that are due, in the order in which they came."""

    __slots__ = ("_later", "_queue", "due")

    due: bool
    """Whether the loop is going to call `run`; once the relay is closed, for ever."""

    def __init__(self) -> None:
        self._queue: deque[Hop] = deque()
        self._later: list[Hop] = []
        self.due = False

    def push(self, hop: Hop) -> None:
        """Run `hop` in this turn, or soon.  From any thread and from signal handlers."""
        # `run` forgets `due` before its last look at the queue, so no hop is left behind.
        self._queue.append(hop)
        if not self.due:
            self.due = True
            try:
                self.trigger()
            except BaseException:
                # Of a signal handler's exception nobody knows what had been done by then; twice
                # does no harm, and not at all would leave everything here waiting for ever.
                self.trigger()
                raise

    def put_off(self, hop: Hop) -> None:
        """Run `hop` in the next turn.  For what `run` runs."""
        self._later.append(hop)

    @abstractmethod
    def trigger(self) -> None:
        """Have the loop call `run`."""

    def run(self) -> None:
        """Run what is queued, within bounds.  For the loop's thread."""
        queue = self._queue
        until = 0.0
        try:
            for count in range(HOPS):
                if not queue:
                    return
                if not count % _GLANCE:
                    now = monotonic()
                    if not count:
                        until = now + _SECONDS
                    elif now >= until:
                        return
                # No call from the look to the removal: a handler that raises comes before or after.
                hop = queue[0]
                del queue[0]
                try:
                    hop.run()
                except BaseException:
                    # Perhaps before it had begun: it looks again.
                    self._later.append(hop)
                    raise
        finally:
            later = self._later
            if later:
                queue.extend(later)
                later.clear()
            self.due = False
            if queue and not self.due:
                self.due = True
                self.trigger()

    def close(self) -> None:
        """Forget what is queued, and what will be: the loop has been closed."""
        self.due = True
        self._queue.clear()
        self._later.clear()


class WatchState:
    """Has `notice` for a waiter, and calls `callback(mask)` in `context`, by way of a relay.

    `wanted` is the mask that it waits for, 0 when it is paused.
    """

    __slots__ = ("args", "callback", "context", "queued", "relay", "vpoll", "wanted")

    args: tuple[object, ...] | None
    """What the callback gets instead of the mask, if not None."""
    callback: Callable[..., object]
    """What is called from now on; may be replaced in the loop's thread."""
    context: contextvars.Context
    queued: bool
    relay: RelayState
    vpoll: VPollState
    wanted: int

    # A method and no ``__call__``: the interpreter calls functions without a C call in between.
    def notice(self, mask: int) -> None:
        """Take notice of `mask`: a `Waiter`."""
        if mask & self.wanted and not self.queued:
            self.queued = True
            try:
                self.relay.push(self)
            except BaseException:
                # As in `push`.
                self.relay.push(self)
                raise

    def run(self) -> None:
        """Call back if there is reason to."""
        # Reset before the look: an event published after the look queues anew.
        self.queued = False
        wanted = self.wanted
        if not wanted:
            return
        file = self.vpoll.file
        if file is not None and file.pending is None:
            seen = file.mask & wanted
        else:
            try:
                seen = self.vpoll.peek() & wanted
            except OSError:
                self.vpoll_closed()
                return
        if not seen:
            return
        # What comes while the callback runs is for the look after it.
        self.queued = True
        try:
            args = self.args
            if args is None:
                self.context.run(self.callback, seen)
            elif args:
                self.context.run(self.callback, *args)
            else:
                # Unpacking nothing costs more than the call.
                self.context.run(self.callback)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc)
        finally:
            self.queued = False
            if self.wanted:
                file = self.vpoll.file
                plain = file is not None and file.pending is None
                try:
                    mask = file.mask if plain else self.vpoll.peek()  # type: ignore[union-attr]
                except OSError:
                    # Closed by the callback: its waiter was told while this was queued.
                    self.vpoll_closed()
                else:
                    if mask & self.wanted and not self.queued:
                        self.queued = True
                        self.relay.put_off(self)

    @abstractmethod
    def vpoll_closed(self) -> None:
        """The vpoll has been closed, or cannot be asked any more."""

    @abstractmethod
    def report(self, exc: BaseException) -> None:
        """Tell somebody of what the callback raised."""


if not TYPE_CHECKING and ACCELERATOR is not None:
    RelayState = ACCELERATOR.RelayState
    uvloop_trigger = ACCELERATOR.uvloop_trigger
    WatchState = ACCELERATOR.WatchState
