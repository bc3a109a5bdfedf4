"""Listening, accepting and connecting, and the errors of each."""

from __future__ import annotations

import errno
import socket

import pytest

from .base import SuiteBase
from .lab import (
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
    mask_of,
)

KINDS = [
    pytest.param(socket.SOCK_STREAM, id="stream"),
    pytest.param(socket.SOCK_DGRAM, id="datagram"),
]
SOL = socket.SOL_SOCKET


class ConnectionTests(SuiteBase):
    """listen(2), accept(2), connect(2) and shutdown(2)."""

    def test_specific_ipv6_address_is_for_ipv6_only(self, own: Lab) -> None:
        six = own.make(socket.SOCK_STREAM, socket.AF_INET6)
        assert not six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        six.bind(("::1", 0))
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert failure(six.connect, ("::ffff:127.0.0.1", 9)) == errno.ENETUNREACH

    def test_socket_at_an_ipv4_address_and_an_ipv6_one(self, own: Lab) -> None:
        six = own.make(socket.SOCK_STREAM, socket.AF_INET6)
        six.bind(("::ffff:127.0.0.1", 0))
        assert failure(six.connect, ("::1", 9)) == errno.EAFNOSUPPORT

    def test_what_is_shut_down_before_listening_is_inherited(self, lab: Lab) -> None:
        listener = lab.bound(lab.make(socket.SOCK_STREAM))
        assert failure(listener.shutdown, socket.SHUT_WR) == errno.ENOTCONN
        listener.listen()
        client = lab.connecting(listener)
        lab.settles(client, R | W | RDHUP)
        assert failure(lab.accepted(listener).send, b"a") == errno.EPIPE

    def test_listen_binds(self, lab: Lab) -> None:
        sock = lab.stream()
        sock.listen()
        assert sock.getsockname()[1]
        assert sock.getsockopt(SOL, socket.SO_ACCEPTCONN) == 1

    def test_accept_without_listen(self, lab: Lab) -> None:
        assert failure(lab.bound(lab.make(socket.SOCK_STREAM)).accept) == errno.EINVAL
        assert failure(lab.datagram().accept) == errno.EOPNOTSUPP

    def test_accept_without_a_connection(self, lab: Lab) -> None:
        assert failure(lab.listener().accept) == errno.EAGAIN

    def test_listener_has_no_data_and_no_peer(self, lab: Lab) -> None:
        listener = lab.listener()
        assert failure(listener.recv, 1) == errno.ENOTCONN
        assert failure(listener.send, b"x") == errno.EPIPE
        assert failure(listener.getpeername) == errno.ENOTCONN
        assert failure(listener.connect, listener.getsockname()) == errno.EISCONN
        assert failure(ask, listener, FIONREAD) == errno.EINVAL

    def test_names_of_a_connection(self, lab: Lab) -> None:
        listener = lab.listener()
        client = lab.connecting(listener)
        lab.settles(listener, R)
        server, address = listener.accept()
        lab.keep(server)
        assert address == client.getsockname() == server.getpeername()
        assert client.getpeername() == server.getsockname() == listener.getsockname()

    def test_dual_stack_listener_sees_ipv4_as_mapped(self, own: Lab) -> None:
        listener = own.make(socket.SOCK_STREAM, socket.AF_INET6)
        listener.bind(("::", 0))
        listener.listen()
        client = own.stream()
        client.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        own.settles(listener, R)
        server, address = listener.accept()
        own.keep(server)
        assert address == ("::ffff:127.0.0.1", client.getsockname()[1], 0, 0)
        assert server.getsockname()[0] == "::ffff:127.0.0.1"

    def test_shutdown_for_reading_ends_listening(self, lab: Lab) -> None:
        listener = lab.listener()
        waiting = lab.connecting(listener)
        lab.settles(waiting, W)
        lab.settles(listener, R)
        listener.shutdown(socket.SHUT_WR)
        assert mask_of(listener) == R
        listener.shutdown(socket.SHUT_RD)
        assert mask_of(listener) == W | HUP
        lab.settles(waiting, DEAD | ERR)
        assert failure(waiting.recv, 1) == errno.ECONNRESET
        assert failure(listener.accept) == errno.EINVAL
        listener.listen()
        assert mask_of(listener) == 0

    def test_connect_again_succeeds_once(self, lab: Lab) -> None:
        listener = lab.listener()
        client = lab.connecting(listener)
        lab.settles(client, W)
        assert client.connect_ex(listener.getsockname()) == 0
        assert client.connect_ex(listener.getsockname()) == errno.EISCONN

    def test_connect_while_connecting(self, lab: Lab) -> None:
        listener = lab.listener(0)
        lab.settles(lab.connecting(listener), W)
        client = lab.connecting(listener)
        assert client.connect_ex(listener.getsockname()) == errno.EALREADY
        assert failure(client.getpeername) == errno.ENOTCONN
        assert failure(client.recv, 1) == errno.EAGAIN
        assert failure(client.send, b"x") == errno.EAGAIN

    def test_shutdown_while_connecting_gives_up(self, lab: Lab) -> None:
        listener = lab.listener(0)
        lab.settles(lab.connecting(listener), W)
        client = lab.connecting(listener)
        client.shutdown(socket.SHUT_RDWR)
        assert error_of(client) == errno.ECONNRESET
        assert mask_of(client) == W | HUP
        lab.accepted(listener)
        assert failure(listener.accept) == errno.EAGAIN

    @pytest.mark.parametrize("taken", [False, True])
    def test_connect_again_after_refused(self, lab: Lab, taken: bool) -> None:
        client = lab.stream()
        client.connect_ex(lab.refusing_address())
        lab.until(lambda: mask_of(client) & HUP, "the connection is not refused")
        if taken:
            assert error_of(client) == errno.ECONNREFUSED
        listener = lab.listener()
        expected = errno.ECONNABORTED if taken else errno.ECONNREFUSED
        assert client.connect_ex(listener.getsockname()) == expected
        assert mask_of(client) == W | HUP
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        lab.settles(client, W)

    def test_connect_to_the_wildcard_is_to_oneself(self, own: Lab) -> None:
        listener = own.listener()
        client = own.stream()
        client.connect_ex(("0.0.0.0", listener.getsockname()[1]))
        own.settles(client, W)
        assert client.getpeername()[0] == "127.0.0.1"

    def test_connection_with_oneself(self, own: Lab) -> None:
        sock = own.bound(own.stream())
        sock.connect_ex(sock.getsockname())
        own.settles(sock, W)
        assert sock.getpeername() == sock.getsockname()
        sock.send(b"to myself")
        own.settles(sock, R | W)
        assert sock.recv(20) == b"to myself"
        sock.shutdown(socket.SHUT_WR)
        own.settles(sock, R | W | HUP | RDHUP)
        assert sock.recv(20) == b""

    def test_same_connection_twice(self, lab: Lab) -> None:
        listener = lab.listener()
        first, second = lab.stream(), lab.stream()
        for sock in (first, second):
            sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
        lab.bound(first)
        second.bind(first.getsockname())
        first.connect_ex(listener.getsockname())
        lab.settles(first, W)
        assert second.connect_ex(listener.getsockname()) == errno.EADDRNOTAVAIL

    @pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
    @pytest.mark.parametrize("kind", KINDS)
    def test_shutdown_of_the_unconnected(self, lab: Lab, kind: int, how: int) -> None:
        assert failure(lab.make(kind).shutdown, how) == errno.ENOTCONN

    def test_fresh_stream_neither_sends_nor_receives(self, lab: Lab) -> None:
        assert failure(lab.stream().send, b"x") == errno.EPIPE
        assert failure(lab.stream().recv, 1) == errno.ENOTCONN
