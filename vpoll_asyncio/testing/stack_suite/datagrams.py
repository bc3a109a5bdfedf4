"""Datagrams: who hears them, what is cut and what is refused."""

from __future__ import annotations

import errno
import socket

import pytest

from .base import SuiteBase
from .lab import (
    FIONREAD,
    Lab,
    R,
    ask,
    error_of,
    failure,
    mask_of,
)

SOL = socket.SOL_SOCKET


class DatagramTests(SuiteBase):
    """send(2), recv(2) and connect(2) of datagram sockets."""

    def test_datagram_without_a_destination(self, lab: Lab) -> None:
        assert failure(lab.datagram().send, b"x") == errno.EDESTADDRREQ

    @pytest.mark.parametrize(
        ("host", "largest"),
        [
            pytest.param("127.0.0.1", 65507, id="IPv4"),
            pytest.param("::1", 65527, id="IPv6"),
        ],
    )
    def test_largest_datagram(self, own: Lab, host: str, largest: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        receiver, sender = (own.make(socket.SOCK_DGRAM, family) for _ in range(2))
        receiver.bind((host, 0))
        assert sender.sendto(bytes(largest), receiver.getsockname()) == largest
        assert len(receiver.recv(1 << 17)) == largest
        address = receiver.getsockname()
        assert failure(sender.sendto, bytes(largest + 1), address) == errno.EMSGSIZE

    def test_long_datagram_is_cut(self, lab: Lab) -> None:
        receiver, sender = lab.bound(lab.datagram()), lab.bound(lab.datagram())
        for _ in range(3):
            sender.sendto(b"datagram", receiver.getsockname())
        lab.readable(receiver)
        assert ask(receiver, FIONREAD) == 8
        data, _, flags, address = receiver.recvmsg(4)
        assert (data, flags & socket.MSG_TRUNC, address) == (
            b"data",
            socket.MSG_TRUNC,
            sender.getsockname(),
        )
        buffer = bytearray(4)
        assert lab.readable(receiver).recv_into(buffer, 4, socket.MSG_TRUNC) == 8
        assert buffer == b"data"
        assert lab.readable(receiver).recvfrom(4) == (b"data", sender.getsockname())
        assert failure(receiver.recv, 4) == errno.EAGAIN

    def test_connected_datagram_socket_hears_its_peer_only(self, lab: Lab) -> None:
        receiver, peer, stranger = (lab.bound(lab.datagram()) for _ in range(3))
        receiver.connect(peer.getsockname())
        stranger.sendto(b"stranger", receiver.getsockname())
        peer.sendto(b"peer", receiver.getsockname())
        lab.readable(receiver)
        assert receiver.recv(20) == b"peer"
        assert failure(receiver.recv, 20) == errno.EAGAIN

    def test_unconnected_datagram_socket_is_not_told_of_a_refusal(self, lab: Lab) -> None:
        gone, sender = lab.bound(lab.datagram()), lab.datagram()
        address = gone.getsockname()
        gone.close()
        sender.sendto(b"x", address)
        sender.sendto(b"x", address)
        assert error_of(sender) == 0

    def test_connected_socket_wins_over_the_wildcard(self, lab: Lab) -> None:
        sender = lab.bound(lab.datagram())
        general, special = lab.datagram(), lab.datagram()
        for sock in (special, general):
            sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
        lab.bound(special)
        special.connect(sender.getsockname())
        general.bind(special.getsockname())
        sender.sendto(b"x", special.getsockname())
        lab.readable(special)
        assert failure(general.recv, 1) == errno.EAGAIN

    def test_full_receive_buffer_drops(self, lab: Lab) -> None:
        receiver, sender = lab.bound(lab.datagram()), lab.datagram()
        receiver.setsockopt(SOL, socket.SO_RCVBUF, 8192)
        for _ in range(200):
            sender.sendto(bytes(1000), receiver.getsockname())
        lab.readable(receiver)
        received = 0
        while mask_of(receiver) & R:
            received += len(receiver.recv(2000))
        assert 0 < received < 200 * 1000

    def test_broadcast_needs_leave(self, own: Lab) -> None:
        sender = own.datagram()
        assert failure(sender.sendto, b"x", ("127.255.255.255", 9)) == errno.EACCES

    def test_datagram_to_port_zero(self, own: Lab) -> None:
        assert failure(own.datagram().sendto, b"x", ("127.0.0.1", 0)) == errno.EINVAL

    def test_dual_stack_datagram_sees_ipv4_as_mapped(self, own: Lab) -> None:
        receiver = own.make(socket.SOCK_DGRAM, socket.AF_INET6)
        receiver.bind(("::", 0))
        sender = own.bound(own.datagram())
        sender.sendto(b"four", ("127.0.0.1", receiver.getsockname()[1]))
        own.readable(receiver)
        data, address = receiver.recvfrom(10)
        assert data == b"four"
        assert address == ("::ffff:127.0.0.1", sender.getsockname()[1], 0, 0)
        receiver.sendto(b"back", address)
        own.readable(sender)
        assert sender.recv(10) == b"back"
