"""A descriptor that becomes readable at a time: timerfd_create(2).

Python has it from 3.13 on only.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final

__all__ = ["Timer"]

_TFD_TIMER_ABSTIME: Final = 1
_SECOND: Final = 1_000_000_000


class _ItimerSpec(ctypes.Structure):
    # struct itimerspec: interval and value, two struct timespec
    _fields_ = [
        ("interval_sec", ctypes.c_long),
        ("interval_nsec", ctypes.c_long),
        ("sec", ctypes.c_long),
        ("nsec", ctypes.c_long),
    ]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.timerfd_settime.argtypes = [
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(_ItimerSpec),
    ctypes.c_void_p,
]


class Timer:
    """A timerfd on CLOCK_MONOTONIC.  Raises the OSError of timerfd_create(2)."""

    def __init__(self) -> None:
        self._spec = _ItimerSpec()
        self._due: int | None = None
        # TFD_CLOEXEC and TFD_NONBLOCK are the values of open(2).
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        """Readable from the time that was set on, until another one is set."""
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def set(self, due: int | None, now: int) -> None:
        """Become readable when `time.monotonic_ns` is `due`; None: not at all.

        now -- what the clock says: a time that has been reached is set anew, for the next turn
        """
        if due == self._due and (due is None or due > now):
            return
        self._due = due
        spec = self._spec
        # A value of 0 would disarm it.
        spec.sec, spec.nsec = divmod(max(due, 1), _SECOND) if due is not None else (0, 0)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
