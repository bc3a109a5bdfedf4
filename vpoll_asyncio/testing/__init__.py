"""For the tests of those who write backends or stacks: what these must do, and how to check it.

`VPollModel` and `EpollModel` are a vpoll and an epoll in plain Python.  `masks`, `interests`,
`operation` and `operations` are Hypothesis strategies.  `vpoll_machine` runs a backend
against the model, with the kernel's epoll, poll and select as observers.

`StackSuite` is a test class that a stack's author subclasses: the conformance suite, in
`vpoll_asyncio.testing.stack_suite`.

Hypothesis must be installed, and pytest for the suite, which is imported when it is asked for.
Nothing else in this package imports this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .epoll import EpollModel
from .machine import TRAITS, Traits, VPollMachine, vpoll_machine
from .model import VPollModel
from .pollable import DescriptorModel
from .sleepers import Sleeper, wait_until_asleep
from .strategies import NAMED, Operation, interests, masks, operation, operations

if TYPE_CHECKING:
    from .stack_suite import Difference, Hosts, Lab, StackSuite, differences_table

__all__ = [
    "NAMED",
    "TRAITS",
    "DescriptorModel",
    "Difference",
    "EpollModel",
    "Hosts",
    "Lab",
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

_OF_THE_SUITE = frozenset({"Difference", "Hosts", "Lab", "StackSuite", "differences_table"})


def __getattr__(name: str) -> Any:
    if name not in _OF_THE_SUITE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import stack_suite

    return getattr(stack_suite, name)
