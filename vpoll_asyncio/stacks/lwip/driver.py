"""A loop drives the stack.

A link is read when it is readable, and the timers run when they are due: one reader for each
link and one `call_later`.  What threads do instead is in `blocking` and `thread`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from ...events import ERR, HUP, IN, OUT
from ...relay import Relay, relay_of
from ...vpoll import VPoll
from ...watch import Watch

__all__ = ["NEVER", "LoopDriver", "Watchable", "seconds_until"]

NEVER: Final = (1 << 64) - 1
"""The deadline of timers that nobody needs."""

# Milliseconds are cut off on their way through the clocks; a timer that fires before
# its time would only be set again.
_SLACK: Final = 0.0005


P = TypeVar("P", bound="Watchable")


def seconds_until(due_ms: int) -> float:
    """Return how long until CLOCK_MONOTONIC reads `due_ms` milliseconds."""
    return max(0.0, due_ms / 1000 - time.monotonic() + _SLACK)


class Watchable(Protocol):
    """What a loop watches: `Port`."""

    @property
    def pollable(self) -> int | VPoll:
        """The link's descriptor or vpoll."""

    def wants_writer(self) -> bool:
        """Return whether frames wait for the link to be writable."""


class _Watched(Generic[P]):
    """One link in one loop."""

    def __init__(self, port: P) -> None:
        self.port = port
        self.watch: Watch | None = None
        self.begun = False
        """Whether the loop has got round to watching it."""
        self.writing = False
        """Whether the link is to be watched for being writable."""


class LoopDriver(Generic[P]):
    """Watches the stack's links and its timers from one loop.

    Parameters:
    loop -- any event loop with `add_reader`
    turn -- called with the port whose link is readable, or False; calls `arm` unless there was
        one and no deadline has come nearer
    reader -- called with a port and the loop's relay, returns what does both `turn` and the
        relay's part when the port's descriptor is readable, or None

    What frames set in motion, the transports of connections say, is run in the turn of the
    loop that brought them.  Every method but `close` may be called from any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turn: Callable[[P | bool], object],
        reader: Callable[[P, Relay], Callable[[], None] | None] = lambda port, relay: None,
    ) -> None:
        self.loop = loop
        self._relay = relay_of(loop)
        self._turn = turn
        self._reader = reader
        self._timer: asyncio.TimerHandle | None = None
        self.armed = NEVER
        """When the timers will run, in milliseconds of CLOCK_MONOTONIC."""
        self._in_timer = False
        self.writing = False
        """Whether a link is watched for being writable."""
        self._closed = False
        self._links: dict[P, _Watched[P]] = {}
        self._leaving: list[Callable[[], None]] = []

    def add(self, port: P) -> None:
        """Watch the link of `port`."""
        watched = self._links[port] = _Watched(port)
        self._in_loop(lambda: self._watch(watched))

    def _watch(self, watched: _Watched[P]) -> None:
        port = watched.port
        if self._closed or self._links.get(port) is not watched:
            return
        pollable = port.pollable
        if isinstance(pollable, VPoll):

            def on_event(mask: int) -> None:
                self._turn(port if mask & (IN | ERR | HUP) else False)

            watched.watch = Watch(self.loop, pollable, IN, on_event)
            self._begin(watched)
            return

        def on_readable() -> None:
            relay = self._relay
            if relay.due:
                self._turn(port)
                return
            # Nobody needs to have the loop run it, which would take another turn.
            relay.due = True
            try:
                self._turn(port)
            finally:
                relay.run()

        self.loop.add_reader(pollable, self._reader(port, self._relay) or on_readable)
        self._begin(watched)

    def _begin(self, watched: _Watched[P]) -> None:
        watched.begun = True
        if watched.writing:
            self._set_writer(watched)

    def remove(self, port: P, then: Callable[[], object] = lambda: None) -> None:
        """Watch the link of `port` no more; call `then` once the loop has let go of it."""
        watched = self._links.pop(port, None)

        def let_go() -> None:
            # A loop that is stopped may never get round to it; then `close` does it.
            if let_go in self._leaving:
                self._leaving.remove(let_go)
                if watched is not None:
                    self._unwatch(watched)
                then()

        self._leaving.append(let_go)
        self._leave(let_go)

    def _leave(self, let_go: Callable[[], None]) -> None:
        if self.loop.is_closed():
            let_go()
        else:
            self._in_loop(let_go)

    @property
    def running(self) -> bool:
        """Whether the loop runs, so that it will get round to the stack by itself."""
        return not self._closed and self.loop.is_running()

    @property
    def here(self) -> bool:
        """Whether the calling thread is the one that the loop runs in."""
        return asyncio._get_running_loop() is self.loop

    def _on_writable(self) -> None:
        self._turn(False)

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

    def watch_writers(self) -> None:
        """Watch those links for being writable that frames wait for, and only those."""
        if self._closed:
            return
        writing = False
        for watched in tuple(self._links.values()):
            wanted = watched.port.wants_writer()
            writing = writing or wanted
            if wanted is not watched.writing:
                watched.writing = wanted
                self._in_loop(functools.partial(self._set_writer, watched))
        self.writing = writing

    def _set_writer(self, watched: _Watched[P]) -> None:
        port = watched.port
        if self._closed or self._links.get(port) is not watched or not watched.begun:
            return
        if watched.watch is not None:
            watched.watch.set_interest(IN | OUT if watched.writing else IN)
        elif watched.writing:
            self.loop.add_writer(_descriptor(port), self._on_writable)
        else:
            self.loop.remove_writer(_descriptor(port))

    def stop_reading(self, port: P) -> None:
        """Leave the link of `port` alone: it is broken, and would be readable for ever."""
        self.remove(port)

    def _unwatch(self, watched: _Watched[P]) -> None:
        if self.loop.is_closed() or not watched.begun:
            return
        if watched.watch is not None:
            watched.watch.cancel()
        elif not isinstance(watched.port.pollable, VPoll):
            self.loop.remove_reader(watched.port.pollable)
            self.loop.remove_writer(watched.port.pollable)

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
        for let_go in tuple(self._leaving):
            self._leave(let_go)
        if self.loop.is_closed():
            return
        if timer is not None:
            timer.cancel()
        for watched in tuple(self._links.values()):
            self._in_loop(functools.partial(self._unwatch, watched))
        self._links.clear()


def _descriptor(port: Watchable) -> int:
    pollable = port.pollable
    assert isinstance(pollable, int)
    return pollable
