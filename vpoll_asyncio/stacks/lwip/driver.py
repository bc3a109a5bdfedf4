"""A loop drives the stack.

The link is read when it is readable, and the timers run when they are due: one reader and
one `call_later`.  What threads do instead is in `blocking` and `thread`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from ...events import ERR, HUP, IN, OUT
from ...relay import Relay, relay_of
from ...vpoll import VPoll
from ...watch import Watch

__all__ = ["NEVER", "LoopDriver", "seconds_until"]

NEVER: Final = (1 << 64) - 1
"""The deadline of timers that nobody needs."""

# Milliseconds are cut off on their way through the clocks; a timer that fires before
# its time would only be set again.
_SLACK: Final = 0.0005


def seconds_until(due_ms: int) -> float:
    """Return how long until CLOCK_MONOTONIC reads `due_ms` milliseconds."""
    return max(0.0, due_ms / 1000 - time.monotonic() + _SLACK)


class LoopDriver:
    """Watches the stack's link and its timers from one loop.

    Parameters:
    loop -- any event loop with `add_reader`
    pollable -- the link's descriptor or vpoll
    turn -- called with whether the link is readable; calls `arm` unless it was and no
        deadline has come nearer
    reader -- called with the loop's relay, returns what does both `turn` and the relay's
        part when a descriptor is readable, or None

    What frames set in motion, the transports of connections say, is run in the turn of the
    loop that brought them.  `arm` and `want_writer` may be called from any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pollable: int | VPoll,
        turn: Callable[[bool], object],
        reader: Callable[[Relay], Callable[[], None] | None] = lambda relay: None,
    ) -> None:
        self.loop = loop
        self._relay = relay_of(loop)
        self._pollable = pollable
        self._turn = turn
        self._timer: asyncio.TimerHandle | None = None
        self.armed = NEVER
        """When the timers will run, in milliseconds of CLOCK_MONOTONIC."""
        self._in_timer = False
        self.writing = False
        """Whether the link is watched for being writable."""
        self._reading = True
        self._closed = False
        self._thread: int | None = None
        self._watch: Watch | None = None
        if isinstance(pollable, VPoll):
            self._watch = Watch(loop, pollable, IN, self._on_event)
        else:
            loop.add_reader(pollable, reader(self._relay) or self._on_readable)

    @property
    def running(self) -> bool:
        """Whether the loop runs, so that it will get round to the stack by itself."""
        return not self._closed and self.loop.is_running()

    @property
    def here(self) -> bool:
        """Whether the calling thread is the one that the loop runs in."""
        return asyncio._get_running_loop() is self.loop

    def _on_readable(self) -> None:
        relay = self._relay
        if relay.due:
            self._turn(True)
            return
        # Nobody needs to have the loop run it, which would take another turn.
        relay.due = True
        try:
            self._turn(True)
        finally:
            relay.run()

    def _on_writable(self) -> None:
        self._turn(False)

    def _on_event(self, mask: int) -> None:
        self._turn(bool(mask & (IN | ERR | HUP)))

    def _on_timer(self) -> None:
        self._timer = None
        self.armed = NEVER
        self._in_timer = True
        try:
            self._turn(False)
        finally:
            self._in_timer = False
            self._set_timer()

    def arm(self, due_ms: int) -> None:
        """See to it that the timers run at `due_ms`, or before."""
        if due_ms >= self.armed or self._closed:
            return
        self.armed = due_ms
        # Its end sets the next one.
        if not self._in_timer:
            self._in_loop(self._set_timer)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.armed != NEVER and not self._closed:
            self._timer = self.loop.call_later(seconds_until(self.armed), self._on_timer)

    def again(self) -> None:
        """Give the stack another turn soon, without waiting for an event."""
        self._in_loop(self._soon)

    def _soon(self) -> None:
        if not self._closed:
            self.loop.call_soon(self._on_writable)

    def want_writer(self, wanted: bool) -> None:
        """Watch for the link to be writable, or stop it."""
        if wanted is not self.writing and not self._closed:
            self.writing = wanted
            self._in_loop(self._set_writer)

    def _set_writer(self) -> None:
        if self._closed:
            return
        if self._watch is not None:
            reading = IN if self._reading else 0
            self._watch.set_interest(reading | OUT if self.writing else reading)
        elif self.writing:
            assert isinstance(self._pollable, int)
            self.loop.add_writer(self._pollable, self._on_writable)
        else:
            assert isinstance(self._pollable, int)
            self.loop.remove_writer(self._pollable)

    def stop_reading(self) -> None:
        """Leave the link alone: it is broken, and would be readable for ever."""
        self._reading = False
        self.writing = False
        self._in_loop(self._unwatch)

    def _unwatch(self) -> None:
        if self.loop.is_closed():
            return
        if self._watch is not None:
            self._watch.cancel()
        elif isinstance(self._pollable, int):
            self.loop.remove_reader(self._pollable)
            self.loop.remove_writer(self._pollable)

    def _in_loop(self, function: Callable[[], object]) -> None:
        if self.here or not self.loop.is_running():
            if not self.loop.is_closed():
                function()
            return
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def close(self) -> None:
        """Take everything off the loop.  In the loop's thread, or when it does not run."""
        self._closed = True
        timer, self._timer = self._timer, None
        if self.loop.is_closed():
            return
        if timer is not None:
            timer.cancel()
        self._in_loop(self._unwatch)
