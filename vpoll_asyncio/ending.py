"""The end of what nobody closed, and of the interpreter.

While the interpreter ends, other threads are stopped wherever they are: a lock that one of
them held stays taken, and waiting for one lasts for ever.  Modules lose their globals, so
what a method calls may be gone.  The process's end gives back nearly everything by itself.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable

__all__ = ["ending", "join", "unclosed"]

ending = sys.is_finalizing
"""Return whether the interpreter ends; handlers of `atexit` still run before that."""


def unclosed(
    thing: object,
    close: Callable[[], object],
    *,
    at_end: Callable[[], object] | None = None,
    kind: str = "",
    _ending: Callable[[], bool] = sys.is_finalizing,
    _warn: Callable[..., None] = warnings.warn,
) -> None:
    """Warn of `thing`, which is collected though it is open, and close it.

    close -- what gives back what it has; called even when the warning is an exception
    at_end -- called in place of `close` while the interpreter ends: what the end of the
        process would leave behind.  It must wait for no thread and take no lock
    kind -- a word for the warning, where the repr of `thing` does not say what it is

    To be called by ``__del__`` itself.  Raises what the ResourceWarning and `close` raise,
    except while the interpreter ends, when nobody could do anything about it.
    """
    ends = _ending()
    try:
        # Of `unclosed` and of `__del__`, to whoever let go of it.
        _warn(f"unclosed {kind}{thing!r}", ResourceWarning, source=thing, stacklevel=3)
    except BaseException:
        if not ends:
            raise
    finally:
        if not ends:
            close()
        elif at_end is not None:
            try:
                at_end()
            except BaseException:
                # Its globals may be gone.
                pass


def join(thread: threading.Thread) -> bool:
    """Wait for the end of `thread`; return False at once where that would last for ever.

    That is in the thread itself, and while the interpreter ends.
    """
    if thread is threading.current_thread() or (ending() and thread.is_alive()):
        return False
    thread.join()
    return True
