"""Random programs with streams, on a stack and on the kernel.

Nothing here fills a buffer (program_full.py) or shares a port
(program_ports.py).
"""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from .lab import SIOCATMARK, Lab, ask
from .oracle import Both
from .programs import Differential, picks

SOL = socket.SOL_SOCKET
PEEK = socket.MSG_PEEK
OOB = socket.MSG_OOB

FAMILIES = {
    "IPv4": (socket.AF_INET, socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    "IPv6": (socket.AF_INET6, socket.AF_INET6, "::1", "::1"),
    "IPv4 to a dual-stack listener": (socket.AF_INET6, socket.AF_INET, "::", "127.0.0.1"),
    "mapped to a dual-stack listener": (socket.AF_INET6, socket.AF_INET6, "::", "::ffff:127.0.0.1"),
    "mapped to an IPv4 listener": (
        socket.AF_INET,
        socket.AF_INET6,
        "127.0.0.1",
        "::ffff:127.0.0.1",
    ),
}
"""Families of listener and client, where the one listens, where the other connects to."""

sizes = st.integers(1, 12)


class Streams(Differential):
    """Programs of streams."""

    @initialize(how=st.sampled_from(sorted(FAMILIES)))
    def listen(self, how: str) -> None:
        self.listen_as(how)

    def listen_as(self, how: str) -> None:
        listener_family, self.family, here, self.there = FAMILIES[how]
        self.listeners: list[socket.socket] = []
        for lab in self.labs:
            listener = lab.keep(lab.stack.socket(listener_family, socket.SOCK_STREAM))
            listener.bind((here, 0))
            listener.listen(16)
            self.listeners.append(listener)
        refusing = [lab.refusing_address() for lab in self.labs]
        self.listening_ports = [sock.getsockname()[1] for sock in self.listeners]
        self.refusing_ports = [address[1] for address in refusing]

    def no_delay(self, lab: Lab) -> socket.socket:
        sock = lab.keep(lab.stack.socket(self.family, socket.SOCK_STREAM))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    @precondition(Differential.has_room)
    @rule()
    def make(self) -> None:
        self.add(self.no_delay)

    @precondition(Differential.has_room)
    @rule()
    def make_connected(self) -> None:
        self._connect(self.add(self.no_delay), refused=False)
        self.masks_agree()
        self.accept()

    @precondition(Differential.has_room)
    @rule()
    def accept(self) -> None:
        accepted: list[Any] = []
        for listener in self.listeners:
            try:
                accepted.append(listener.accept())
            except OSError as exc:
                accepted.append(exc.errno)
        if not isinstance(accepted[0], tuple):
            assert accepted[0] == accepted[1]
            return
        one, other = (
            lab.keep(connection) for lab, (connection, _) in zip(self.labs, accepted, strict=True)
        )
        for sock in (one, other):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socks.append((one, other))

    def _connect(self, both: Both, refused: bool) -> None:
        ports = self.refusing_ports if refused else self.listening_ports
        by_socket = dict(zip(both, ports, strict=True))
        self.same(both, lambda sock: sock.connect_ex((self.there, by_socket[sock])))

    @precondition(Differential.has_sockets)
    @rule(index=picks, refused=st.booleans())
    def connect(self, index: int, refused: bool) -> None:
        self._connect(self.pick(index), refused)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def listen_on(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.listen(1))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def accept_on(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.accept())

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=sizes, flags=st.sampled_from([0, 0, 0, PEEK, socket.MSG_TRUNC]))
    def receive(self, index: int, size: int, flags: int) -> None:
        if flags & socket.MSG_TRUNC:
            # The bytes are thrown away, and recv would return what memory there was.
            self.same(self.pick(index), lambda sock: sock.recv_into(bytearray(size), 0, flags))
        else:
            self.same(self.pick(index), lambda sock: sock.recv(size, flags))

    @precondition(Differential.has_sockets)
    @rule(index=picks, sizes=st.lists(sizes, min_size=1, max_size=3))
    def receive_message(self, index: int, sizes: list[int]) -> None:
        def call(sock: socket.socket) -> Any:
            buffers = [bytearray(size) for size in sizes]
            return sock.recvmsg_into(buffers), buffers

        self.same(self.pick(index), call)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def receive_all(self, index: int) -> None:
        """What ends the data is compared too: EAGAIN, the end, or an error."""

        def call(sock: socket.socket) -> Any:
            parts = []
            try:
                while part := sock.recv(1000):
                    parts.append(part)
            except OSError as exc:
                return b"".join(parts), exc.errno
            return b"".join(parts), 0

        self.same(self.pick(index), call)

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=st.binary(max_size=20))
    def send(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data))

    @precondition(Differential.has_sockets)
    @rule(index=picks, parts=st.lists(st.binary(max_size=6), max_size=3))
    def send_message(self, index: int, parts: list[bytes]) -> None:
        self.same(self.pick(index), lambda sock: sock.sendmsg(parts))

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=st.binary(max_size=3))
    def send_urgent(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data, OOB))

    @precondition(Differential.has_sockets)
    @rule(index=picks, flags=st.sampled_from([0, PEEK]))
    def receive_urgent(self, index: int, flags: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(1, OOB | flags))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def at_mark(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: ask(sock, SIOCATMARK))

    @precondition(Differential.has_sockets)
    @rule(index=picks, on=st.booleans())
    def urgent_inline(self, index: int, on: bool) -> None:
        self.same(self.pick(index), lambda sock: sock.setsockopt(SOL, socket.SO_OOBINLINE, on))

    @precondition(Differential.has_sockets)
    @rule(index=picks, count=st.integers(0, 9))
    def low_water_mark(self, index: int, count: int) -> None:
        self.same(self.pick(index), lambda sock: sock.setsockopt(SOL, socket.SO_RCVLOWAT, count))
