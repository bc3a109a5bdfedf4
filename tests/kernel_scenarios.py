"""Scenarios that hold on a stack and on Linux: the kernel's part runs in a namespace of its own.

What a scenario does needs privileges of the kernel (raw sockets, ping sockets, multicast), or
would leave the machine, and so a namespace is made for it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from link_helpers import ip
from memory_helpers import Lab
from vpoll_asyncio.stacks.host import host_stack

Scenario = Callable[[Lab], None]


class Scenarios:
    """A list of functions of a `Lab`; a decorator that adds one."""

    def __init__(self) -> None:
        self.all: list[Scenario] = []

    def __call__(self, scenario: Scenario) -> Scenario:
        self.all.append(scenario)
        return scenario

    @property
    def names(self) -> list[str]:
        return [scenario.__name__ for scenario in self.all]

    def run_on_linux(self) -> None:
        """Run every scenario on the kernel, inside of a namespace; say which do not hold."""
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        ip("link", "set", "lo", "up")
        failed = []
        for scenario in self.all:
            lab = Lab(host_stack())
            try:
                scenario(lab)
            except (Exception, pytest.fail.Exception):
                failed.append(f"{scenario.__name__}:\n{traceback.format_exc()}")
            finally:
                lab.close()
        assert not failed, "\n".join(failed)
