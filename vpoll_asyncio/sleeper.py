"""A thread that sleeps until another one, or a signal handler of its own, wakes it."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["Sleeper"]

# A signal between the interpreter's last look and the system call does not interrupt it,
# and its handler runs when the call is over: seconds until the main thread looks again.
_HANDLER_DELAY: Final = 0.05


class Sleeper:
    """One thread's sleep, which `wake` ends; made by the thread that is to sleep.

    A `threading.Event` would do but for signal handlers: one that sets it while the
    same thread is inside one of its methods deadlocks in the lock it holds.

    The sleeper calls `prepare`, looks whether there is reason to sleep, and calls
    `sleep`; a `wake` after `prepare` is not lost.
    """

    __slots__ = ("_asleep", "_longest")

    def __init__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._longest = _HANDLER_DELAY if main else threading.TIMEOUT_MAX
        self._asleep = threading.Lock()

    def prepare(self) -> None:
        """Forget what has woken the sleeper so far."""
        self._asleep.acquire(blocking=False)

    def sleep(self, seconds: float) -> None:
        """Sleep until woken, at most `seconds`; may return earlier, so look again."""
        self._asleep.acquire(timeout=max(0.0, min(seconds, self._longest)))

    def wake(self) -> None:
        """End the sleep, or the next one.  From any thread and from signal handlers."""
        try:
            self._asleep.release()
        except RuntimeError:
            pass  # awake
