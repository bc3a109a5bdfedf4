"""The same random program on lwIP and on the kernel: what differs is a fault.

As for the memory stack, without what lwIP does not have (docs/lwip.md).
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

import test_memory_differential
import test_memory_differential_datagrams
from differential import Differential, picks, program
from lwip_helpers import lwip_on_wire
from memory_helpers import Lab
from test_memory_differential import sizes
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
    low_water_mark = send_message = receive_message = None  # type: ignore[assignment]
    receive_all = names_agree = None  # type: ignore[assignment]

    @initialize()
    def listen(self) -> None:
        self.listen_as("IPv4")

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=sizes, flags=st.sampled_from([0, socket.MSG_PEEK]))
    def receive(self, index: int, size: int, flags: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(size, flags))


class LwipDatagrams(_OnLwip, test_memory_differential_datagrams.Datagrams):
    """IPv4, and no port but the own ones of the sockets that there are."""

    bind = send_message = receive_into = names_agree = None  # type: ignore[assignment]

    @precondition(Differential.has_room)
    @rule(bound=st.booleans())
    def make(self, bound: bool) -> None:
        self.add(lambda lab: lab.bound(lab.datagram()) if bound else lab.datagram())

    def _targets(self, index: int, to: int) -> dict[socket.socket, Any] | None:
        addresses = [sock.getsockname() for sock in self.pick(to)]
        if not all(port for _, port in addresses):
            return None
        return dict(zip(self.pick(index), addresses, strict=True))

    @precondition(Differential.has_sockets)
    @rule(index=picks, to=picks)
    def connect(self, index: int, to: int) -> None:
        if targets := self._targets(index, to):
            self.same(self.pick(index), lambda sock: sock.connect(targets[sock]))

    @precondition(Differential.has_sockets)
    @rule(index=picks, to=picks, data=st.binary(max_size=20))
    def send_to(self, index: int, to: int, data: bytes) -> None:
        if targets := self._targets(index, to):
            self.same(self.pick(index), lambda sock: sock.sendto(data, targets[sock]))


TestStreams = LwipStreams.TestCase
TestStreams.settings = program(40)
TestDatagrams = LwipDatagrams.TestCase
TestDatagrams.settings = program(40)
