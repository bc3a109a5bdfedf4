"""For the tests of those who write backends: what a vpoll must do, and a machine that checks.

`VPollModel` and `EpollModel` are a vpoll and an epoll in plain Python.  `masks`, `interests`,
`operation` and `operations` are Hypothesis strategies.  `vpoll_machine` runs a backend
against the model, with the kernel's epoll, poll and select as observers.

Hypothesis must be installed; nothing else in this package imports this one.
"""

from .epoll import EpollModel
from .machine import TRAITS, Traits, VPollMachine, vpoll_machine
from .model import VPollModel
from .pollable import DescriptorModel
from .sleepers import Sleeper, wait_until_asleep
from .strategies import NAMED, Operation, interests, masks, operation, operations

__all__ = [
    "NAMED",
    "TRAITS",
    "DescriptorModel",
    "EpollModel",
    "Operation",
    "Sleeper",
    "Traits",
    "VPollMachine",
    "VPollModel",
    "interests",
    "masks",
    "operation",
    "operations",
    "vpoll_machine",
    "wait_until_asleep",
]
