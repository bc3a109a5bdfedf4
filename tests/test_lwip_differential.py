"""The same random program on lwIP and on the kernel: what differs is a fault.

As for the memory stack, without urgent data, which lwIP does not have.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings

from lwip_helpers import lwip_on_wire
from memory_helpers import Lab
from test_memory_differential import PROGRAM, Datagrams, Streams
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


class LwipStreams(_OnLwip, Streams):
    send_urgent = receive_urgent = at_mark = urgent_inline = None  # type: ignore[assignment]


class LwipDatagrams(_OnLwip, Datagrams):
    pass


TestStreams = LwipStreams.TestCase
TestStreams.settings = settings(PROGRAM, max_examples=40)
TestDatagrams = LwipDatagrams.TestCase
TestDatagrams.settings = settings(PROGRAM, max_examples=40)
