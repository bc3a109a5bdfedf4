"""Timers of the Python side of a stack, which whoever drives the stack runs beside lwIP's."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from .driver import NEVER

__all__ = ["Timers"]

_log = logging.getLogger(__name__)

Work = Callable[[], None]

# As lwIP's own clock is skipped: in steps, so that what is set meanwhile runs in its turn.
_STEP: Final = 0.1


class Timers:
    """What is to be called when; thread-safe.

    Its seconds are those of `now`, which `skip` moves forward.
    """

    def __init__(self) -> None:
        self._whens: dict[Work, float] = {}
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._skipped = 0.0
        self.due = NEVER
        """When `run` is to be called, in milliseconds of CLOCK_MONOTONIC."""

    def now(self) -> float:
        """Return the time, in seconds."""
        return time.monotonic() + self._skipped

    def set(self, work: Work, when: float) -> None:
        """Call `work` once at `when`, in place of when it was set before; with inf never."""
        with self._lock:
            self._whens.pop(work, None)
            if when != math.inf:
                self._whens[work] = when
            self._set_due()

    def _set_due(self) -> None:
        first = min(self._whens.values(), default=math.inf)
        due = NEVER
        if first != math.inf:
            due = max(0, math.ceil((first - self._skipped) * 1000))
        self.due = due

    def clear(self) -> None:
        """Call nothing any more."""
        with self._lock:
            self._whens.clear()
            self.due = NEVER

    def after_fork(self) -> None:
        """In a child, where the threads that may hold a lock are not."""
        self._lock = threading.Lock()
        self._whens.clear()
        self.due = NEVER

    def run(self) -> bool:
        """Call what is due; return whether anything was.  What it raises is logged."""
        if self.due == NEVER or not self._running.acquire(blocking=False):
            return False
        try:
            now = self.now()
            with self._lock:
                ripe = [work for work, when in self._whens.items() if when <= now]
                for work in ripe:
                    del self._whens[work]
                self._set_due()
            for work in ripe:
                try:
                    work()
                except Exception:
                    _log.exception("an exception in a timer of an lwip stack, which goes on")
            return bool(ripe)
        finally:
            self._running.release()

    def skip(self, seconds: float, step: Callable[[float], None]) -> None:
        """Let `seconds` pass at once, calling what is due in its turn.

        step -- called with the seconds of each step, for those who have a clock as well
        """
        left = seconds
        while left > 0:
            with self._lock:
                first = min(self._whens.values(), default=math.inf)
            # What sets itself again at once must not hold the time up.
            pause = min(left, max(first - self.now(), _STEP))
            left -= pause
            with self._lock:
                self._skipped += pause
                self._set_due()
            step(pause)
            self.run()
