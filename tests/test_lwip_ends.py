"""Directions and errors of an earlier life of a socket, on lwIP and on the kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from lwip_frames import ACK, FIN, SYN, frame, parse_tcp, tcp
from lwip_helpers import HOST4, PEER4, lab_on, lwip_on_wire
from memory_helpers import (
    DEAD,
    ERR,
    FIONREAD,
    HUP,
    RDHUP,
    Lab,
    R,
    W,
    ask,
    error_of,
    failure,
    linger_zero,
    mask_of,
    settles,
)

pytestmark = pytest.mark.needs("lwip")


@pytest.fixture(params=["lwip", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_on(request.param) as lab:
        yield lab


def shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> socket.socket:
    """Shut down a socket that is not connected."""
    assert failure(sock.shutdown, how) == errno.ENOTCONN
    return sock


def pair_shut_before(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """A client that was shut down before it connected, and the server's end."""
    listener = lab.listener()
    client = shut(lab.stream())
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    settles(listener, R)
    server = lab.keep(listener.accept()[0])
    settles(client, DEAD)
    return client, server


def test_data_reach_a_socket_that_was_shut_down_before_it_connected(lab: Lab) -> None:
    client, server = pair_shut_before(lab)
    assert server.send(b"hello") == 5
    settles(client, DEAD)
    assert client.recv(10) == b"hello"
    assert mask_of(server) == W


def test_its_peer_is_told_the_end_by_the_next_shutdown_only(lab: Lab) -> None:
    client, server = pair_shut_before(lab)
    assert mask_of(server) == W
    assert failure(client.send, b"x") == errno.EPIPE
    client.shutdown(socket.SHUT_WR)
    settles(server, R | W | RDHUP)
    server.shutdown(socket.SHUT_WR)
    settles(server, DEAD)
    settles(client, DEAD)
    assert failure(client.getpeername) == errno.ENOTCONN


def test_data_for_a_socket_that_is_shut_down_again_reset_the_connection(lab: Lab) -> None:
    client, server = pair_shut_before(lab)
    client.shutdown(socket.SHUT_WR)
    settles(server, R | W | RDHUP)
    assert server.send(b"nobody reads this") == 17
    settles(server, DEAD | ERR)
    assert (error_of(server), error_of(client)) == (errno.EPIPE, errno.ECONNRESET)


@pytest.mark.parametrize(("again", "number"), [(False, errno.EPIPE), (True, errno.ECONNRESET)])
def test_a_reset_after_the_peers_end_is_epipe_unless_our_own_was_sent(
    lab: Lab, again: bool, number: int
) -> None:
    client, server = pair_shut_before(lab)
    if again:
        client.shutdown(socket.SHUT_WR)
        settles(server, R | W | RDHUP)
    else:
        server.shutdown(socket.SHUT_WR)
        # Two masks of the client are the same: what is read tells them apart.
        assert client.recv(1) == b""
    linger_zero(server)
    server.close()
    settles(client, DEAD | ERR)
    assert error_of(client) == number


@pytest.mark.parametrize(
    ("how", "mask"),
    [(socket.SHUT_RD, R | RDHUP), (socket.SHUT_WR, 0), (socket.SHUT_RDWR, R | RDHUP | HUP)],
)
def test_what_was_shut_down_shows_while_the_connection_is_made(
    lab: Lab, how: int, mask: int
) -> None:
    listener = lab.listener(0)
    settles(lab.connecting(listener), W)
    waiting = shut(lab.stream(), how)
    assert waiting.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    settles(waiting, mask)


def test_a_listener_shows_no_error_of_before(lab: Lab) -> None:
    full = lab.listener(0)
    settles(lab.connecting(full), W)
    sock = lab.connecting(full)
    sock.shutdown(socket.SHUT_RDWR)
    settles(sock, W | HUP | ERR)
    sock.listen()
    settles(sock, 0)
    assert error_of(sock) == errno.ECONNRESET


@pytest.mark.parametrize(
    ("how", "mask", "of_client"),
    [
        (socket.SHUT_RD, R | W | RDHUP, W),
        (socket.SHUT_WR, W, R | W | RDHUP),
        (socket.SHUT_RDWR, DEAD, R | W | RDHUP),
    ],
)
def test_connections_inherit_what_was_shut_down_before_listen(
    lab: Lab, how: int, mask: int, of_client: int
) -> None:
    listener = shut(lab.bound(lab.stream()), how)
    listener.listen()
    client = lab.connecting(listener)
    settles(client, of_client)
    server = lab.keep(listener.accept()[0])
    settles(server, mask)
    client.shutdown(socket.SHUT_WR)
    if how != socket.SHUT_RD:
        settles(client, DEAD)
    settles(server, DEAD if how != socket.SHUT_RD else R | W | RDHUP)


def test_an_end_may_come_with_the_segment_that_makes_such_a_connection() -> None:
    with lwip_on_wire() as peer:
        listener = peer.keep(peer.stack.socket())
        listener.bind((HOST4, 80))
        assert failure(listener.shutdown, socket.SHUT_WR) == errno.ENOTCONN
        listener.listen()
        there, here = (PEER4, 9), (HOST4, 80)

        def answer(sent: bytes) -> dict[str, int | bytes]:
            return next(fields for each in peer.send(frame(sent)) if (fields := parse_tcp(each)))

        seq = answer(tcp(there, here, SYN, 100))["seq"]
        assert isinstance(seq, int)
        ended = answer(tcp(there, here, ACK | FIN, 101, seq + 1))
        assert (ended["seq"], ended["ack"], ended["flags"]) == (seq + 1, 102, ACK | FIN)
        server = peer.keep(listener.accept()[0])
        assert mask_of(server) == DEAD
        peer.send(frame(tcp(there, here, ACK, 102, seq + 2)))
        peer.stack.skip_time(30)
        assert not [each for each in peer.send() if parse_tcp(each)]


def test_another_connect_drops_what_the_reset_connection_had_received(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.connecting(listener)
    settles(listener, R)
    server = lab.keep(listener.accept()[0])
    server.send(b"too late")
    linger_zero(server)
    server.close()
    settles(client, DEAD | ERR)
    assert ask(client, FIONREAD) == 8
    assert client.connect_ex(listener.getsockname()) == errno.ECONNRESET
    assert mask_of(client) == W | HUP
    assert ask(client, FIONREAD) == 0
    assert failure(client.recv, 10) == errno.ENOTCONN
