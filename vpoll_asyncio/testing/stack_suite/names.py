"""Which address and port a socket may have, and for how long."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from .base import SuiteBase
from .lab import (
    DEAD,
    ERR,
    RDHUP,
    Lab,
    R,
    W,
    failure,
    mask_of,
)

KINDS = [
    pytest.param(socket.SOCK_STREAM, id="stream"),
    pytest.param(socket.SOCK_DGRAM, id="datagram"),
]
SOL = socket.SOL_SOCKET


def may_bind(sock: socket.socket, address: Any) -> bool:
    """Bind `sock` to `address`; return whether that was free."""
    try:
        sock.bind(address)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        return False
    return True


class NameTests(SuiteBase):
    """bind(2), and the ports that connections keep."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_unbound_name(self, own: Lab, kind: int) -> None:
        assert own.make(kind).getsockname() == ("0.0.0.0", 0)
        assert own.make(kind, socket.AF_INET6).getsockname() == ("::", 0, 0, 0)

    @pytest.mark.parametrize("kind", KINDS)
    def test_port_zero_is_an_ephemeral_port(self, own: Lab, kind: int) -> None:
        sock = own.bound(own.make(kind))
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert 1024 < port < 65536

    @pytest.mark.parametrize("kind", KINDS)
    def test_port_in_use(self, own: Lab, kind: int) -> None:
        first = own.bound(own.make(kind))
        assert failure(own.make(kind).bind, first.getsockname()) == errno.EADDRINUSE

    @pytest.mark.parametrize("kind", KINDS)
    def test_wildcard_conflicts_with_an_address(self, own: Lab, kind: int) -> None:
        port = own.bound(own.make(kind)).getsockname()[1]
        assert failure(own.make(kind).bind, ("", port)) == errno.EADDRINUSE

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_address_has_its_own_ports(self, own: Lab, kind: int) -> None:
        port = own.bound(own.make(kind)).getsockname()[1]
        own.make(kind).bind(("127.0.0.2", port))

    @pytest.mark.parametrize("kind", KINDS)
    def test_dual_stack_wildcard_conflicts_with_ipv4_unless_v6only(
        self, own: Lab, kind: int
    ) -> None:
        port = own.bound(own.make(kind)).getsockname()[1]
        six = own.make(kind, socket.AF_INET6)
        assert failure(six.bind, ("::", port)) == errno.EADDRINUSE
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::", port))

    @pytest.mark.parametrize("kind", KINDS)
    def test_port_is_free_after_close(self, own: Lab, kind: int) -> None:
        first = own.bound(own.make(kind))
        name = first.getsockname()
        first.close()
        own.make(kind).bind(name)

    @pytest.mark.parametrize("kind", KINDS)
    def test_address_of_nobody(self, own: Lab, kind: int) -> None:
        assert failure(own.make(kind).bind, ("192.0.2.1", 0)) == errno.EADDRNOTAVAIL

    @pytest.mark.parametrize("kind", KINDS)
    def test_second_bind(self, own: Lab, kind: int) -> None:
        sock = own.bound(own.make(kind))
        assert failure(sock.bind, ("127.0.0.1", 0)) == errno.EINVAL

    def test_mapped_address_on_a_v6only_socket(self, own: Lab) -> None:
        six = own.make(socket.SOCK_STREAM, socket.AF_INET6)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        assert failure(six.bind, ("::ffff:127.0.0.1", 0)) == errno.EINVAL

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "option",
        [
            pytest.param(socket.SO_REUSEADDR, id="SO_REUSEADDR"),
            pytest.param(socket.SO_REUSEPORT, id="SO_REUSEPORT"),
        ],
    )
    def test_port_is_shared_when_both_agree(self, own: Lab, kind: int, option: int) -> None:
        first, second, third = (own.make(kind) for _ in range(3))
        for sock in (first, second):
            sock.setsockopt(SOL, option, 1)
        own.bound(first)
        second.bind(first.getsockname())
        assert failure(third.bind, first.getsockname()) == errno.EADDRINUSE

    def test_reuseaddr_does_not_share_a_listener(self, own: Lab) -> None:
        first, second, third = (own.stream() for _ in range(3))
        for sock in (first, second, third):
            sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)
        own.bound(first)
        second.bind(first.getsockname())
        first.listen()
        assert failure(second.listen) == errno.EADDRINUSE
        assert failure(third.bind, first.getsockname()) == errno.EADDRINUSE

    def test_reuseport_shares_a_listener(self, own: Lab) -> None:
        first, second = own.stream(), own.stream()
        for sock in (first, second):
            sock.setsockopt(SOL, socket.SO_REUSEPORT, 1)
        own.bound(first).listen()
        second.bind(first.getsockname())
        second.listen()
        client = own.connecting(first)
        own.settles(client, W)
        assert sorted([mask_of(first), mask_of(second)]) == [0, R]

    def test_connection_keeps_the_port_of_its_closed_listener(self, lab: Lab) -> None:
        listener = lab.listener()
        name = listener.getsockname()
        lab.settles(lab.connecting(listener), W)
        lab.accepted(listener)
        listener.close()
        assert failure(lab.make(socket.SOCK_STREAM).bind, name) == errno.EADDRINUSE

    @pytest.mark.parametrize("reuse_then", [False, True])
    @pytest.mark.parametrize("reuse_now", [False, True])
    def test_who_closes_first_keeps_the_port(
        self, lab: Lab, reuse_then: bool, reuse_now: bool
    ) -> None:
        listener = lab.bound(lab.make(socket.SOCK_STREAM))
        listener.setsockopt(SOL, socket.SO_REUSEADDR, reuse_then)
        listener.listen()
        address = listener.getsockname()
        client = lab.connecting(listener)
        lab.settles(client, W)
        server = lab.accepted(listener)
        listener.close()
        server.close()
        lab.settles(client, R | W | RDHUP)
        client.close()
        again = lab.make(socket.SOCK_STREAM)
        again.setsockopt(SOL, socket.SO_REUSEADDR, reuse_now)
        if reuse_then and reuse_now:
            again.bind(address)
        else:
            assert failure(again.bind, address) == errno.EADDRINUSE

    @pytest.mark.parametrize("ending", ["second", "reset"])
    def test_who_does_not_close_first_gives_the_port_back(self, lab: Lab, ending: str) -> None:
        listener = lab.listener()
        address = listener.getsockname()
        client = lab.connecting(listener)
        lab.settles(client, W)
        server = lab.accepted(listener)
        listener.close()
        if ending == "second":
            client.close()
            lab.settles(server, R | W | RDHUP)
        else:
            client.send(b"unread")
            lab.settles(server, R | W)
        server.close()
        # The last acknowledgement may be under way.
        again = lab.make(socket.SOCK_STREAM)
        lab.until(lambda: may_bind(again, address), "the port is not given back")

    def test_connection_between_the_ports_of_an_ended_one(self, own: Lab) -> None:
        """On loopback: elsewhere Linux keeps the ports of a connection for a minute."""
        listener = own.listener()
        name = None
        for _ in range(3):
            client = own.stream()
            client.setsockopt(SOL, socket.SO_REUSEADDR, 1)
            if name is None:
                own.bound(client)
            else:
                client.bind(name)
            name = client.getsockname()
            client.connect_ex(listener.getsockname())
            own.settles(client, W)
            server = own.accepted(listener)
            client.close()
            own.settles(server, R | W | RDHUP)
            server.close()

    def test_port_of_a_closed_socket_whose_peer_stays(self, lab: Lab) -> None:
        listener = lab.listener()
        address = listener.getsockname()
        client = lab.connecting(listener)
        lab.settles(client, W)
        lab.accepted(listener).close()
        listener.close()
        lab.settles(client, R | W | RDHUP)
        assert failure(lab.make(socket.SOCK_STREAM).bind, address) == errno.EADDRINUSE
        client.send(b"nobody reads this")
        lab.settles(client, DEAD | ERR)
        again = lab.make(socket.SOCK_STREAM)
        lab.until(lambda: may_bind(again, address), "the port is not given back")
