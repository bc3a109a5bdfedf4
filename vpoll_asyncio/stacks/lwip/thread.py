"""A thread that drives the stack while no loop does, for programs that block.

A kernel answers while a program computes or sleeps: it acknowledges data, accepts
connections, answers pings, sends keep-alives.  With this thread the stack does, too.  A
running loop is faster at it, so the thread leaves the stack to one that is attached, and
looks now and then whether it still runs.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from ...ending import join
from .blocking import LinkWait, turn_all
from .driver import NEVER, LoopDriver
from .ports import Port

__all__ = ["Drivable", "StackThread"]

_log = logging.getLogger(__name__)

# No loop tells anybody that it has stopped: seconds until the thread looks again.
_LOOK: Final = 0.1
# After an exception the next turn may raise it again at once: seconds of rest, doubled
# each time up to the second number.
_REST: Final = (0.01, 1.0)
# Seconds that the end of the interpreter waits for a turn that is under way.
_JOIN: Final = 5.0


class Drivable(Protocol):
    """What the thread drives: `Core`."""

    @property
    def due(self) -> int:
        """When the timers must run, in milliseconds of CLOCK_MONOTONIC."""

    @property
    def ports(self) -> Sequence[Port]:
        """The interfaces, whose links are watched."""

    @property
    def driver(self) -> LoopDriver[Port] | None:
        """The loop that is attached."""

    @property
    def more(self) -> bool:
        """Whether there is work left that waits for nothing."""

    def alarm(self) -> int:
        """Return the deadline, and have `StackThread.arm` called for earlier ones only."""

    def turn(self, readable: Port | bool) -> None:
        """Let the stack work once."""

    def settle(self, show: bool = True) -> None:
        """Carry on what the turn has left."""


class StackThread:
    """The thread of one stack; it starts at once and ends with `close`.

    It blocks all signals, so that they interrupt the main thread, and is a daemon that
    is told to end when the interpreter does.  What a waiter raises in it is logged, and
    the stack goes on.  In a child of fork(2) there is no thread.  Thread-safe.
    """

    def __init__(self, core: Drivable) -> None:
        self._core = core
        self._link = LinkWait(lambda: core.ports, lambda: core.due)
        self._look = threading.Event()
        self._stopped = False
        self._failures = 0
        self._pid = os.getpid()
        self.armed = NEVER
        """The deadline that the thread sleeps for, in milliseconds of CLOCK_MONOTONIC."""
        self._thread = threading.Thread(target=self._run, name="vpoll-lwip", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def alive(self) -> bool:
        """Whether the thread is there, to drive the stack or to take over from a loop."""
        return not self._stopped and os.getpid() == self._pid and self._thread.is_alive()

    def arm(self, due_ms: int) -> None:
        """See to it that the thread wakes at `due_ms`, or before."""
        if due_ms < self.armed:
            self.armed = due_ms
            self._link.ring()

    def ring(self) -> None:
        """Have the thread look at the stack again."""
        self._look.set()
        self._link.ring()

    def _loop_drives(self) -> bool:
        driver = self._core.driver
        return driver is not None and driver.running

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._stopped:
            try:
                if self._loop_drives():
                    self._leave_it_to_the_loop()
                else:
                    self._drive()
                    self._failures = 0
            except BaseException:
                self._failed()

    def _drive(self) -> None:
        core = self._core
        driver = core.driver
        waits = driver is not None and not driver.loop.is_closed()
        self.armed = core.alarm()
        readable = self._link.sleep(
            _LOOK if waits else None, lambda: self._stopped or core.more or self._loop_drives()
        )
        # The loop that has begun to run meanwhile is about to read the link itself.
        if not self._stopped and not self._loop_drives():
            turn_all(core.turn, readable)

    def _leave_it_to_the_loop(self) -> None:
        driver = self._core.driver
        if driver is not None:
            # It has not heard of deadlines while it did not run.
            driver.again()
        while not self._stopped and self._loop_drives():
            self._look.wait(_LOOK)
            self._look.clear()

    def _failed(self) -> None:
        if self._stopped:
            return
        _log.exception("an exception in the thread of an lwip stack, which goes on")
        self._core.settle(show=False)
        first, most = _REST
        self._look.clear()
        self._look.wait(min(first * 2 ** min(self._failures, 10), most))
        self._failures += 1

    def close(self) -> None:
        """End the thread and wait for it, where that does not last for ever."""
        self._stopped = True
        atexit.unregister(self.stop)
        self.ring()
        self._link.close()
        if join(self._thread):
            self._link.free()

    def after_fork(self) -> None:
        """Forget the thread, in the child."""
        self._stopped = True
        atexit.unregister(self.stop)
        self._link.after_fork()

    def stop(self) -> None:
        """Tell the thread to end, and wait for it a little: the interpreter ends."""
        self._stopped = True
        self.ring()
        self._thread.join(_JOIN)
