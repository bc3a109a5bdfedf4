"""Loops that use a stack which another loop drives, and take over when that one stops."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Final

__all__ = ["Standby"]

# Seconds between two looks: a loop that is stopped, or closed by asyncio itself, tells nobody.
_LOOK: Final = 0.25


class Standby:
    """The loops in reserve.

    take_over -- called in a loop of them: lets it drive if nobody does, and returns whether
        it need not look again
    """

    def __init__(self, take_over: Callable[[asyncio.AbstractEventLoop], bool]) -> None:
        self._take_over = take_over
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def add(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` look at once and from time to time.  In its thread, or before it runs."""
        if loop not in self._loops:
            self._loops.add(loop)
            loop.call_soon(self._look, loop)

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget `loop`, if it is one of them."""
        self._loops.discard(loop)

    def clear(self) -> None:
        """Forget all."""
        self._loops.clear()

    def offer(self) -> None:
        """Nobody drives any more: let every loop look at once.  From any thread."""
        for loop in tuple(self._loops):
            try:
                loop.call_soon_threadsafe(self._look_once, loop)
            except RuntimeError:
                # It has been closed.
                self._loops.discard(loop)

    def _look_once(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self._loops and self._take_over(loop):
            self._loops.discard(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look_once(loop)
        if loop in self._loops:
            loop.call_later(_LOOK, self._look, loop)
