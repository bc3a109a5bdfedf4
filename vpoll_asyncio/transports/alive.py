"""What a loop must keep alive because nobody else does.

A kernel socket's transport is held by the loop's selector.  Ours sits on a wait queue
inside its own socket, so a connection that only its peer knows of would be garbage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..stacks.base import Stack

__all__ = ["attach", "drop", "hold", "release"]

_held: dict[asyncio.AbstractEventLoop, dict[object, Callable[[], object]]] = {}


def hold(loop: asyncio.AbstractEventLoop, thing: object, unwatch: Callable[[], object]) -> None:
    """Keep `thing` alive until `drop`, or until `loop` is closed; then call `unwatch`.

    `unwatch` must take from the wait queues what refers to `thing`: the stack may hold them.
    """
    held = _held.get(loop)
    if held is None:
        for other in list(_held):
            if other.is_closed():
                release(other)
        held = _held.setdefault(loop, {})
    held[thing] = unwatch


def drop(loop: asyncio.AbstractEventLoop, thing: object) -> None:
    """Undo `hold`.  What is not held is ignored."""
    held = _held.get(loop)
    if held is not None:
        held.pop(thing, None)


def release(loop: asyncio.AbstractEventLoop) -> None:
    """Let go of everything of `loop`, which has been closed.

    What is still open then gives its ResourceWarning.  Loops of this package call it
    when they are closed; for other loops it happens when the next loop is used.
    """
    for unwatch in _held.pop(loop, {}).values():
        unwatch()


def attach(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    """Let `loop` drive `stack`.  Loops of this package then detach it when they are closed.

    Raises RuntimeError as `Stack.attach` does.
    """
    own = getattr(loop, "attach_stack", None)
    if own is None:
        stack.attach(loop)
    else:
        own(stack)
