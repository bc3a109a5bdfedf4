"""Threads drive the stack: waiting for its links and its timers around poll(2).

`LinkWait` is that wait, which anybody can end.  `BlockingDriver` lets the threads that
wait for sockets of a stack drive it meanwhile.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence

from ...events import ERR, HUP, IN, OUT
from ...sleeper import Sleeper
from ...vpoll import VPoll
from .driver import NEVER, seconds_until
from .ports import Port

__all__ = ["BlockingDriver", "LinkWait", "turn_all"]


class LinkWait:
    """Sleeps until a link wants attention, the timers are due, or somebody rings.

    Parameters:
    ports -- returns the ports whose links are watched
    due -- returns the next deadline of the timers

    One thread at a time calls `sleep`; every other method may be called from any thread.
    """

    def __init__(self, ports: Callable[[], Sequence[Port]], due: Callable[[], int]) -> None:
        self._ports = ports
        self._due = due
        self._wakeup = -1
        self._polling = False
        self._lock = threading.Lock()
        self._closed = False

    def ring(self, _mask: int = 0) -> None:
        """End the sleep, if anybody sleeps."""
        if not self._polling:
            return
        with self._lock:
            if self._wakeup >= 0:
                os.eventfd_write(self._wakeup, 1)

    def sleep(self, longest: float | None, ready: Callable[[], bool]) -> list[Port]:
        """Sleep, `longest` seconds at most; return the ports whose links are readable.

        ready -- looks, once a ring would be heard, whether to sleep at all
        """
        with self._lock:
            if self._closed:
                return []
            if self._wakeup < 0:
                self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        vpolls: list[tuple[Port, VPoll]] = []
        descriptors: dict[int, Port] = {}
        try:
            self._polling = True
            # Looked at once a ring is heard: whatever changes from here on rings.
            interest = 0
            for port in self._ports():
                pollable = port.pollable
                if port.error is not None:
                    continue
                if isinstance(pollable, VPoll):
                    vpolls.append((port, pollable))
                    pollable.add_waiter(self.ring)
                    wanted = IN | ERR | HUP | (OUT if port.wants_writer() else 0)
                    interest |= pollable.peek() & wanted
                else:
                    descriptors[pollable] = port
                    writing = select.POLLOUT if port.wants_writer() else 0
                    poller.register(pollable, select.POLLIN | writing)
            pause = self._pause(longest)
            found = poller.poll(0 if ready() or interest else pause)
        finally:
            self._polling = False
            for _, vpoll in vpolls:
                vpoll.remove_waiter(self.ring)
        readable = [port for port, vpoll in vpolls if vpoll.peek() & (IN | ERR | HUP)]
        for fd, events in found:
            if fd == self._wakeup:
                os.eventfd_read(self._wakeup)
            elif events & ~select.POLLOUT:
                readable.append(descriptors[fd])
        return readable

    def _pause(self, longest: float | None) -> float | None:
        due = self._due()
        pause = None if due == NEVER else seconds_until(due)
        if longest is not None:
            pause = longest if pause is None else min(pause, longest)
        return None if pause is None else pause * 1000

    def close(self) -> None:
        """Let nobody sleep any more.  Closes nothing that `sleep` still uses: see `free`."""
        self._closed = True
        self.ring()

    def free(self) -> None:
        """Give back what is held; after `close`, when nobody is in `sleep`."""
        with self._lock:
            wakeup, self._wakeup = self._wakeup, -1
            if wakeup >= 0:
                os.close(wakeup)

    def after_fork(self) -> None:
        """Close, in a child: the threads that may hold the lock are not there."""
        self._closed = True
        self._polling = False
        self._lock = threading.Lock()
        self.free()


def turn_all(turn: Callable[[Port | bool], object], readable: Sequence[Port]) -> None:
    """Let the stack work for each port that `LinkWait.sleep` has returned, at least once."""
    for port in readable or (False,):
        turn(port)


class BlockingDriver:
    """Lets threads wait for sockets of a stack, and drive it where nobody else does.

    One thread at a time drives the stack; others sleep until their event comes or the
    driving thread leaves.

    Parameters:
    ports, due -- as `LinkWait` has them
    turn -- as `LoopDriver` has it
    """

    def __init__(
        self,
        ports: Callable[[], Sequence[Port]],
        turn: Callable[[Port | bool], object],
        due: Callable[[], int],
    ) -> None:
        self._link = LinkWait(ports, due)
        self._turn = turn
        self._driving = threading.Lock()
        self._idle: set[Sleeper] = set()
        self._closed = False

    def wait(
        self,
        vpoll: VPoll,
        mask: int,
        timeout: float | None,
        driven: Callable[[], bool],
    ) -> int:
        """Wait as `Stack.wait` does; `driven` says that somebody else drives the stack."""
        wanted = mask | ERR | HUP
        deadline = None if timeout is None else time.monotonic() + timeout
        sleeper = Sleeper()

        def wake(events: int) -> None:
            sleeper.wake()
            self._link.ring()

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
                    # Somebody else drives, but may stop doing so.
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
        readable = self._link.sleep(
            left, lambda: bool(self._closed or vpoll.closed or vpoll.peek() & wanted)
        )
        turn_all(self._turn, readable)

    def ring(self) -> None:
        """Have whoever drives look at the links again."""
        self._link.ring()

    def close(self) -> None:
        """Let every thread that waits look again; nobody drives any more."""
        self._closed = True
        self._link.close()
        with self._driving:
            self._link.free()

    def after_fork(self) -> None:
        """Close, in a child."""
        self._closed = True
        self._link.after_fork()
