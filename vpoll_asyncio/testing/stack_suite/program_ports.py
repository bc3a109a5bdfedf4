"""Random programs about who has which port, on a stack and on the kernel.

bind, listen, connect, a full backlog, and the ports that closed connections keep.
"""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .lab import HUP, Lab, mask_of
from .oracle import Both, outcome
from .programs import MOST_SOCKETS, Differential, numbers, picks

SOL = socket.SOL_SOCKET

ADDRESSES = {
    socket.AF_INET: ["127.0.0.1", "0.0.0.0", "127.0.0.2"],
    socket.AF_INET6: ["::1", "::", "::ffff:127.0.0.1"],
}

kinds = st.sampled_from(["IPv4", "IPv6", "IPv6 only"])
sharing = st.sampled_from([0, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
addresses = st.integers(0, 2)


def listens(sock: socket.socket) -> bool:
    """Return whether `sock` listens."""
    return bool(sock.getsockopt(SOL, socket.SO_ACCEPTCONN))


class Ports(Differential):
    """Programs of ports."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: dict[socket.socket, str] = {}

    @precondition(Differential.has_room)
    @rule(kind=kinds, share=sharing, bound=st.booleans())
    def make(self, kind: str, share: int, bound: bool) -> None:
        def make(lab: Lab) -> socket.socket:
            family = socket.AF_INET if kind == "IPv4" else socket.AF_INET6
            sock = lab.keep(lab.stack.socket(family, socket.SOCK_STREAM))
            if kind == "IPv6 only":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if share:
                sock.setsockopt(SOL, share, 1)
            if bound:
                sock.bind((ADDRESSES[family][0], 0))
            return sock

        self.add(make)

    @precondition(Differential.has_room)
    @rule(six=st.booleans(), share=sharing, backlog=st.integers(0, 2))
    def make_listener(self, six: bool, share: int, backlog: int) -> None:
        self.make("IPv6" if six else "IPv4", share, True)
        self.same(self.socks[-1], lambda sock: sock.listen(backlog))

    @precondition(Differential.has_sockets)
    @rule(index=picks, address=addresses, number=numbers)
    def bind(self, index: int, address: int, number: int) -> None:
        self.aimed(
            self.pick(index),
            number % len(self.fixed),
            lambda sock, port: sock.bind((ADDRESSES[sock.family][address], port)),
        )

    @precondition(Differential.has_sockets)
    @rule(index=picks, backlog=st.integers(0, 2))
    def listen(self, index: int, backlog: int) -> None:
        """Not as a second one of SO_REUSEPORT: which one gets a connection is a hash."""
        both = self.pick(index)
        sock = both[0]
        port = sock.getsockname()[1]
        if not any(
            other is not both and listens(other[0]) and port == other[0].getsockname()[1] != 0
            for other in self.socks
        ) or not sock.getsockopt(SOL, socket.SO_REUSEPORT):
            self.same(both, lambda sock: sock.listen(backlog))

    def _knocks(self) -> bool:
        """Return whether somebody waits for room in a backlog."""
        return any(not mask_of(memory) and not listens(memory) for memory, _ in self.socks)

    def may_end(self, both: Both) -> bool:
        return self.patient or not listens(both[0]) or not self._knocks()

    @precondition(Differential.has_sockets)
    @rule(index=picks, address=addresses, number=numbers)
    def connect(self, index: int, address: int, number: int) -> None:
        """One at a time waits for room: which of two gets in is a matter of time.

        A socket that has tried an IPv4 address tries no IPv6 one: docs/reference/memory.md.
        """
        both = self.pick(index)
        target = ADDRESSES[both[0].family][address]
        family = "IPv4" if "." in target else "IPv6"
        if not self._knocks() and self.tried.setdefault(both[0], family) == family:
            self.aimed(both, number, lambda sock, port: sock.connect((target, port)))

    def _knock(self, client: Both, listener: Both) -> None:
        names = {sock: at.getsockname() for sock, at in zip(client, listener, strict=True)}
        self.same(client, lambda sock: sock.connect(names[sock]))

    def _room_for_a_backlog(self) -> bool:
        return len(self.socks) <= MOST_SOCKETS - 4 and not self._knocks()

    @precondition(_room_for_a_backlog)
    @rule(six=st.booleans(), backlog=st.integers(0, 1))
    def make_full_backlog(self, six: bool, backlog: int) -> None:
        """A listener, the clients that it has room for, and one that waits."""
        self.make_listener(six, 0, backlog)
        listener = self.socks[-1]
        for _ in range(backlog + 2):
            self.make("IPv6" if six else "IPv4", 0, bound=False)
            client = self.socks[-1]
            self.tried[client[0]] = "IPv6" if six else "IPv4"
            self._knock(client, listener)
            self.masks_agree()

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def connect_again(self, index: int) -> None:
        """While it is in progress, when it has failed, or when it has succeeded."""
        both = self.pick(index)
        if not mask_of(both[0]) & HUP or both[0].getsockopt(SOL, socket.SO_ACCEPTCONN):
            address = "::ffff:127.0.0.1" if self.tried.get(both[0]) == "IPv4" else "::1"
            if both[0].family == socket.AF_INET:
                address = "127.0.0.1"
            self.aimed(both, 1, lambda sock, port: sock.connect((address, port)))

    @precondition(Differential.has_sockets)
    @precondition(Differential.has_room)
    @rule(index=picks)
    def accept(self, index: int) -> None:
        both = self.pick(index)
        if not self.may_end(both):
            return
        one, other = (outcome(sock.accept) for sock in both)
        assert one[0] == other[0], (one, other)
        if one[0] == "failed":
            assert one == other
            return
        results: list[Any] = [one[1], other[1]]
        kept = [lab.keep(sock) for lab, (sock, _) in zip(self.labs, results, strict=True)]
        self.same_name(("returned", results[0][1]), ("returned", results[1][1]))
        self.socks.append((kept[0], kept[1]))

    @precondition(Differential.has_room)
    @rule(
        share=sharing,
        where=addresses,
        number=numbers,
        client_first=st.booleans(),
        ending=st.sampled_from(["close", "shut down", "unread"]),
        listener_stays=st.booleans(),
    )
    def connection_that_ends(
        self,
        share: int,
        where: int,
        number: int,
        client_first: bool,
        ending: str,
        listener_stays: bool,
    ) -> None:
        """A whole connection: who closes first keeps the port for a while."""
        self.make("IPv4", share, bound=False)
        self.bind(len(self.socks) - 1, where, number)
        listener = self.socks[-1]
        self.listen(len(self.socks) - 1, 1)
        self.make("IPv4", share, bound=False)
        client = self.socks[-1]
        address = listener[0].getsockname()[0]
        ports = {sock: at.getsockname()[1] for sock, at in zip(client, listener, strict=True)}
        self.same(client, lambda sock: sock.connect_ex((address, ports[sock])))
        self.masks_agree()
        self.names_agree()
        before = len(self.socks)
        self.accept(before - 2)
        if len(self.socks) == before:
            # The port was taken by another one, or the connection went to it.
            return
        server = self.socks.pop()
        for both in (client, server) if client_first else (server, client):
            if ending == "unread":
                self.same(both, lambda sock: sock.send(b"a"))
            elif ending == "shut down":
                self.same(both, lambda sock: sock.shutdown(socket.SHUT_WR))
            self.same(both, lambda sock: sock.close())
        self.socks.remove(client)
        if not listener_stays:
            self.same(listener, lambda sock: sock.close())
            self.socks.remove(listener)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def send(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.send(b"abc"))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def receive(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(2))
