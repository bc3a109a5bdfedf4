"""Stacks that a program reaches by a name, as ``vpoll-asyncio run`` gives them one."""

from __future__ import annotations

import threading

from .base import Stack

__all__ = ["forget_stack", "name_stack", "stack_named"]

_lock = threading.Lock()
_named: dict[str, Stack] = {}


def name_stack(name: str, stack: Stack) -> None:
    """Let `stack_named` find `stack` under `name`, from any thread, until `forget_stack`.

    The stack is held meanwhile, and not closed by this.  Raises ValueError when the name
    is empty or another stack has it.
    """
    if not name:
        raise ValueError("a stack's name must not be empty")
    with _lock:
        if _named.setdefault(name, stack) is not stack:
            raise ValueError(f"two stacks are called {name!r}: give each a name of its own")


def forget_stack(name: str) -> None:
    """Let the name go.  A name that no stack has is ignored."""
    with _lock:
        _named.pop(name, None)


def stack_named(name: str) -> Stack:
    """Return the stack called `name`; may be called from any thread.

    Raises LookupError when there is none, with the names that there are.
    """
    with _lock:
        found = _named.get(name)
        names = ", ".join(sorted(_named))
    if found is None:
        raise LookupError(f"no stack is called {name!r}: the names are {names or 'none'}")
    return found
