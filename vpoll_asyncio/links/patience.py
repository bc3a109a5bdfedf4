"""Opening what another process must answer, without waiting for it for ever.

A call into a plugin cannot be broken off.  So a thread makes it; whoever gives up leaves
the call to the thread, which undoes what it may still bring.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["OutOfTimeError", "in_time"]


class OutOfTimeError(Exception):
    """The call has not ended in time."""


def in_time(call: Callable[[], int], undo: Callable[[int], object], timeout: float | None) -> int:
    """Return what `call` returns, in a thread of its own; raise what it raises.

    undo -- called with what `call` returns when nobody waits for it any more
    timeout -- seconds, or None

    Raises OutOfTimeError when `call` has not ended in time.  The thread has the caller's
    signal mask; a signal's handler runs meanwhile in the main thread, and may end its wait.
    """
    attempt = _Attempt(call, undo)
    thread = threading.Thread(target=attempt.run, name="vpoll-open", daemon=True)
    try:
        thread.start()
        attempt.done.wait(timeout)
        return attempt.take()
    except BaseException:
        attempt.give_up()
        raise
    finally:
        # Its exception refers to this frame.
        del attempt


class _Attempt:
    def __init__(self, call: Callable[[], int], undo: Callable[[int], object]) -> None:
        self._call = call
        self._undo = undo
        self._lock = threading.Lock()
        self._given_up = False
        self.done = threading.Event()
        self._result: int | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        self.done.set()
        with self._lock:
            if self._given_up:
                self._undo_result()

    def take(self) -> int:
        if self._error is not None:
            raise self._error
        result, self._result = self._result, None
        if result is None:
            raise OutOfTimeError
        return result

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            self._undo_result()

    def _undo_result(self) -> None:
        result, self._result = self._result, None
        if result is not None:
            self._undo(result)
