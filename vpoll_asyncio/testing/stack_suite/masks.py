"""The event mask of a socket after every step, as ``tcp_poll`` and ``datagram_poll`` have it."""

from __future__ import annotations

import errno
import socket

import pytest

from .base import SuiteBase
from .lab import (
    DEAD,
    ERR,
    HUP,
    RDHUP,
    WRBAND,
    Lab,
    R,
    W,
    error_of,
    failure,
    linger_zero,
    mask_of,
    small_buffers,
)

WAYS = [
    pytest.param([socket.SHUT_RDWR], id="at once"),
    pytest.param([socket.SHUT_RD, socket.SHUT_WR], id="one by one"),
]
"""To shut down both directions."""


class MaskTests(SuiteBase):
    """The masks of streams, then those of datagram sockets."""

    def test_fresh_stream(self, lab: Lab) -> None:
        assert mask_of(lab.stream()) == W | HUP

    def test_bound_stream(self, lab: Lab) -> None:
        assert mask_of(lab.bound(lab.stream())) == W | HUP

    def test_listener_without_and_with_a_waiting_connection(self, lab: Lab) -> None:
        listener = lab.listener()
        assert mask_of(listener) == 0
        lab.connecting(listener)
        lab.settles(listener, R)
        lab.keep(listener.accept()[0])
        assert mask_of(listener) == 0

    def test_listener_is_readable_until_the_last_connection_is_accepted(self, lab: Lab) -> None:
        listener = lab.listener()
        clients = [lab.connecting(listener) for _ in range(3)]
        for client in clients:
            lab.settles(client, W)
        for _ in clients:
            lab.settles(listener, R)
            lab.keep(listener.accept()[0])
        assert mask_of(listener) == 0

    def test_connected(self, lab: Lab) -> None:
        client, server = lab.pair()
        assert mask_of(client) == W
        assert mask_of(server) == W

    def test_data_wait_until_they_are_read(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"data")
        lab.settles(server, R | W)
        assert server.recv(2) == b"da"
        assert mask_of(server) == R | W
        assert server.recv(2) == b"ta"
        assert mask_of(server) == W

    def test_peeking_leaves_the_mask(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"data")
        lab.settles(server, R | W)
        assert server.recv(10, socket.MSG_PEEK) == b"data"
        assert mask_of(server) == R | W

    def test_full_send_buffer_and_then_own_shutdown(self, lab: Lab) -> None:
        client, _ = lab.pair(small_buffers)
        lab.fill(client)
        assert mask_of(client) == 0
        client.shutdown(socket.SHUT_WR)
        assert mask_of(client) == W

    def test_send_buffer_that_the_peer_empties_is_writable_again(self, lab: Lab) -> None:
        client, server = lab.pair(small_buffers)
        left = lab.fill(client)
        while left:
            lab.settles(server, mask_of(server) | R)
            left -= len(server.recv(1 << 20))
        lab.settles(client, W)

    def test_fin_of_the_peer_with_data_before_it(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"data")
        client.shutdown(socket.SHUT_WR)
        lab.settles(server, R | W | RDHUP)
        assert server.recv(10) == b"data"
        assert mask_of(server) == R | W | RDHUP
        assert server.recv(10) == b""
        assert mask_of(server) == R | W | RDHUP

    def test_fin_behind_full_buffers_comes_after_the_data(self, lab: Lab) -> None:
        client, server = lab.pair(small_buffers)
        left = lab.fill(client)
        client.shutdown(socket.SHUT_WR)
        lab.readable(server)
        assert not mask_of(server) & RDHUP
        while left:
            left -= len(lab.readable(server).recv(1 << 20))
        lab.settles(server, R | W | RDHUP)
        assert server.recv(1) == b""

    def test_own_shutdown_for_writing(self, lab: Lab) -> None:
        client, _ = lab.pair()
        client.shutdown(socket.SHUT_WR)
        assert mask_of(client) == W
        assert failure(client.send, b"x") == errno.EPIPE

    def test_own_shutdown_for_reading_is_not_seen_by_the_peer(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.shutdown(socket.SHUT_RD)
        assert mask_of(client) == R | W | RDHUP
        assert client.recv(10) == b""
        server.send(b"data")
        assert mask_of(server) == W

    def test_both_directions_shut_one_by_each_side(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.shutdown(socket.SHUT_WR)
        lab.settles(server, R | W | RDHUP)
        server.shutdown(socket.SHUT_WR)
        lab.settles(server, DEAD)
        lab.settles(client, DEAD)

    def test_own_shutdown_of_both_directions(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.shutdown(socket.SHUT_RDWR)
        assert mask_of(client) == DEAD
        lab.settles(server, R | W | RDHUP)

    def test_close_of_the_peer(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.close()
        lab.settles(server, R | W | RDHUP)
        assert server.recv(10) == b""

    def test_reset_by_unread_data_at_the_close_of_the_peer(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"unread")
        lab.settles(server, R | W)
        server.close()
        lab.settles(client, DEAD | ERR)
        assert failure(client.recv, 10) == errno.ECONNRESET
        assert mask_of(client) == DEAD
        assert client.recv(10) == b""
        assert failure(client.send, b"x") == errno.EPIPE

    def test_reset_by_linger_zero(self, lab: Lab) -> None:
        client, server = lab.pair()
        linger_zero(server)
        server.close()
        lab.settles(client, DEAD | ERR)
        assert error_of(client) == errno.ECONNRESET
        assert mask_of(client) == DEAD
        assert error_of(client) == 0

    def test_data_that_came_before_a_reset_are_read_before_it(self, lab: Lab) -> None:
        client, server = lab.pair()
        linger_zero(server)
        server.send(b"data")
        lab.settles(client, R | W)
        server.close()
        lab.settles(client, DEAD | ERR)
        assert client.recv(10) == b"data"
        assert failure(client.recv, 10) == errno.ECONNRESET
        assert client.recv(10) == b""

    def test_refused(self, lab: Lab) -> None:
        client = lab.stream()
        assert client.connect_ex(lab.refusing_address()) == errno.EINPROGRESS
        lab.settles(client, DEAD | ERR)
        assert error_of(client) == errno.ECONNREFUSED
        assert mask_of(client) == DEAD

    def test_write_after_the_close_of_the_peer(self, lab: Lab) -> None:
        client, server = lab.pair()
        server.close()
        lab.settles(client, R | W | RDHUP)
        assert client.send(b"nobody reads this") == 17
        lab.settles(client, DEAD | ERR)
        assert client.recv(10) == b""
        assert failure(client.send, b"x") == errno.EPIPE
        assert mask_of(client) == DEAD

    def test_write_to_a_peer_that_shut_down_both_directions_resets_both(self, lab: Lab) -> None:
        client, server = lab.pair()
        server.shutdown(socket.SHUT_RDWR)
        lab.settles(client, R | W | RDHUP)
        assert client.send(b"x") == 1
        lab.settles(client, DEAD | ERR)
        lab.settles(server, DEAD | ERR)
        assert error_of(client) == errno.EPIPE
        assert error_of(server) == errno.ECONNRESET

    @pytest.mark.parametrize("ways", WAYS)
    def test_shutting_both_directions_resets_a_sender_with_data_left(
        self, lab: Lab, ways: list[int]
    ) -> None:
        client, server = lab.pair()
        lab.fill(client)
        for how in ways:
            server.shutdown(how)
        lab.settles(client, DEAD | ERR)
        lab.settles(server, DEAD | ERR)
        assert error_of(client) == errno.EPIPE
        assert error_of(server) == errno.ECONNRESET

    @pytest.mark.parametrize("ways", WAYS)
    def test_what_had_arrived_before_such_a_reset_can_be_read(
        self, own: Lab, ways: list[int]
    ) -> None:
        client, server = own.pair()
        own.fill(client)
        for how in ways:
            server.shutdown(how)
        own.settles(server, DEAD | ERR)
        # The rest is lost.
        assert server.recv(1 << 24)
        assert failure(server.recv, 1) == errno.ECONNRESET
        assert server.recv(1) == b""

    def test_backlog_of_zero_takes_one_connection(self, lab: Lab) -> None:
        listener = lab.listener(0)
        first = lab.connecting(listener)
        lab.settles(first, W)
        others = [lab.connecting(listener) for _ in range(2)]
        assert [mask_of(other) for other in others] == [0, 0]
        listener.close()
        lab.settles(first, DEAD | ERR)
        assert error_of(first) == errno.ECONNRESET
        for other in others:
            lab.settles(other, DEAD | ERR)
            assert error_of(other) == errno.ECONNREFUSED

    def test_who_waits_for_a_full_backlog_gets_in_after_an_accept(self, lab: Lab) -> None:
        listener = lab.listener(0)
        lab.settles(lab.connecting(listener), W)
        lab.settles(listener, R)
        second = lab.connecting(listener)
        assert mask_of(second) == 0
        lab.keep(listener.accept()[0])
        lab.settles(second, W)

    def test_low_water_mark_keeps_data_unreadable(self, lab: Lab) -> None:
        client, server = lab.pair()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        client.send(b"abc")
        assert mask_of(server) == W
        client.send(b"d")
        lab.settles(server, R | W)

    def test_fresh_datagram_socket(self, lab: Lab) -> None:
        assert mask_of(lab.datagram()) == W | WRBAND

    def test_bound_and_connected_datagram_socket(self, lab: Lab) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        sender.connect(receiver.getsockname())
        assert mask_of(receiver) == mask_of(sender) == W | WRBAND

    @pytest.mark.parametrize("data", [b"data", b""], ids=["data", "empty"])
    def test_datagram_waits(self, lab: Lab, data: bytes) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        sender.sendto(data, receiver.getsockname())
        lab.settles(receiver, R | W | WRBAND)
        assert receiver.recv(10) == data
        assert mask_of(receiver) == W | WRBAND

    def test_datagrams_wait_until_the_last_is_read(self, lab: Lab) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        for data in (b"one", b"two"):
            sender.sendto(data, receiver.getsockname())
        for data in (b"one", b"two"):
            lab.settles(receiver, R | W | WRBAND)
            assert receiver.recv(10, socket.MSG_PEEK) == data
            assert mask_of(receiver) == R | W | WRBAND
            assert receiver.recv(10) == data
        assert mask_of(receiver) == W | WRBAND

    @pytest.mark.parametrize("taker", ["SO_ERROR", "recv", "send"])
    def test_refused_datagram(self, lab: Lab, taker: str) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        sender.connect(receiver.getsockname())
        receiver.close()
        sender.send(b"to nobody")
        lab.settles(sender, W | WRBAND | ERR)
        if taker == "SO_ERROR":
            assert error_of(sender) == errno.ECONNREFUSED
        elif taker == "recv":
            assert failure(sender.recv, 10) == errno.ECONNREFUSED
        else:
            assert failure(sender.send, b"again") == errno.ECONNREFUSED
        assert mask_of(sender) == W | WRBAND

    def test_connected_datagram_socket_shut_down(self, lab: Lab) -> None:
        receiver, sender = lab.receiver(), lab.datagram()
        sender.connect(receiver.getsockname())
        sender.shutdown(socket.SHUT_RDWR)
        assert mask_of(sender) == DEAD | WRBAND
        assert failure(sender.send, b"x") == errno.EPIPE
