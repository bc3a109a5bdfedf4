"""The options that programs set, and what a socket is."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from ...stacks.host import host_stack
from .base import SuiteBase
from .lab import (
    Lab,
    R,
    failure,
)

KINDS = [
    pytest.param(socket.SOCK_STREAM, id="stream"),
    pytest.param(socket.SOCK_DGRAM, id="datagram"),
]
SOL = socket.SOL_SOCKET
TCP = socket.IPPROTO_TCP

TCP_TIMESTAMP = 24

OWN = {(SOL, socket.SO_SNDBUF), (SOL, socket.SO_RCVBUF), (TCP, TCP_TIMESTAMP)}
"""Options whose first value is every stack's, or every moment's, own."""


class OptionTests(SuiteBase):
    """getsockopt(2) and setsockopt(2)."""

    @pytest.mark.parametrize(
        ("level", "option"),
        [
            pytest.param(SOL, socket.SO_REUSEADDR, id="SO_REUSEADDR"),
            pytest.param(SOL, socket.SO_REUSEPORT, id="SO_REUSEPORT"),
            pytest.param(SOL, socket.SO_KEEPALIVE, id="SO_KEEPALIVE"),
            pytest.param(SOL, socket.SO_BROADCAST, id="SO_BROADCAST"),
            pytest.param(SOL, socket.SO_OOBINLINE, id="SO_OOBINLINE"),
            pytest.param(TCP, socket.TCP_NODELAY, id="TCP_NODELAY"),
            pytest.param(TCP, socket.TCP_CORK, id="TCP_CORK"),
        ],
    )
    def test_flag(self, own: Lab, level: int, option: int) -> None:
        sock = own.stream()
        assert sock.getsockopt(level, option) == 0
        sock.setsockopt(level, option, 7)
        assert sock.getsockopt(level, option) == 1
        sock.setsockopt(level, option, struct.pack("i", 0))
        assert sock.getsockopt(level, option) == 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_defaults_are_the_kernel_s(self, own: Lab, kind: int) -> None:
        sock = own.make(kind, socket.AF_INET6)
        told = {}
        for level in (SOL, TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6):
            for option in range(80):
                try:
                    told[level, option] = sock.getsockopt(level, option)
                except OSError:
                    continue
        with host_stack().socket(socket.AF_INET6, kind) as kernels:
            expected = {key: kernels.getsockopt(*key) for key in told.keys() - OWN}
        assert {key: told[key] for key in expected} == expected
        assert {(SOL, socket.SO_TYPE), (SOL, socket.SO_REUSEADDR)} <= told.keys()

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            pytest.param(socket.TCP_KEEPIDLE, 60, id="TCP_KEEPIDLE"),
            pytest.param(socket.TCP_KEEPINTVL, 10, id="TCP_KEEPINTVL"),
            pytest.param(socket.TCP_KEEPCNT, 3, id="TCP_KEEPCNT"),
            pytest.param(socket.TCP_USER_TIMEOUT, 5000, id="TCP_USER_TIMEOUT"),
        ],
    )
    def test_number(self, own: Lab, option: int, value: int) -> None:
        sock = own.stream()
        sock.setsockopt(TCP, option, value)
        assert sock.getsockopt(TCP, option) == value

    def test_linger(self, own: Lab) -> None:
        sock = own.stream()
        assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
        sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 5))
        assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 1, 5)
        assert failure(sock.setsockopt, SOL, socket.SO_LINGER, 1) == errno.EINVAL

    @pytest.mark.parametrize(
        "option",
        [
            pytest.param(socket.SO_SNDBUF, id="SO_SNDBUF"),
            pytest.param(socket.SO_RCVBUF, id="SO_RCVBUF"),
        ],
    )
    def test_buffer_sizes_are_doubled(self, own: Lab, option: int) -> None:
        sock = own.stream()
        sock.setsockopt(SOL, option, 20000)
        assert sock.getsockopt(SOL, option) == 40000
        sock.setsockopt(SOL, option, 0)
        assert 0 < sock.getsockopt(SOL, option) < 8192

    def test_options_are_inherited_by_connections(self, lab: Lab) -> None:
        listener = lab.bound(lab.make(socket.SOCK_STREAM))
        listener.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(TCP, socket.TCP_NODELAY, 1)
        listener.listen()
        lab.connecting(listener)
        lab.settles(listener, R)
        server = lab.accepted(listener)
        assert server.getsockopt(SOL, socket.SO_KEEPALIVE) == 1
        assert server.getsockopt(TCP, socket.TCP_NODELAY) == 1

    def test_v6only_is_fixed_once_bound(self, own: Lab) -> None:
        six = own.make(socket.SOCK_STREAM, socket.AF_INET6)
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        six.bind(("::1", 0))
        assert failure(six.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) == errno.EINVAL

    def test_unknown_option(self, own: Lab) -> None:
        assert failure(own.stream().getsockopt, SOL, 9999) == errno.ENOPROTOOPT
        assert failure(own.stream().setsockopt, SOL, 9999, 1) == errno.ENOPROTOOPT
        six = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        assert failure(own.datagram().getsockopt, *six) == errno.EOPNOTSUPP
        assert failure(own.datagram().setsockopt, *six, 1) == errno.ENOPROTOOPT

    @pytest.mark.parametrize("host", ["127.255.255.255", "255.255.255.255", "224.0.0.1"])
    def test_stream_to_everybody(self, own: Lab, host: str) -> None:
        assert own.stream().connect_ex((host, 9)) == errno.ENETUNREACH

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_a_socket_is(self, own: Lab, kind: int) -> None:
        sock = own.make(kind, socket.AF_INET6)
        assert sock.family == socket.AF_INET6
        assert sock.type == kind
        assert sock.getsockopt(SOL, socket.SO_TYPE) == kind
        protocol = {socket.SOCK_STREAM: TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
        assert sock.getsockopt(SOL, 38) == protocol[socket.SocketKind(kind)]
        assert sock.getsockopt(SOL, 39) == socket.AF_INET6
