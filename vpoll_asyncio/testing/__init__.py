"""For the tests of those who write backends or stacks: what these must do, and how to check it.

`VPollModel` and `EpollModel` are a vpoll and an epoll in plain Python; `vpoll_machine` runs a
backend against them, with the kernel's epoll, poll and select as observers.

`StackSuite` is a test class that a stack's author subclasses: the conformance suite, in
`vpoll_asyncio.testing.stack_suite`.  `Oracle` and `compare` do the same on a stack and on the
host's kernel and compare every step.

`masks`, `interests`, `operation`, `operations`, `chunkings`, `byte_streams`, `faults` and
`socket_programs` are Hypothesis strategies.

The names listed in `__all__` and their parameters are kept; what a strategy generates may come
to be more, within the bounds that its docstring gives, and a suite may get more tests.

`Network` is a network of hosts in a test's own process, for tests of programs; the pytest
plugin of this package has it as the fixture `network`.

Each name is imported when it is asked for: Hypothesis is needed for the strategies, the
machine and the suite, pytest for the suite alone.  Nothing else in this package imports
this one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .bytestreams import ByteStream, byte_streams, chunkings
    from .epoll import EpollModel
    from .hermetic import Network
    from .machine import TRAITS, Traits, VPollMachine, vpoll_machine
    from .model import VPollModel
    from .networkfaults import FAULT_WORDS, Faults, faults
    from .pollable import DescriptorModel
    from .sleepers import Sleeper, wait_until_asleep
    from .stack_suite import (
        DATAGRAM_CALLS,
        STREAM_CALLS,
        Difference,
        Hosts,
        Lab,
        Mismatch,
        Oracle,
        SocketStep,
        StackSuite,
        compare,
        differences_table,
        socket_programs,
        wakeups,
    )
    from .strategies import NAMED, Operation, interests, masks, operation, operations

__all__ = [
    "DATAGRAM_CALLS",
    "FAULT_WORDS",
    "NAMED",
    "STREAM_CALLS",
    "TRAITS",
    "ByteStream",
    "DescriptorModel",
    "Difference",
    "EpollModel",
    "Faults",
    "Hosts",
    "Lab",
    "Mismatch",
    "Network",
    "Operation",
    "Oracle",
    "Sleeper",
    "SocketStep",
    "StackSuite",
    "Traits",
    "VPollMachine",
    "VPollModel",
    "byte_streams",
    "chunkings",
    "compare",
    "differences_table",
    "faults",
    "interests",
    "masks",
    "operation",
    "operations",
    "socket_programs",
    "vpoll_machine",
    "wait_until_asleep",
    "wakeups",
]

_MODULES: Final = {
    "bytestreams": ("ByteStream", "byte_streams", "chunkings"),
    "epoll": ("EpollModel",),
    "hermetic": ("Network",),
    "machine": ("TRAITS", "Traits", "VPollMachine", "vpoll_machine"),
    "model": ("VPollModel",),
    "networkfaults": ("FAULT_WORDS", "Faults", "faults"),
    "pollable": ("DescriptorModel",),
    "sleepers": ("Sleeper", "wait_until_asleep"),
    "stack_suite": (
        "DATAGRAM_CALLS",
        "STREAM_CALLS",
        "Difference",
        "Hosts",
        "Lab",
        "Mismatch",
        "Oracle",
        "SocketStep",
        "StackSuite",
        "compare",
        "differences_table",
        "socket_programs",
        "wakeups",
    ),
    "strategies": ("NAMED", "Operation", "interests", "masks", "operation", "operations"),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
