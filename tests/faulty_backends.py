"""Backends with one planted fault each, over a real one: what a test must be able to find."""

from __future__ import annotations

import os
from collections.abc import Callable

from vpoll_asyncio import EventMask
from vpoll_asyncio.backends import Backend, Mirror
from vpoll_asyncio.backends.base import ADD, DEL, SET

__all__ = ["EDGE_FAULTS", "LEVEL_FAULTS", "FaultyBackend", "FaultyMirror"]

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP


class FaultyMirror(Mirror):
    """What a real mirror does: faults are subclasses.

    create -- makes another real mirror
    """

    def __init__(self, real: Mirror, create: Callable[[int], Mirror]) -> None:
        self.real = real
        self.create = create
        self.fd = real.fd
        self.shared = real.shared

    @classmethod
    def first(cls, mask: int) -> int:
        """What the kernel object is made with for the first mask."""
        return mask

    def apply(self, command: int, argument: int, mask: int) -> int:
        return self.real.apply(command, argument, mask)

    def read_mask(self, mask: int) -> int:
        return self.real.read_mask(mask)

    def check_owner(self) -> None:
        self.real.check_owner()

    def dup(self) -> int:
        return self.real.dup()

    def move(self, fd: int) -> None:
        self.real.move(fd)
        self.fd = fd

    def release(self, fd: int) -> None:
        self.real.release(fd)

    def close(self) -> None:
        self.real.close()


class Pretending(FaultyMirror):
    """Shows another mask than it claims to have: only pollers can tell."""

    def __init__(self, real: Mirror, create: Callable[[int], Mirror]) -> None:
        super().__init__(real, create)
        self.shared = False
        self.mask = 0

    def apply(self, command: int, argument: int, mask: int) -> int:
        shown = self.instead(command, argument, mask)
        self.real.apply(SET, shown, shown)
        self.mask = mask
        return mask

    def instead(self, command: int, argument: int, mask: int) -> int:
        """What it shows for `mask`; `self.mask` is the one before."""
        return mask


class ForgetsToClear(Pretending):
    """del_events clears nothing."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return mask | argument if command == DEL else mask


class SetsOnlyMore(Pretending):
    """set_events adds."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return self.mask | mask if command == SET else mask


class ClearsOut(Pretending):
    """A change of IN takes OUT along."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return mask & ~OUT if (mask ^ self.mask) & IN else mask


class CountsAdditions(Pretending):
    """IN that was added twice is still there after one deletion, as libvpoll has it."""

    def __init__(self, real: Mirror, create: Callable[[int], Mirror]) -> None:
        super().__init__(real, create)
        self.additions = 0

    def instead(self, command: int, argument: int, mask: int) -> int:
        if command == ADD and argument & IN:
            self.additions += 1
        if command == DEL and argument & IN:
            self.additions = max(self.additions - 1, 0)
        if command == SET:
            self.additions = mask & IN
        return mask | (IN if self.additions else 0)


class DropsTheFirstMask(FaultyMirror):
    """The first mask is not shown until the next operation, as libvpoll has it."""

    @classmethod
    def first(cls, mask: int) -> int:
        return 0


class DuplicateIsAnother(FaultyMirror):
    """A duplicate's descriptor is a kernel object of its own, which nobody operates."""

    def dup(self) -> int:
        other = self.create(0)
        fd = os.dup(other.fd)
        other.release(other.fd)
        other.close()
        return fd


class ErrIsInAndOut(Pretending):
    """ERR is shown as IN and OUT."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return (mask & ~ERR) | IN | OUT if mask & ERR else mask


class RdhupIsIn(Pretending):
    """RDHUP brings IN, as on a socket."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return mask | IN if mask & RDHUP else mask


class PriIsLost(Pretending):
    """PRI is ignored in silence, as libvpoll has it."""

    def instead(self, command: int, argument: int, mask: int) -> int:
        return mask & ~PRI


class HupStays(Pretending):
    """HUP cannot be undone, as on a pair whose other end is closed."""

    hung_up = 0

    def instead(self, command: int, argument: int, mask: int) -> int:
        self.hung_up |= mask & HUP
        return mask | self.hung_up


class LosesTheRepeatedEdge(FaultyMirror):
    """The kernel object is touched by differences only."""

    mask: int | None = None

    def apply(self, command: int, argument: int, mask: int) -> int:
        if mask != self.mask:
            self.mask = self.real.apply(command, argument, mask)
        return mask


class DeletesInSilence(FaultyMirror):
    """Deleting what is not set is no wake-up."""

    mask = 0

    def apply(self, command: int, argument: int, mask: int) -> int:
        if command == DEL and not self.mask & argument:
            return self.mask
        self.mask = self.real.apply(command, argument, mask)
        return self.mask


class LookingIsAnEdge(FaultyMirror):
    """Whoever asks for the events wakes the waiters."""

    def read_mask(self, mask: int) -> int:
        return self.real.apply(ADD, 0, mask)


class ClosingWakes(FaultyMirror):
    """Closing one of several handles wakes the waiters of the others."""

    gone = False

    def release(self, fd: int) -> None:
        if fd == self.fd:
            self.gone = True
        elif not self.gone:
            self.real.apply(ADD, 0, 0)
        super().release(fd)


LEVEL_FAULTS = [
    ForgetsToClear,
    SetsOnlyMore,
    ClearsOut,
    CountsAdditions,
    DropsTheFirstMask,
    DuplicateIsAnother,
]
"""Faults that a level-triggered waiter for IN and OUT can see."""

EDGE_FAULTS = [
    ErrIsInAndOut,
    RdhupIsIn,
    PriIsLost,
    HupStays,
    LosesTheRepeatedEdge,
    DeletesInSilence,
    LookingIsAnEdge,
    ClosingWakes,
]
"""Faults that a backend can have which promises all that EFD_VPOLL does."""


class FaultyBackend(Backend):
    """The backend `real` with the fault of the mirror class `fault`."""

    def __init__(self, real: Backend, fault: type[FaultyMirror]) -> None:
        self.real = real
        self.fault = fault
        self.name = real.name
        self.exact = real.exact

    def missing(self) -> str:
        return self.real.missing()

    def create(self, mask: int) -> Mirror:
        return self.fault(self.real.create(self.fault.first(mask)), self.real.create)
