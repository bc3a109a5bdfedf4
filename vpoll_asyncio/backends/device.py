"""The `device` backend: the character device ``/dev/vpoll`` of Debian's vpoll-dkms.

Every open file of it is one event mask, 0 at first; ioctl(2) operates it and returns
the new mask.  It has neither read(2) nor write(2).

POLLFREE (bit 14) cuts whoever waits off, so it stays in this process.
"""

from __future__ import annotations

import errno
import os
import select

# Under `install` the name in the module stands for the calls of user sockets.
from fcntl import ioctl
from typing import Final

from ..events import KEPT, POLLFREE, EventMask
from .base import ADD, SET, SHORTAGES, Backend, Mirror
from .eventfd import PASSED

__all__ = ["DeviceBackend", "DeviceMirror", "request"]

PATH: Final = "/dev/vpoll"

# fs/select.c: poll(2) translates the bits that have a name and drops the others.
_POLLED: Final = sum(EventMask)


def request(command: int) -> int:
    """Return the ioctl request of `command` (ADD, DEL, SET): ``_IO('^', command)``."""
    return ord("^") << 8 | command


class DeviceMirror(Mirror):
    """One open file of the device, which every process that holds it may operate."""

    shared = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def apply(self, command: int, argument: int, mask: int) -> int:
        known = ioctl(self.fd, request(command), argument & PASSED)
        return known & PASSED | mask & POLLFREE

    def read_mask(self, mask: int) -> int:
        # Each ioctl wakes every waiter, so a poller has to tell.
        try:
            with select.epoll() as epoll:
                epoll.register(self.fd, KEPT)
                told = epoll.poll(0)
                return (told[0][1] if told else 0) | mask & POLLFREE
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
        # poll(2) needs no descriptor; the bits that it drops are those we know of.
        poll = select.poll()
        poll.register(self.fd, _POLLED)
        seen = poll.poll(0)
        return (mask & ~_POLLED) | (seen[0][1] if seen else 0)


class DeviceBackend(Backend):
    """``/dev/vpoll``: every event, one system call an operation."""

    name = "device"
    exact = PASSED

    def __init__(self) -> None:
        self._found = False

    def missing(self) -> str:
        if self._found:
            return ""
        try:
            fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return f"{PATH}: {error.strerror} (Debian package vpoll-dkms)"
        try:
            ioctl(fd, request(ADD), 0)
        except OSError as error:
            return f"{PATH}: {error.strerror}: not the device of vpoll-dkms"
        finally:
            os.close(fd)
        self._found = True
        return ""

    def create(self, mask: int) -> Mirror:
        fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        try:
            ioctl(fd, request(SET), mask & PASSED)
        except BaseException:
            os.close(fd)
            raise
        return DeviceMirror(fd)
