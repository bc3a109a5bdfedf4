"""Transfers: every size arrives whole, both ways at once, on many connections."""

from __future__ import annotations

import hashlib
import random
import socket
from typing import ClassVar

import pytest
from hypothesis import given, settings

from ..bytestreams import ByteStream, byte_streams
from .base import SuiteBase
from .lab import Lab, R, mask_of, small_buffers

KIB64 = 1 << 16
SIZES = [0, 1, KIB64 - 1, KIB64, KIB64 + 1, 3_000_000]
CONNECTIONS = 100


class Flow:
    """One direction of a transfer."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
        self.sender = sender
        self.receiver = receiver
        self.left = memoryview(data)
        self.wanted = hashlib.sha256(data).digest()
        self.got = hashlib.sha256()
        self.shut = False
        self.ended = False

    def step(self) -> None:
        """Send and receive what can be without waiting."""
        try:
            while self.left:
                self.left = self.left[self.sender.send(self.left[:200_000]) :]
            if not self.shut:
                self.shut = True
                self.sender.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        try:
            while not self.ended:
                part = self.receiver.recv(100_000)
                self.got.update(part)
                self.ended = not part
        except BlockingIOError:
            pass

    def check(self) -> None:
        """Fail unless what came is what was sent."""
        assert self.got.digest() == self.wanted


class TransferTests(SuiteBase):
    """Streams of every size, cut in every way, and datagrams in numbers."""

    seed: ClassVar[int] = 11

    def data(self, size: int) -> bytes:
        """Return `size` bytes, the same in every run."""
        return random.Random(self.seed + size).randbytes(size)

    def carry(self, lab: Lab, *flows: Flow) -> None:
        """Carry `flows` to their ends, and check them."""

        def over() -> bool:
            for flow in flows:
                flow.step()
            return all(flow.ended for flow in flows)

        lab.until(over, "a transfer does not come to its end")
        for flow in flows:
            flow.check()

    @pytest.mark.parametrize("size", SIZES)
    def test_every_byte_arrives(self, lab: Lab, size: int) -> None:
        client, server = lab.pair()
        self.carry(lab, Flow(client, server, self.data(size)))

    @pytest.mark.parametrize("size", [KIB64 + 1, 1_000_000])
    def test_both_ways_at_once(self, lab: Lab, size: int) -> None:
        client, server = lab.pair()
        there, back = self.data(size), self.data(size + 1)
        self.carry(lab, Flow(client, server, there), Flow(server, client, back))

    def test_through_small_buffers(self, lab: Lab) -> None:
        client, server = lab.pair(small_buffers)
        self.carry(lab, Flow(client, server, self.data(300_000)))

    def test_on_many_connections_at_once(self, lab: Lab) -> None:
        listener = lab.listener(CONNECTIONS)
        flows = []
        for number in range(CONNECTIONS):
            client = lab.connecting(listener)
            server = lab.accepted(listener)
            flows.append(Flow(client, server, self.data(1000 + number)))
            flows.append(Flow(server, client, self.data(2000 + number)))
        self.carry(lab, *flows)

    def test_bytes_arrive_however_they_are_cut(self, lab: Lab) -> None:
        @settings(max_examples=self.examples, deadline=None)
        @given(byte_streams(max_size=20_000))
        def arrives(stream: ByteStream) -> None:
            client, server = lab.pair(small_buffers)
            assert lab.carry(stream, client, server) == stream.payload
            client.close()
            assert lab.readable(server).recv(1) == b""
            server.close()

        arrives()

    @pytest.mark.parametrize("size", [0, 1, 1400, 1500, 9000])
    def test_a_datagram_arrives_whole(self, lab: Lab, size: int) -> None:
        receiver, sender = lab.receiver(), lab.bound(lab.datagram())
        data = self.data(size)
        assert sender.sendto(data, receiver.getsockname()) == size
        assert lab.readable(receiver).recvfrom(KIB64) == (data, sender.getsockname())

    def test_datagrams_keep_their_bounds_and_their_order(self, lab: Lab) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        sent = [self.data(size) for size in range(1, 60)]
        for data in sent:
            sender.sendto(data, receiver.getsockname())
        assert [lab.readable(receiver).recv(KIB64) for _ in sent] == sent
        assert not mask_of(receiver) & R
