"""What an lwIP stack sends to itself, and the checksum that all of its packets have."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwip_frames import ACK, SYN, frame, parse_tcp, tcp
from lwip_helpers import HOST4, HOST6, PEER4, Peer, lwip_on_wire
from vpoll_asyncio import native

pytestmark = pytest.mark.needs("lwip")

MSS = 1460


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


@pytest.fixture(scope="module")
def shim() -> Any:
    return native.load("lwip")


def reference(data: bytes) -> int:
    """RFC 1071's sum of `data` in the host's byte order, neither complemented nor swapped."""
    if len(data) % 2:
        data += b"\0"
    total = sum(memoryview(data).cast("H"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(data=st.binary(max_size=3000), at=st.integers(0, 17), ones=st.booleans())
def test_the_checksum_is_that_of_the_rfc(shim: Any, data: bytes, at: int, ones: bool) -> None:
    if ones:
        # The most that an accumulator can be given.
        data = b"\xff" * len(data)
    held = shim.ffi.new("char[]", bytes(at) + data + b"\xff\xff")
    assert shim.lib.lwip_standard_chksum(held + at, len(data)) == reference(data)


def connected(
    peer: Peer, family: socket.AddressFamily, host: str
) -> tuple[socket.socket, socket.socket]:
    listener = peer.keep(peer.stack.socket(family))
    listener.bind((host, 0))
    listener.listen()
    client = peer.keep(peer.stack.socket(family))
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    child, _ = listener.accept()
    return client, peer.keep(child)


def maxseg(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, HOST4),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, HOST6),
        (socket.AF_INET6, f"::ffff:{HOST4}"),
    ],
)
@pytest.mark.parametrize("nodelay", [False, True])
def test_what_stays_inside_goes_in_long_segments(
    peer: Peer, family: socket.AddressFamily, host: str, nodelay: bool
) -> None:
    client, child = connected(peer, family, host)
    assert min(maxseg(client), maxseg(child)) > MSS
    dice = random.Random(1)
    for sender, receiver in ((client, child), (child, client)):
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        sent, received = hashlib.sha256(), hashlib.sha256()
        left, unread = 1_000_000, 0
        while left or unread:
            piece = dice.randbytes(min(left, dice.choice((1, 100, 21_845, 65_535, 100_000))))
            try:
                count = sender.send(piece) if piece else 0
            except BlockingIOError:
                count = 0
            sent.update(piece[:count])
            left -= count
            unread += count
            try:
                data = receiver.recv(dice.choice((1, 1000, 40_000, 65_536)))
            except BlockingIOError:
                data = b""
            received.update(data)
            unread -= len(data)
            # Nagle's algorithm may hold the last bytes back until the timers run.
            if not (count or data):
                peer.stack.skip_time(0.5)
        assert sent.digest() == received.digest()
    assert not any(parse_tcp(each) for each in peer.send())


def test_what_leaves_goes_in_segments_that_the_peer_allows(peer: Peer) -> None:
    client = peer.keep(peer.stack.socket())
    assert client.connect_ex((PEER4, 80)) == errno.EINPROGRESS
    syn = next(fields for each in peer.send() if (fields := parse_tcp(each)))
    assert isinstance(syn["seq"], int)
    here = (HOST4, client.getsockname()[1])
    options = b"\x02\x04" + MSS.to_bytes(2, "big")
    answer = tcp((PEER4, 80), here, SYN | ACK, 7, syn["seq"] + 1, window=65535, options=options)
    peer.send(frame(answer))
    assert maxseg(client) == MSS
