"""The `virtual` backend: a number that only our own selector understands.

The numbers start at 2**30, above the ``nr_open`` of every kernel, so a kernel call
that is given one by mistake answers EBADF and never touches another file.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Final

from ..events import KEPT
from .base import Backend, Mirror

__all__ = ["FIRST_NUMBER", "VirtualBackend", "lookup", "new_number", "number_of"]

FIRST_NUMBER: Final = 1 << 30

_numbers = itertools.count(FIRST_NUMBER)
_vpolls: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def new_number() -> int:
    """Return a number that nothing has, nor will be given here."""
    return next(_numbers)


def number_of(vpoll: Any) -> int:
    """Return a new number under which `lookup` finds `vpoll` while that object lives."""
    number = new_number()
    _vpolls[number] = vpoll
    return number


def lookup(number: int) -> Any | None:
    """Return the vpoll behind `number`, or None when there is none."""
    return _vpolls.get(number)


def forget(number: int) -> None:
    """Drop `number`; unknown numbers are ignored."""
    _vpolls.pop(number, None)


class VirtualMirror(Mirror):
    """Nothing to mirror: the selector sits on the vpoll's own wait queue."""

    fd = -1

    def apply(self, command: int, argument: int, mask: int) -> int:
        return mask

    def dup(self) -> int:
        return -1

    def release(self, fd: int) -> None:
        forget(fd)


class VirtualBackend(Backend):
    """Numbers for `VPollSelector`; no kernel object, no system call, every event."""

    name = "virtual"
    exact = KEPT
    chosen_by_name_only = True

    def missing(self) -> str:
        return ""

    def create(self, mask: int) -> Mirror:
        return VirtualMirror()
