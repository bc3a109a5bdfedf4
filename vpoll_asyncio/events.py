"""Event masks: the kernel's poll bits, and what each poller makes of them.

`EventMask` is the public face.  Code that runs for every event keeps plain ints
and the constants below, since combining two `IntFlag` members costs some thirty
times what combining two ints does.
"""

from __future__ import annotations

import enum
import selectors
from typing import Final

__all__ = ["EventMask", "check_mask", "from_selector", "to_select", "to_selector"]

IN: Final = 0x001
PRI: Final = 0x002
OUT: Final = 0x004
ERR: Final = 0x008
HUP: Final = 0x010
NVAL: Final = 0x020
RDNORM: Final = 0x040
RDBAND: Final = 0x080
WRNORM: Final = 0x100
WRBAND: Final = 0x200
MSG: Final = 0x400
RDHUP: Final = 0x2000

# Reported whether asked for or not: epoll(7).
ALWAYS: Final = ERR | HUP
# EFD_VPOLL keeps bits 0 to 27; above them are epoll's own input flags (EPOLLEXCLUSIVE …).
KEPT: Final = 0x0FFF_FFFF
REFUSED: Final = ~KEPT

# The kernel's POLLFREE: a wake-up with it makes an epoll let go of the file for ever.
POLLFREE: Final = 0x4000

# The patch's commands, in the upper half of the eight bytes of a write(2).
ADD: Final = 1
DEL: Final = 2
SET: Final = 3

# fs/select.c: POLLIN_SET, POLLOUT_SET, POLLEX_SET; NVAL is in all of them since Linux 5.17.
_SELECT_READABLE: Final = IN | ERR | HUP | NVAL | RDNORM | RDBAND
_SELECT_WRITABLE: Final = OUT | ERR | NVAL | WRNORM | WRBAND
_SELECT_EXCEPTIONAL: Final = PRI | NVAL


class EventMask(enum.IntFlag):
    """A set of poll events, with the kernel's own values (``EPOLL*``, ``POLL*``).

    Members combine with ``|``, ``&`` and ``~`` and compare equal to plain ints.
    Values without a name are kept, as the kernel keeps them; ``~`` is the rest of
    bits 0 to 27.
    """

    IN = IN
    PRI = PRI
    OUT = OUT
    ERR = ERR
    HUP = HUP
    NVAL = NVAL
    RDNORM = RDNORM
    RDBAND = RDBAND
    WRNORM = WRNORM
    WRBAND = WRBAND
    MSG = MSG
    RDHUP = RDHUP

    def __invert__(self) -> EventMask:
        return EventMask(KEPT & ~self._value_)


def check_mask(mask: int) -> int:
    """Return `mask` as a plain int.

    Raises ValueError for bits outside 0 to 27, as EFD_VPOLL answers EINVAL to them,
    and TypeError for what is no integer.
    """
    if mask & REFUSED:
        raise bad_mask(mask)
    return int(mask)


def bad_mask(mask: int) -> ValueError:
    """Return the error for a mask with bits that no vpoll keeps."""
    return ValueError(
        f"event mask {mask:#x} has bits outside {KEPT:#x}: use EPOLL* event bits only, "
        "without trigger flags such as EPOLLET"
    )


def to_select(mask: int) -> tuple[bool, bool, bool]:
    """Return whether ``select(2)`` calls `mask` readable, writable, exceptional."""
    return (
        bool(mask & _SELECT_READABLE),
        bool(mask & _SELECT_WRITABLE),
        bool(mask & _SELECT_EXCEPTIONAL),
    )


def from_selector(events: int) -> int:
    """Return the interest that `selectors.EVENT_READ` and `EVENT_WRITE` stand for."""
    return (IN if events & selectors.EVENT_READ else 0) | (
        OUT if events & selectors.EVENT_WRITE else 0
    )


def to_selector(mask: int, interest: int) -> int:
    """Return the `selectors` events that `mask` means to a waiter for `interest`.

    As in `selectors.EpollSelector` over ``epoll_wait``: the mask is first cut to
    `interest` and what is always reported; of the rest every bit but OUT reads as
    READ and every bit but IN as WRITE.
    """
    seen = mask & (interest | ALWAYS)
    return (selectors.EVENT_READ if seen & ~OUT else 0) | (
        selectors.EVENT_WRITE if seen & ~IN else 0
    )
