"""What every turn of a loop with work asks its selector for, and every event touches."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .accelerator import ACCELERATOR

__all__ = ["SelectorState"]

# How often in succession, and for how many seconds, a loop that has work of its own may
# spare the kernel poll: it costs more than such a turn.
_SPARED_POLLS: Final = 15
_SPARED_TIME: Final = 0.001


class SelectorState:
    """A selector's ready set, its epoll, and whether it sleeps.

    Subclasses have ``_select_slowly(timeout)``, for what `select` itself does not do, and
    ``_keys(seen)``, which makes a selector's answer of epoll's.
    """

    __slots__ = (
        "asleep",
        "entries",
        "epoll",
        "push",
        "ready",
        "spare",
        "spared",
        "spared_until",
        "work",
    )

    ready: deque[Any]
    """The ready set.  Only vpolls' waiters append to it."""
    asleep: bool
    """Whether a wake-up is needed, for whoever has just published something."""
    work: object
    """What a loop sets: its queue, whose truth says after the announcement of sleep that
    there is work, and no sleep at all."""
    push: Callable[[Any], object] | None
    """What a loop sets: queues a handle for its next turn."""
    spare: bool
    """What a loop sets after queueing work of its own: the kernel poll may be left out
    of the next `select` that does not sleep, within bounds."""
    entries: dict[int, Any]
    """What is registered, by descriptor or number."""

    def __init__(self, epoll: select.epoll) -> None:
        self.ready = deque()
        self.asleep = False
        self.work = self.push = None
        self.spare = False
        self.entries = {}
        self.epoll = epoll
        self.spared = 0
        self.spared_until = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """Wait until something registered is ready; return its (key, events).

        The events are EVENT_READ, EVENT_WRITE or both, and for keys that were
        registered by mask the exact EventMask.

        timeout -- seconds, rounded up to milliseconds as epoll counts; None waits for
            ever, 0 and less do not wait

        Returns an empty list after `timeout`, or earlier when a loop has `work`.
        Signal handlers run meanwhile, and what they raise is raised here.
        """
        # What a loop asks for in every turn that has work: in as few calls as can be.
        if timeout == 0 and not self.ready:
            if self.spare and self.may_spare():
                return []
            self.spared = 0
            seen = self.epoll.poll(0, len(self.entries) + 1)
            return self._keys(seen) if seen else []
        return self._select_slowly(timeout)

    def _select_slowly(self, timeout: float | None) -> list[tuple[Any, int]]:
        raise NotImplementedError

    def _keys(self, seen: list[tuple[int, int]]) -> list[tuple[Any, int]]:
        raise NotImplementedError

    def may_spare(self) -> bool:
        """Count one more poll as spared, unless the bounds forbid it; return whether."""
        self.spare = False
        now = monotonic()
        if not self.spared:
            self.spared_until = now + _SPARED_TIME
        elif self.spared >= _SPARED_POLLS or now >= self.spared_until:
            return False
        self.spared += 1
        return True

    def poll_next(self) -> None:
        """Make the next `select` poll the kernel, whatever a loop has queued."""
        self.spared = _SPARED_POLLS
        self.spared_until = 0.0

    def close_epoll(self) -> None:
        """Give back the epoll's descriptor.  Closing twice is allowed."""
        self.epoll.close()


if not TYPE_CHECKING and ACCELERATOR is not None:
    SelectorState = ACCELERATOR.SelectorState
