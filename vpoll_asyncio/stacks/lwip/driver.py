"""Who drives the stack: a loop, or the thread that waits for one of its sockets.

The link is read when it is readable, and the timers run when they are due.  On a loop
that is one reader and one `call_later`; a blocking socket that nobody's loop drives
does the same around poll(2).
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from ...events import ERR, HUP, IN, OUT
from ...relay import Relay, relay_of
from ...sleeper import Sleeper
from ...vpoll import VPoll
from ...watch import Watch

__all__ = ["NEVER", "BlockingDriver", "LoopDriver"]

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


class BlockingDriver:
    """Lets threads wait for sockets of a stack that no running loop drives.

    One thread at a time drives the stack; others sleep until their event comes or the
    driving thread leaves.

    Parameters:
    pollable -- the link's descriptor or vpoll
    turn -- as `LoopDriver` has it
    due -- returns the next deadline
    wants_writer -- returns whether frames wait for the link to be writable
    """

    def __init__(
        self,
        pollable: int | VPoll,
        turn: Callable[[bool], object],
        due: Callable[[], int],
        wants_writer: Callable[[], bool],
    ) -> None:
        self._pollable: int | VPoll | None = pollable
        self._turn = turn
        self._due = due
        self._wants_writer = wants_writer
        self._driving = threading.Lock()
        self._idle: set[Sleeper] = set()
        self._wakeup = -1
        self._polling = False
        self._closed = False

    def _ring(self, _mask: int = 0) -> None:
        if self._polling and self._wakeup >= 0:
            os.eventfd_write(self._wakeup, 1)

    def wait(
        self,
        vpoll: VPoll,
        mask: int,
        timeout: float | None,
        driven: Callable[[], bool],
    ) -> int:
        """Wait as `Stack.wait` does; `driven` says that a loop has taken over."""
        wanted = mask | ERR | HUP
        deadline = None if timeout is None else time.monotonic() + timeout
        sleeper = Sleeper()

        def wake(events: int) -> None:
            sleeper.wake()
            self._ring()

        vpoll.add_waiter(wake)
        try:
            while True:
                sleeper.prepare()
                if vpoll.closed:
                    return 0
                seen = vpoll.peek() & wanted
                left = None if deadline is None else deadline - time.monotonic()
                if seen or (left is not None and left <= 0):
                    return seen
                if self._closed or driven():
                    # Somebody else drives, but a loop may stop doing so.
                    sleeper.sleep(1.0 if left is None else min(left, 1.0))
                elif self._driving.acquire(blocking=False):
                    try:
                        self._drive(vpoll, wanted, left)
                    finally:
                        self._driving.release()
                        for idle in tuple(self._idle):
                            idle.wake()
                else:
                    self._idle.add(sleeper)
                    try:
                        if self._driving.locked():
                            sleeper.sleep(threading.TIMEOUT_MAX if left is None else left)
                    finally:
                        self._idle.discard(sleeper)
        finally:
            vpoll.remove_waiter(wake)

    def _drive(self, vpoll: VPoll, wanted: int, left: float | None) -> None:
        pollable = self._pollable
        if self._wakeup < 0:
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        writing = self._wants_writer()
        if isinstance(pollable, int):
            poller.register(pollable, select.POLLIN | (select.POLLOUT if writing else 0))
        interest = IN | ERR | HUP | (OUT if writing else 0)
        link = pollable if isinstance(pollable, VPoll) else None
        if link is not None:
            link.add_waiter(self._ring)
        try:
            self._polling = True
            pause = seconds_until(self._due()) if self._due() != NEVER else None
            if left is not None:
                pause = left if pause is None else min(pause, left)
            ready = bool(vpoll.closed or vpoll.peek() & wanted)
            if link is not None:
                ready = ready or bool(link.peek() & interest)
            found = poller.poll(0 if ready else None if pause is None else pause * 1000)
        finally:
            self._polling = False
            if link is not None:
                link.remove_waiter(self._ring)
        readable = False
        for fd, events in found:
            if fd == self._wakeup:
                os.eventfd_read(self._wakeup)
            else:
                readable = bool(events & ~select.POLLOUT)
        if link is not None:
            readable = bool(link.peek() & (IN | ERR | HUP))
        self._turn(readable)

    def stop_reading(self) -> None:
        """Leave the link alone: it is broken."""
        self._pollable = None

    def close(self) -> None:
        """Let every thread that waits look again; nobody drives any more."""
        self._closed = True
        self._polling, polling = False, self._polling
        if self._wakeup >= 0 and polling:
            os.eventfd_write(self._wakeup, 1)
        with self._driving:
            wakeup, self._wakeup = self._wakeup, -1
            if wakeup >= 0:
                os.close(wakeup)
