"""Which instances of lwIP are in use: an open stack has one of its own.

The library's state is global, so each further stack takes a copy of it that the dynamic
linker loads as another library (`vpoll_asyncio.native.load`).  Nothing is unloaded, as
sockets outlive their stacks; an instance whose stack is closed is given to the next.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final

from ... import native

__all__ = ["Instance", "release", "take"]

_lock = threading.Lock()
_used: Final[set[int]] = set()


def _in_child() -> None:
    global _lock
    # The thread that held it is not there.
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)


class Instance:
    """An instance of the helper that nobody else has until it is released."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.module: Any = native.load("lwip", number)


def take() -> Instance:
    """Return an instance that no open stack has.  Raises OSError as `native.load` does."""
    with _lock:
        number = 0
        while number in _used:
            number += 1
        instance = Instance(number)
        _used.add(number)
    return instance


def release(instance: Instance) -> None:
    """Let the next stack have `instance`, whose stack is closed; to be called once."""
    # Without the lock: a finalizer may close a stack inside of take().
    _used.discard(instance.number)
