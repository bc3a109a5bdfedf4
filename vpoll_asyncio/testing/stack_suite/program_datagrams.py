"""Random programs with datagrams, on a stack and on the kernel."""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .lab import Lab
from .programs import Differential, numbers, picks

SOL = socket.SOL_SOCKET

ADDRESSES = {
    socket.AF_INET: ["127.0.0.1", "0.0.0.0", "127.0.0.2"],
    socket.AF_INET6: ["::1", "::", "::ffff:127.0.0.1"],
}

kinds = st.sampled_from(["IPv4", "IPv6", "IPv6 only"])
addresses = st.integers(0, 2)
payloads = st.binary(max_size=20)
flag_sets = st.sampled_from(
    [0, 0, socket.MSG_PEEK, socket.MSG_TRUNC, socket.MSG_PEEK | socket.MSG_TRUNC]
)


def is_native_six(host: str) -> bool:
    """Return whether `host` is an IPv6 address that stands for no IPv4 one."""
    return ":" in host and host != "::" and not host.startswith("::ffff:")


class Datagrams(Differential):
    """Programs of datagrams."""

    @precondition(Differential.has_room)
    @rule(kind=kinds, reuse=st.booleans(), bound=st.booleans())
    def make(self, kind: str, reuse: bool, bound: bool) -> None:
        def make(lab: Lab) -> socket.socket:
            family = socket.AF_INET if kind == "IPv4" else socket.AF_INET6
            sock = lab.keep(lab.stack.socket(family, socket.SOCK_DGRAM))
            if kind == "IPv6 only":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(SOL, socket.SO_REUSEADDR, reuse)
            if bound:
                sock.bind((ADDRESSES[family][0], 0))
            return sock

        self.add(make)

    @precondition(Differential.has_sockets)
    @rule(index=picks, address=addresses, number=numbers)
    def bind(self, index: int, address: int, number: int) -> None:
        self.aimed(
            self.pick(index),
            number % len(self.fixed),
            lambda sock, port: sock.bind((ADDRESSES[sock.family][address], port)),
        )

    @precondition(Differential.has_sockets)
    @rule(index=picks, address=addresses, number=numbers)
    def connect(self, index: int, address: int, number: int) -> None:
        """To a socket, to a port that nobody has any more, or to port 0.

        Not from an IPv6 peer to an IPv4 one: docs/reference/memory.md.
        """
        both = self.pick(index)
        name = both[0].getsockname()[0]
        target = ADDRESSES[both[0].family][address]
        assume(not (is_native_six(name) and not is_native_six(target) and target != "::"))
        self.aimed(
            both,
            number,
            lambda sock, port: sock.connect((target, port)),
        )

    @precondition(Differential.has_sockets)
    @rule(index=picks, address=addresses, number=numbers, data=payloads)
    def send_to(self, index: int, address: int, number: int, data: bytes) -> None:
        self.aimed(
            self.pick(index),
            number,
            lambda sock, port: sock.sendto(data, (ADDRESSES[sock.family][address], port)),
        )

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=payloads)
    def send(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data))

    @precondition(Differential.has_sockets)
    @rule(index=picks, parts=st.lists(st.binary(max_size=6), max_size=3))
    def send_message(self, index: int, parts: list[bytes]) -> None:
        self.same(self.pick(index), lambda sock: sock.sendmsg(parts))

    def _compare(self, index: int, call: Any) -> None:
        """Compare results whose last part is a sender."""
        results: list[Any] = []
        senders: list[list[bool]] = []
        for sock in self.pick(index):
            try:
                results.append(call(sock))
            except OSError as exc:
                results.append(exc.errno)
        one, other = results
        if not isinstance(one, tuple) or not isinstance(other, tuple):
            assert one == other
            return
        assert one[:-1] == other[:-1]
        if one[-1] and other[-1]:
            self.same_name(("returned", one[-1]), ("returned", other[-1]))
            # The sender is whichever sockets have that port.
            for side, sender in enumerate((one[-1], other[-1])):
                senders.append([both[side].getsockname()[1] == sender[1] for both in self.socks])
            assert senders[0] == senders[1]
        else:
            assert one[-1] == other[-1]

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(1, 12), flags=flag_sets)
    def receive_into(self, index: int, size: int, flags: int) -> None:
        def call(sock: socket.socket) -> Any:
            buffer = bytearray(size)
            return sock.recv_into(buffer, size, flags), buffer

        self.same(self.pick(index), call)

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(0, 12), flags=st.sampled_from([0, socket.MSG_PEEK]))
    def receive_from(self, index: int, size: int, flags: int) -> None:
        self._compare(index, lambda sock: sock.recvfrom(size, flags))

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(0, 12))
    def receive_message(self, index: int, size: int) -> None:
        self._compare(index, lambda sock: sock.recvmsg(size))
