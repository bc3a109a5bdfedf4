"""For the tests of those who write backends or stacks: what these must do, and how to check it.

`VPollModel` and `EpollModel` are a vpoll and an epoll in plain Python.  `masks`, `interests`,
`operation` and `operations` are Hypothesis strategies.  `vpoll_machine` runs a backend
against the model, with the kernel's epoll, poll and select as observers.

`StackSuite` is a test class that a stack's author subclasses: the conformance suite, in
`vpoll_asyncio.testing.stack_suite`.

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
    from .epoll import EpollModel
    from .hermetic import Network
    from .machine import TRAITS, Traits, VPollMachine, vpoll_machine
    from .model import VPollModel
    from .pollable import DescriptorModel
    from .sleepers import Sleeper, wait_until_asleep
    from .stack_suite import Difference, Hosts, Lab, StackSuite, differences_table
    from .strategies import NAMED, Operation, interests, masks, operation, operations

__all__ = [
    "NAMED",
    "TRAITS",
    "DescriptorModel",
    "Difference",
    "EpollModel",
    "Hosts",
    "Lab",
    "Network",
    "Operation",
    "Sleeper",
    "StackSuite",
    "Traits",
    "VPollMachine",
    "VPollModel",
    "differences_table",
    "interests",
    "masks",
    "operation",
    "operations",
    "vpoll_machine",
    "wait_until_asleep",
]

_MODULES: Final = {
    "epoll": ("EpollModel",),
    "hermetic": ("Network",),
    "machine": ("TRAITS", "Traits", "VPollMachine", "vpoll_machine"),
    "model": ("VPollModel",),
    "pollable": ("DescriptorModel",),
    "sleepers": ("Sleeper", "wait_until_asleep"),
    "stack_suite": ("Difference", "Hosts", "Lab", "StackSuite", "differences_table"),
    "strategies": ("NAMED", "Operation", "interests", "masks", "operation", "operations"),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
