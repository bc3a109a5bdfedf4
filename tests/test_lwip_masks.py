"""The event mask of an lwIP socket that a transport or a waiter reads itself.

What it is after every step of a program, the conformance suite tests.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from lwip_helpers import HOST4, HOST6, lwip_on_wire
from memory_helpers import Lab, R, W, mask_of
from vpoll_asyncio import EventMask, UserSocket

pytestmark = pytest.mark.needs("lwip")


@pytest.fixture(params=["127.0.0.1", "::1", HOST4, HOST6])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lwip_on_wire() as peer:
        lab = Lab(peer.stack, request.param)
        yield lab
        lab.close()


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_a_transport_reads_is_gone_from_the_mask_at_once(lab: Lab, mirrored: bool) -> None:
    client, server = lab.pair()
    assert isinstance(server, UserSocket)
    poll = select.poll()
    if mirrored:
        poll.register(server.fileno(), select.POLLIN)
    client.send(b"0123456789")
    assert server.do_recv_some(4) == b"0123"
    assert mask_of(server) == R | W
    assert [events for _, events in poll.poll(0)] == [select.POLLIN] * mirrored
    assert server.do_recv_some(65536) == b"456789"
    assert mask_of(server) == W
    assert not poll.poll(0)
    with pytest.raises(BlockingIOError):
        server.do_recv_some(65536)
    client.shutdown(socket.SHUT_WR)
    assert mask_of(server) == R | W | EventMask.RDHUP
    assert server.do_recv_some(65536) == b""


def test_a_waiter_that_reads_leaves_the_mask_right(lab: Lab) -> None:
    client, server = lab.pair()
    assert isinstance(server, UserSocket)
    got = []

    def read(mask: int) -> None:
        if mask & EventMask.IN:
            got.append(server.do_recv_some(4))

    server.vpoll.add_waiter(read)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(b"012345")
    assert got == [b"0123"]
    assert mask_of(server) == R | W
    assert server.do_recv_some(4) == b"45"
    assert mask_of(server) == W
    client.send(b"6789")
    assert got == [b"0123", b"6789"]
    assert mask_of(server) == W
    server.vpoll.remove_waiter(read)


def test_an_interrupted_waiter_hides_no_event(lab: Lab) -> None:
    listener = lab.listener(5)
    client, server = lab.pair()
    assert isinstance(server, UserSocket)

    def interrupt(mask: int) -> None:
        server.vpoll.remove_waiter(interrupt)
        raise KeyboardInterrupt

    server.vpoll.add_waiter(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.send(b"!")
    told: list[int] = []
    server.vpoll.add_waiter(told.append)
    lab.connecting(listener)
    assert mask_of(server) == told[-1] == R | W
    assert mask_of(listener) == R
