"""One turn of asyncio's loop in fewer steps.

Every event costs its share of a turn, and asyncio's own spends most of it on what is
seldom there: timers, a clock for them, descriptors that are ready, a call for each
handle that runs its callback.  Here the same things happen in the same order; what
there is nothing of is passed over, and handles run their callbacks without the call.

asyncio's private names are the subject of this module, as of `_asyncio`;
tests/test_loop_turns.py compares its turns with asyncio's on every Python version.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .._asyncio import CANCELLED_SHARE, FEW_TIMERS
from ..hot.turn import TurnState

__all__ = ["TurnLoop"]

_asyncio_turn: Final[Callable[[Any], None]] = base_events.BaseEventLoop._run_once  # type: ignore[attr-defined]


class TurnLoop(TurnState, asyncio.SelectorEventLoop):
    """asyncio's event loop for Unix, with turns that cost less."""

    _clock_resolution: float
    _ready: deque[Any]
    _scheduled: list[Any]
    _selector: Any
    _timer_cancelled_count: int

    def _debug_turn(self) -> None:
        _asyncio_turn(self)

    def _drop_cancelled_timers(self) -> None:
        """Forget cancelled timers: all of them when they are many, else those that are next."""
        scheduled = self._scheduled
        count = len(scheduled)
        if count > FEW_TIMERS and self._timer_cancelled_count / count > CANCELLED_SHARE:
            kept = []
            for timer in scheduled:
                if timer._cancelled:
                    timer._scheduled = False
                else:
                    kept.append(timer)
            heapq.heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0
            return
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False

    def _take_timers(self, end: float) -> None:
        """Queue the timers that are due before `end`."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._when < end:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            self._ready.append(timer)
