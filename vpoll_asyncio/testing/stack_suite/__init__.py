"""The conformance suite for stacks: Linux's sockets, as tests that a stack's author runs.

`StackSuite` is subclassed with a fixture ``hosts``; docs/reference/testing.md shows how.  pytest
and Hypothesis must be installed.
"""

from __future__ import annotations

import pytest

__all__ = [
    "ALL_BITS",
    "BOUND",
    "DATAGRAM_CALLS",
    "DEAD",
    "ERR",
    "FIONREAD",
    "HUP",
    "PRI",
    "RDHUP",
    "SIOCATMARK",
    "STREAM_CALLS",
    "WRBAND",
    "Difference",
    "Hosts",
    "Lab",
    "Mismatch",
    "Oracle",
    "R",
    "SocketStep",
    "StackSuite",
    "W",
    "ask",
    "compare",
    "differences_table",
    "error_of",
    "failure",
    "fill",
    "linger_zero",
    "mask_of",
    "settles",
    "small_buffers",
    "socket_programs",
    "until",
    "wakeups",
]

_PARTS = (
    "connections",
    "datagrams",
    "loops",
    "masks",
    "names",
    "options",
    "program_datagrams",
    "program_full",
    "program_ports",
    "program_streams",
    "programs",
    "streams",
    "threads",
    "transfers",
    "urgent",
    "wakeups",
)

for _part in _PARTS:
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from .base import Difference  # noqa: E402 - their assertions are rewritten by then
from .connections import ConnectionTests  # noqa: E402
from .datagrams import DatagramTests  # noqa: E402
from .lab import (  # noqa: E402
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
    Lab,
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
from .loops import LoopTests  # noqa: E402
from .masks import MaskTests  # noqa: E402
from .names import NameTests  # noqa: E402
from .options import OptionTests  # noqa: E402
from .oracle import Oracle  # noqa: E402
from .random_programs import ProgramTests  # noqa: E402
from .socketprograms import (  # noqa: E402
    DATAGRAM_CALLS,
    STREAM_CALLS,
    Mismatch,
    SocketStep,
    compare,
    socket_programs,
)
from .streams import StreamTests  # noqa: E402
from .table import differences_table  # noqa: E402
from .threads import ThreadTests  # noqa: E402
from .transfers import TransferTests  # noqa: E402
from .urgent import UrgentTests  # noqa: E402
from .wakeups import WakeupTests, wakeups  # noqa: E402


class StackSuite(
    MaskTests,
    UrgentTests,
    WakeupTests,
    NameTests,
    ConnectionTests,
    DatagramTests,
    OptionTests,
    StreamTests,
    TransferTests,
    LoopTests,
    ProgramTests,
    ThreadTests,
):
    """Everything that a stack's sockets must do: a test class to subclass."""
