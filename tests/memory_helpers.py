"""Sockets of one stack, for its own tests: the suite's helpers with both hosts the same."""

from __future__ import annotations

from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.testing import stack_suite
from vpoll_asyncio.testing.stack_suite import (
    ALL_BITS,
    BOUND,
    DEAD,
    ERR,
    FIONREAD,
    HUP,
    PRI,
    RDHUP,
    SIOCATMARK,
    WRBAND,
    Hosts,
    R,
    W,
    ask,
    error_of,
    failure,
    fill,
    linger_zero,
    mask_of,
    settles,
    small_buffers,
    until,
)

__all__ = [
    "ALL_BITS",
    "BOUND",
    "DEAD",
    "ERR",
    "FIONREAD",
    "HUP",
    "PRI",
    "RDHUP",
    "SIOCATMARK",
    "WRBAND",
    "Lab",
    "R",
    "W",
    "ask",
    "error_of",
    "failure",
    "fill",
    "linger_zero",
    "mask_of",
    "settles",
    "small_buffers",
    "until",
]


class Lab(stack_suite.Lab):
    """Sockets of one stack, all non-blocking, all closed at the end."""

    def __init__(self, stack: Stack, address: str = "127.0.0.1") -> None:
        super().__init__(Hosts(stack, stack, address, address))
