"""The same random program on the memory stack and on the kernel: what differs is a fault.

After every step the results, the errnos, the event masks of all sockets and the
counts of bytes that wait are compared.  The kernel may take a moment: the masks are
waited for.  Nothing here fills a buffer, since the two stacks' sizes differ.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_helpers import FIONREAD, SIOCATMARK, Lab, ask, error_of, linger_zero, mask_of, until
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack

MOST_SOCKETS = 8

PROGRAM = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

Outcome = tuple[str, Any]
picks = st.integers(0, MOST_SOCKETS - 1)
sizes = st.integers(1, 12)


def outcome(call: Callable[..., Any], *args: Any) -> Outcome:
    try:
        return "returned", call(*args)
    except OSError as exc:
        return "failed", exc.errno


class Differential(RuleBasedStateMachine):
    """Two labs whose sockets with the same index do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStack()
        stacks: tuple[Stack, Stack] = (self.memory, host_stack())
        self.labs = [Lab(stack) for stack in stacks]
        self.socks: list[tuple[socket.socket, ...]] = []

    def add(self, make: Callable[[Lab], socket.socket]) -> tuple[socket.socket, ...]:
        both = tuple(make(lab) for lab in self.labs)
        self.socks.append(both)
        return both

    def pick(self, index: int) -> tuple[socket.socket, ...]:
        return self.socks[index % len(self.socks)]

    def same(self, both: tuple[socket.socket, ...], call: Callable[[socket.socket], Any]) -> Any:
        """Do `call` on both and compare; return the common outcome."""
        in_memory, on_host = (outcome(call, sock) for sock in both)
        assert in_memory == on_host
        return in_memory

    @invariant()
    def masks_agree(self) -> None:
        for number, (in_memory, on_host) in enumerate(self.socks):
            expected = mask_of(in_memory)
            try:
                until(lambda s=on_host, e=expected: mask_of(s) == e)  # type: ignore[misc]
            except AssertionError:
                raise AssertionError(
                    f"socket {number}: memory {expected!r}, kernel {mask_of(on_host)!r}"
                ) from None

    def teardown(self) -> None:
        for lab in self.labs:
            lab.close()
        self.memory.close()

    def has_sockets(self) -> bool:
        return bool(self.socks)

    def has_room(self) -> bool:
        return len(self.socks) <= MOST_SOCKETS - 2

    @precondition(has_sockets)
    @rule(index=picks)
    def take_error(self, index: int) -> None:
        self.same(self.pick(index), error_of)

    @precondition(has_sockets)
    @rule(index=picks, how=st.sampled_from([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
    def shut_down(self, index: int, how: int) -> None:
        self.same(self.pick(index), lambda sock: sock.shutdown(how))

    @precondition(has_sockets)
    @rule(index=picks, size=sizes)
    def receive(self, index: int, size: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(size))

    @precondition(has_sockets)
    @rule(index=picks, size=sizes)
    def peek(self, index: int, size: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(size, socket.MSG_PEEK))

    @precondition(has_sockets)
    @rule(index=picks)
    def close(self, index: int) -> None:
        both = self.pick(index)
        self.same(both, lambda sock: sock.close())
        self.socks.remove(both)

    @precondition(has_sockets)
    @rule(index=picks)
    def count_waiting(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: ask(sock, FIONREAD))


class Streams(Differential):
    @initialize()
    def listen(self) -> None:
        self.listeners = tuple(lab.listener() for lab in self.labs)
        self.refusing = tuple(lab.refusing_address() for lab in self.labs)

    def no_delay(self, lab: Lab) -> socket.socket:
        sock = lab.stream()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    @precondition(Differential.has_room)
    @rule()
    def make(self) -> None:
        self.add(self.no_delay)

    @precondition(Differential.has_room)
    @rule()
    def make_connected(self) -> None:
        clients = self.add(self.no_delay)
        for client, listener in zip(clients, self.listeners, strict=True):
            client.connect_ex(listener.getsockname())
        self.masks_agree()
        self.accept()

    @precondition(Differential.has_room)
    @rule()
    def accept(self) -> None:
        accepted = [outcome(listener.accept) for listener in self.listeners]
        assert accepted[0][0] == accepted[1][0]
        if accepted[0][0] == "failed":
            assert accepted[0] == accepted[1]
            return
        both = tuple(
            lab.keep(value[0]) for lab, (_, value) in zip(self.labs, accepted, strict=True)
        )
        for sock in both:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socks.append(both)

    def _connect(self, index: int, addresses: tuple[Any, ...]) -> None:
        targets = dict(zip(self.pick(index), addresses, strict=True))
        self.same(self.pick(index), lambda sock: sock.connect_ex(targets[sock]))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def connect(self, index: int) -> None:
        self._connect(index, tuple(listener.getsockname() for listener in self.listeners))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def connect_refused(self, index: int) -> None:
        self._connect(index, self.refusing)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def listen_on(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.listen(1))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def accept_on(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.accept())

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=st.binary(max_size=20))
    def send(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data))

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=st.binary(min_size=1, max_size=3))
    def send_urgent(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data, socket.MSG_OOB))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def receive_urgent(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recv(1, socket.MSG_OOB))

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def at_mark(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: ask(sock, SIOCATMARK))

    @precondition(Differential.has_sockets)
    @rule(index=picks, on=st.booleans())
    def urgent_inline(self, index: int, on: bool) -> None:
        self.same(
            self.pick(index),
            lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, on),
        )

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def close_with_linger_zero(self, index: int) -> None:
        both = self.pick(index)
        self.same(both, linger_zero)
        self.same(both, lambda sock: sock.close())
        self.socks.remove(both)

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def ask_for_peer(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: bool(sock.getpeername()))


class Datagrams(Differential):
    @precondition(Differential.has_room)
    @rule(bound=st.booleans())
    def make(self, bound: bool) -> None:
        self.add(lambda lab: lab.bound(lab.datagram()) if bound else lab.datagram())

    def _targets(self, index: int, to: int) -> dict[socket.socket, Any] | None:
        addresses = [sock.getsockname() for sock in self.pick(to)]
        if not all(port for _, port in addresses):
            return None
        return dict(zip(self.pick(index), addresses, strict=True))

    @precondition(Differential.has_sockets)
    @rule(index=picks, to=picks)
    def connect(self, index: int, to: int) -> None:
        if targets := self._targets(index, to):
            self.same(self.pick(index), lambda sock: sock.connect(targets[sock]))

    @precondition(Differential.has_sockets)
    @rule(index=picks, to=picks, data=st.binary(max_size=20))
    def send_to(self, index: int, to: int, data: bytes) -> None:
        if targets := self._targets(index, to):
            self.same(self.pick(index), lambda sock: sock.sendto(data, targets[sock]))

    @precondition(Differential.has_sockets)
    @rule(index=picks, data=st.binary(max_size=20))
    def send(self, index: int, data: bytes) -> None:
        self.same(self.pick(index), lambda sock: sock.send(data))

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(0, 12))
    def receive_from(self, index: int, size: int) -> None:
        """The sender is compared by which socket it is."""

        def call(sock: socket.socket) -> Any:
            data, sender = sock.recvfrom(size)
            side = self.pick(index).index(sock)
            names = [both[side].getsockname()[1] for both in self.socks]
            return data, names.index(sender[1]) if sender and sender[1] in names else None

        self.same(self.pick(index), call)

    @precondition(Differential.has_sockets)
    @rule(index=picks, size=st.integers(1, 12))
    def receive_message(self, index: int, size: int) -> None:
        self.same(self.pick(index), lambda sock: sock.recvmsg(size)[:3])

    @precondition(Differential.has_sockets)
    @rule(index=picks)
    def ask_for_peer(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: bool(sock.getpeername()))


TestStreams = Streams.TestCase
TestStreams.settings = PROGRAM
TestDatagrams = Datagrams.TestCase
TestDatagrams.settings = PROGRAM
