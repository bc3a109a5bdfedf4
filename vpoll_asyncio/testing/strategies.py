"""Hypothesis strategies for what happens to a vpoll: masks, interests, operations."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from hypothesis import strategies as st

from ..events import ERR, HUP, IN, OUT, EventMask, check_mask
from .epoll import EDGE, EXCLUSIVE, ONE_SHOT

__all__ = ["NAMED", "Operable", "Operation", "interests", "masks", "operation", "operations"]

NAMED = EventMask(sum(EventMask))
"""The twelve events that have a name."""


class Operable(Protocol):
    """What an `Operation` can be carried out on: a `VPoll`, a `VPollModel`."""

    def add_events(self, mask: int) -> int:
        """Add `mask` to the pending events; return the new mask."""

    def del_events(self, mask: int) -> int:
        """Remove `mask` from the pending events; return the new mask."""

    def set_events(self, mask: int) -> int:
        """Make `mask` the pending events; return it."""


class Operation(NamedTuple):
    """One operation on a vpoll, as data."""

    command: Literal["add", "del", "set"]
    mask: int

    def on(self, vpoll: Operable) -> int:
        """Carry it out on `vpoll`; return the new mask.  Raises what the method raises."""
        if self.command == "add":
            return vpoll.add_events(self.mask)
        if self.command == "del":
            return vpoll.del_events(self.mask)
        return vpoll.set_events(self.mask)

    def after(self, mask: int) -> int:
        """Return what it makes of `mask`."""
        if self.command == "add":
            return mask | self.mask
        if self.command == "del":
            return mask & ~self.mask
        return self.mask


def masks(bits: int = NAMED) -> st.SearchStrategy[int]:
    """Generate event masks: every set of the events of `bits`, single ones often.

    Values are plain ints and shrink towards 0.  Raises ValueError for bits outside 0 to 27.
    """
    check_mask(bits)
    single = [1 << number for number in range(28) if bits >> number & 1]
    sets = st.integers(0, int(bits)).map(lambda mask: mask & bits)
    return st.one_of(st.just(0), st.sampled_from(single), sets) if single else st.just(0)


def interests(bits: int = NAMED, *, triggers: bool = True) -> st.SearchStrategy[int]:
    """Generate what an epoll may be asked for: events of `bits` and trigger flags.

    triggers -- whether edge-triggered, one-shot and exclusive interests are among them;
        without, all are level-triggered

    Every value is one that EPOLL_CTL_ADD takes: an exclusive interest is not one-shot and
    asks for no events but IN, OUT, ERR and HUP.  Values shrink towards level-triggered.
    Raises ValueError for bits outside 0 to 27.
    """
    if not triggers:
        return masks(bits)
    flags = st.sampled_from([0, EDGE, ONE_SHOT, EDGE | ONE_SHOT])
    ordinary = st.builds(int.__or__, masks(bits), flags)
    exclusive = st.builds(
        int.__or__,
        masks(bits & (IN | OUT | ERR | HUP)),
        st.sampled_from([EXCLUSIVE, EXCLUSIVE | EDGE]),
    )
    return st.one_of(ordinary, ordinary, exclusive)


def operation(bits: int = NAMED) -> st.SearchStrategy[Operation]:
    """Generate one `Operation` on events of `bits`.

    Raises ValueError for bits outside 0 to 27.
    """
    return st.builds(Operation, st.sampled_from(["add", "del", "set"]), masks(bits))


def operations(bits: int = NAMED, *, max_size: int = 30) -> st.SearchStrategy[list[Operation]]:
    """Generate sequences of at most `max_size` operations on events of `bits`.

    Raises ValueError for bits outside 0 to 27.
    """
    return st.lists(operation(bits), max_size=max_size)
