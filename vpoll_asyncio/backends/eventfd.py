"""The `eventfd` backend: a kernel whose eventfd2 knows EFD_VPOLL.

Flag bit 1 makes an eventfd whose value is its event mask.  An eight-byte write(2) of
``(command << 32) | mask`` operates it, read(2) returns the mask at once and leaves it
alone.  Kernels without the flag answer EINVAL.

POLLFREE (bit 14) cuts whoever waits off, so it stays in this process.
"""

from __future__ import annotations

import os
import select
import struct
from typing import Final

from ..events import HUP, KEPT, POLLFREE
from .base import SHORTAGES, Backend, Mirror

__all__ = ["EFD_VPOLL", "PASSED", "EventfdBackend", "EventfdMirror", "encode"]

EFD_VPOLL: Final = 0x2

PASSED: Final = KEPT & ~POLLFREE
"""What is passed on to a kernel object."""

_eight_bytes: Final = struct.Struct("=Q")

# Under `install` the names in `os` refuse the descriptors of user sockets.
_read: Final = os.read
_write: Final = os.write


def encode(command: int, mask: int) -> bytes:
    """Return the eight bytes that tell the kernel to do `command` (ADD, DEL, SET)."""
    return _eight_bytes.pack(command << 32 | mask)


def open_eventfd(mask: int) -> int:
    """Return a new close-on-exec descriptor whose events are `mask`.

    Raises OSError: EINVAL from a kernel without EFD_VPOLL, EMFILE ….
    """
    return os.eventfd(mask, os.EFD_CLOEXEC | EFD_VPOLL)


class EventfdMirror(Mirror):
    """One EFD_VPOLL descriptor, which every process that holds it may operate."""

    shared = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def apply(self, command: int, argument: int, mask: int) -> int:
        _write(self.fd, encode(command, argument & PASSED))
        return self.read_mask(mask)

    def read_mask(self, mask: int) -> int:
        known: int = _eight_bytes.unpack(_read(self.fd, _eight_bytes.size))[0]
        return known & PASSED | mask & POLLFREE


class EventfdBackend(Backend):
    """eventfd2 with EFD_VPOLL: every event, one system call an operation."""

    name = "eventfd"
    exact = PASSED

    def __init__(self) -> None:
        self._found = False

    def missing(self) -> str:
        if self._found:
            return ""
        try:
            fd = open_eventfd(HUP)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return f"eventfd2(EFD_VPOLL): {error.strerror}: this kernel lacks EFD_VPOLL"
        try:
            poll = select.poll()
            poll.register(fd, 0)
            # No other meaning of the flag would make an eventfd report a hang-up.
            self._found = poll.poll(0) == [(fd, HUP)]
        finally:
            os.close(fd)
        return "" if self._found else "eventfd2: flag 2 is not EFD_VPOLL in this kernel"

    def create(self, mask: int) -> Mirror:
        return EventfdMirror(open_eventfd(mask & PASSED))
