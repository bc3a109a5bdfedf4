"""Waiting until a stack has sent what it was given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ..events import IN
from ..vpoll import VPoll
from .base import Stack

__all__ = ["until"]

# Seconds until the first look; doubled for each of the next, up to the second number.
_LOOK: Final = (0.001, 0.05)


def until(stack: Stack, timeout: float, finished: Callable[[], bool]) -> bool:
    """Let `stack` work until `finished` says so; return False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause, longest = _LOOK
    with VPoll() as nothing:
        while not finished():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            stack.wait(nothing, int(IN), min(pause, left))
            pause = min(2 * pause, longest)
    return True
