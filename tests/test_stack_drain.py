"""`Stack.drain`: what the kernel does for a process that has ended, a stack does before its end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import vpoll_asyncio as va
from vpoll_asyncio.links import wire_pair

PATIENCE = 30
# Longer than the test may take: a drain that waits for nothing fails it.
EVER = 100_000.0

KINDS = [
    pytest.param("lwip", marks=pytest.mark.needs("lwip")),
    pytest.param("vdestack", marks=pytest.mark.needs("vdestack")),
]


class Ends(NamedTuple):
    stack: Any
    """The one that is drained."""
    sock: Any
    """Its end of a connection."""
    peer: Any


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, no_fd_leak: None) -> Iterator[Ends]:
    """A connection from a stack to another one of its kind."""
    options = {"thread": True} if request.param == "lwip" else {}
    left, right = wire_pair()
    with (
        va.open_stack(request.param, link=left, ip="10.0.0.1/24", **options) as stack,
        va.open_stack(request.param, link=right, ip="10.0.0.2/24", **options) as other,
        other.socket() as listener,
        stack.socket() as sock,
    ):
        if request.param == "vdestack":
            # Or the peer's kernel takes, in time, all that ours has had room for.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("10.0.0.2", 80))
        listener.listen()
        sock.settimeout(PATIENCE)
        sock.connect(("10.0.0.2", 80))
        peer, _ = listener.accept()
        peer.settimeout(PATIENCE)
        with peer:
            yield Ends(stack, sock, peer)


def fill(sock: Any) -> int:
    """Send until nothing more is taken; return how many bytes were."""
    count = 0
    sock.setblocking(False)
    try:
        while True:
            count += sock.send(bytes(65536))
    except BlockingIOError:
        return count


def read(sock: Any) -> int:
    """Read to the end; return how many bytes there were."""
    count = 0
    while data := sock.recv(65536):
        count += len(data)
    return count


def test_with_nothing_to_send_it_returns_at_once(ends: Ends) -> None:
    assert ends.stack.drain(EVER)


def test_connections_end_for_their_peers(ends: Ends) -> None:
    assert ends.stack.drain(EVER)
    assert ends.peer.recv(100) == b""


def test_it_waits_until_all_data_has_arrived(ends: Ends) -> None:
    count = fill(ends.sock)
    got = []
    reader = threading.Thread(target=lambda: got.append(read(ends.peer)))
    reader.start()
    assert ends.stack.drain(EVER)
    ends.stack.close()
    reader.join(PATIENCE)
    assert got == [count]


def test_sockets_that_were_closed_before_are_waited_for(ends: Ends) -> None:
    count = fill(ends.sock)
    ends.sock.close()
    assert not ends.stack.drain(0.05)
    reader = threading.Thread(target=read, args=(ends.peer,))
    reader.start()
    assert ends.stack.drain(EVER)
    reader.join(PATIENCE)
    assert count


def test_a_peer_that_does_not_read_is_not_waited_for_longer(ends: Ends) -> None:
    fill(ends.sock)
    assert not ends.stack.drain(0.05)


def test_what_was_not_read_resets_the_connection(ends: Ends) -> None:
    ends.peer.sendall(b"not read")
    assert ends.sock.recv(3) == b"not"
    assert ends.stack.drain(EVER)
    with pytest.raises(ConnectionResetError):
        ends.peer.recv(100)


def test_its_sockets_are_closed(ends: Ends) -> None:
    ends.stack.drain(0)
    with pytest.raises(OSError):
        ends.sock.send(b"x")
    ends.sock.close()


def test_new_sockets_work_until_the_stack_is_closed(ends: Ends) -> None:
    ends.stack.drain(EVER)
    with ends.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"late", ("10.0.0.2", 9))


def test_a_closed_stack_has_nothing_to_deliver(ends: Ends) -> None:
    fill(ends.sock)
    ends.stack.close()
    assert ends.stack.drain(EVER)


def test_a_stack_that_sends_nothing_away_has_nothing_to_deliver() -> None:
    with va.open_stack("memory", ip="10.0.0.1/24") as stack:
        assert stack.drain(EVER)
