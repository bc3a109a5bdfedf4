"""Random programs that fill buffers, on a stack and on the kernel.

How much fits differs.  What is compared is what a full buffer does: to masks, to `send`,
to a FIN or a reset behind it; and that whoever drains it gets every byte.
"""

from __future__ import annotations

import errno
import socket

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ...events import EventMask
from .lab import FIONREAD, W, ask, fill, mask_of, until
from .oracle import Both, outcome
from .programs import Differential, picks

FULL = "full"


def fixed_buffers(sock: socket.socket) -> None:
    """Keep the kernel from enlarging the buffers when it seems to pay."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 60_000)
    # Small pieces go out at once.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Full(Differential):
    """Everything that is sent is the letter x: what is read differs by its length only."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: dict[Both, Both] = {}
        self.flooded: set[Both] = set()
        """Who has filled the buffers, and whose peer has not drained them."""
        self.deaf: set[Both] = set()
        """Who has shut down reading."""
        self.unread: dict[socket.socket, int] = {}
        """Bytes that a socket's peer has sent to it and it has not read."""

    def not_compared(self, both: Both) -> int:
        """`fill` has seen that OUT went; the kernel may find some room later."""
        return W if both in self.flooded else 0

    @precondition(Differential.has_room)
    @rule()
    def make_connection(self) -> None:
        ends = [lab.pair(fixed_buffers) for lab in self.labs]
        (one, other), (host_one, host_other) = ends
        client, server = (one, host_one), (other, host_other)
        self.peers[client] = server
        self.peers[server] = client
        for both in (client, server):
            self.socks.append(both)
            self.unread.update(dict.fromkeys(both, 0))

    def _sent(self, both: Both, counts: list[int]) -> None:
        for sock, count in zip(self.peers[both], counts, strict=True):
            self.unread[sock] += count

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def fill(self, index: int) -> None:
        both = self.pick(index)
        if self.peers[both] in self.deaf:
            return
        counts: list[int] = []

        def call(sock: socket.socket) -> str:
            counts.append(fill(sock))
            return FULL

        if self.same(both, call) == ("returned", FULL):
            self._sent(both, counts)
            self.flooded.add(both)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def send(self, index: int) -> None:
        """Into full buffers a few bytes may fit still: only errors are compared then."""
        both = self.pick(index)
        counts = []

        def call(sock: socket.socket) -> str:
            try:
                counts.append(sock.send(b"xx"))
            except BlockingIOError:
                if both not in self.flooded:
                    raise
                counts.append(0)
            return "sent"

        if self.same(both, call) == ("returned", "sent"):
            assert both in self.flooded or counts == [2, 2]
            self._sent(both, counts)

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(1, 12), peek=st.booleans())
    def receive(self, index: int, size: int, peek: bool) -> None:
        both = self.pick(index)
        kind, data = self.same(both, lambda sock: sock.recv(size, socket.MSG_PEEK if peek else 0))
        if kind == "returned" and not peek:
            for sock in both:
                self.unread[sock] -= len(data)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def drain(self, index: int) -> None:
        """Read until the end, an error, or until nothing comes and the peer may send."""
        both = self.pick(index)
        ends = []
        for sock, peer in zip(both, self.peers[both], strict=True):
            ends.append(self._drain(sock, peer))
        assert ends[0] == ends[1]
        if ends[0] in (0, errno.EAGAIN) and not mask_of(both[0]) & EventMask.HUP:
            # Nothing has been lost by a reset.
            assert [self.unread[sock] for sock in both] == [0, 0]
        self.flooded.discard(self.peers[both])

    def _drain(self, sock: socket.socket, peer: socket.socket) -> int:
        end = -1

        def over() -> bool:
            nonlocal end
            while True:
                kind, value = outcome(sock.recv, 1 << 20)
                if kind == "failed":
                    end = value
                    return end != errno.EAGAIN or not self.unread[sock]
                if not value:
                    end = 0
                    return True
                assert not value.strip(b"x")
                self.unread[sock] -= len(value)

        until(over, "data do not come")
        if end == errno.EAGAIN and peer.fileno() >= 0:
            until(lambda: mask_of(peer) & EventMask.OUT, "there is room, and nobody is told")
        return end

    @precondition(Differential.has_sockets)
    @rule(index=picks, how=st.sampled_from([socket.SHUT_RD, socket.SHUT_WR]))
    def shut_down(self, index: int, how: int) -> None:
        """Not for reading while the peer holds data.

        Nobody tells it then that there is room, and it tries again after seconds.
        """
        both = self.pick(index)
        if how == socket.SHUT_WR or self.peers[both] not in self.flooded:
            self.same(both, lambda sock: sock.shutdown(how))
            if how == socket.SHUT_RD:
                self.deaf.add(both)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def count_waiting(self, index: int) -> None:
        if self.peers[self.pick(index)] not in self.flooded:
            self.same(self.pick(index), lambda sock: ask(sock, FIONREAD))
