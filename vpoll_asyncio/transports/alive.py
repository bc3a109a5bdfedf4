"""What a loop must keep alive because nobody else does.

A kernel socket's transport is held by the loop's selector.  Ours sits on a wait queue
inside its own socket, so a connection that only its peer knows of would be garbage.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..stacks.base import attach

__all__ = ["Held", "attach", "drop", "held", "hold", "release"]


class Held(Protocol):
    """What waits on wait queues, and is held by nothing else."""

    def unwatch(self) -> None:
        """Take from the wait queues what refers to this: the stack may hold them."""


_held: dict[asyncio.AbstractEventLoop, set[Held]] = {}


def hold(loop: asyncio.AbstractEventLoop, thing: Held) -> None:
    """Keep `thing` alive until `drop`, or until `loop` is closed; then call `unwatch`."""
    things = _held.get(loop)
    if things is None:
        for other in list(_held):
            if other.is_closed():
                release(other)
        things = _held.setdefault(loop, set())
    things.add(thing)


def held(loop: asyncio.AbstractEventLoop) -> list[Held]:
    """Return what is held for `loop`."""
    return list(_held.get(loop, ()))


def drop(loop: asyncio.AbstractEventLoop, thing: Held) -> None:
    """Undo `hold`.  What is not held is ignored."""
    things = _held.get(loop)
    if things is not None:
        things.discard(thing)


def release(loop: asyncio.AbstractEventLoop) -> None:
    """Let go of everything of `loop`, which has been closed.

    What is still open then gives its ResourceWarning.  Loops of this package call it
    when they are closed; for other loops it happens when the next loop is used.
    """
    for thing in _held.pop(loop, ()):
        thing.unwatch()
