"""The conformance suite over a memory network whose paths have conditions.

What it holds of Linux's sockets holds over a path that delays, and over one that loses, where
a stream does not show it.  ``VPOLL_TEST_LONG=1`` runs all of it; else what is about streams'
states, their ends and their data.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import stack_differences
from scale import LONG
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.testing.stack_suite import Difference, Hosts, StackSuite
from vpoll_asyncio.testing.stack_suite.connections import ConnectionTests
from vpoll_asyncio.testing.stack_suite.masks import MaskTests
from vpoll_asyncio.testing.stack_suite.streams import StreamTests
from vpoll_asyncio.testing.stack_suite.transfers import TransferTests
from vpoll_asyncio.testing.stack_suite.urgent import UrgentTests

_numbers = itertools.count()

_LOST = Difference("of many datagrams some are lost", run=False)
LOSSY = (
    "test_datagrams_keep_their_bounds_and_their_order",
    "test_eight_threads_on_one_datagram_socket_and_its_peer",
)


class _States(MaskTests, UrgentTests, ConnectionTests, StreamTests, TransferTests):
    """What is about the states of sockets, and about data."""


Part: Any = StackSuite if LONG else _States


class TestDelayed(Part):  # type: ignore[misc]  # chosen above
    """Everything arrives a millisecond later."""

    words: ClassVar[dict[str, Any]] = {"delay": "1ms"}
    examples = int(os.environ.get("VPOLL_TEST_EXAMPLES") or 30)
    differences = stack_differences.MEMORY

    @pytest.fixture(params=["10.0.0.1", "fd00::1"] if LONG else ["fd00::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        network = f"mem://paths-suite-{next(_numbers)}"
        with (
            MemoryStack(vnl=network, ip=["10.0.0.1/24", "fd00::1/64"]) as server,
            MemoryStack(vnl=network, ip=["10.0.0.2/24", "fd00::2/64"]) as client,
        ):
            server.network.seed = 1
            server.network.set_path(server, client, **self.words)
            yield Hosts(server, client, request.param, f"{request.param[:-1]}2")


class TestLossy(TestDelayed):
    """Every twentieth packet is lost."""

    if not LONG:
        # Every lost SYN takes a second.
        test_on_many_connections_at_once = None
    differences = {name: _LOST for name in LOSSY if hasattr(Part, name)}
    words: ClassVar[dict[str, Any]] = {"loss": "5%"}
