"""The same random program on lwIP and on the kernel: what differs is a fault.

As for the memory stack, without what lwIP does not have (docs/lwip.md).
"""

from __future__ import annotations

import contextlib

import pytest

import test_memory_differential
import test_memory_differential_datagrams
from differential import program
from lwip_helpers import lwip_on_wire
from memory_helpers import Lab
from vpoll_asyncio.stacks.host import host_stack

pytestmark = pytest.mark.needs("lwip")


class _OnLwip:
    def __init__(self) -> None:
        super().__init__()
        self._opened = contextlib.ExitStack()
        peer = self._opened.enter_context(lwip_on_wire())
        self.labs = [Lab(peer.stack), Lab(host_stack())]

    def teardown(self) -> None:
        super().teardown()  # type: ignore[misc]
        self._opened.close()


class LwipStreams(_OnLwip, test_memory_differential.Streams):
    send_urgent = receive_urgent = at_mark = urgent_inline = None  # type: ignore[assignment]
    low_water_mark = None  # type: ignore[assignment]


class LwipDatagrams(_OnLwip, test_memory_differential_datagrams.Datagrams):
    pass


TestStreams = LwipStreams.TestCase
TestStreams.settings = program(40)
TestDatagrams = LwipDatagrams.TestCase
TestDatagrams.settings = program(40)
