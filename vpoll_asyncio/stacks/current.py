"""Which stack a call means: explicit, the context's, the loop's, the process's, the host."""

from __future__ import annotations

import asyncio
from typing import Any

from .base import Stack, activated
from .host import host_stack

__all__ = ["current_stack", "default_stack", "set_default_stack"]

_default: Stack | None = None


def current_stack(explicit: Stack | None = None) -> Stack:
    """Return the stack that a call made here and now is for.

    The first of: `explicit`; the context's (`Stack.activate`); the running loop's, if
    it was made with one; the process default; the host's.  Threads and executors that
    nobody gave a context see the process default, so resolve it before entering one.
    """
    if explicit is not None:
        return explicit
    stack = activated.get()
    if stack is not None:
        return stack
    loop = asyncio._get_running_loop()
    if loop is not None:
        own: Any = getattr(loop, "stack", None)
        # Alone, isinstance would take ten times as long, as the class is abstract.
        if own is not None and (Stack in type(own).__mro__ or isinstance(own, Stack)):
            found: Stack = own
            return found
    return _default or host_stack()


def default_stack() -> Stack | None:
    """Return the process default, or None when there is none."""
    return _default


def set_default_stack(stack: Stack | None) -> Stack | None:
    """Make `stack` the process default, None for the host's; return the previous one."""
    global _default
    previous, _default = _default, stack
    return previous
