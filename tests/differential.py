"""The same program on the memory stack and on the kernel, step by step.

`Differential` is the state machine that the programs have in common.  Each socket is
two: the memory stack's and the kernel's.  A rule does the same to both and compares
what they answer; after every rule the event masks, the names and the peers' names of all
are compared.  The kernel may take a moment: the masks are waited for.

Programs name ports that no one else is given: outside the range from which systems
choose, and unused.  Ports that the two choose themselves differ, and are not compared.

``VPOLL_TEST_EXAMPLES=5000`` runs each machine that many times.  With
``VPOLL_TEST_PATIENT=1`` they go where the kernel needs seconds.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memory_helpers import BOUND, FIONREAD, Lab, ask, error_of, linger_zero, mask_of, until
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack

__all__ = [
    "MOST_SOCKETS",
    "PATIENT",
    "Both",
    "Differential",
    "numbers",
    "outcome",
    "picks",
    "program",
]

MOST_SOCKETS = 8

_ASKED = int(os.environ.get("VPOLL_TEST_EXAMPLES") or 0)

PATIENT = bool(os.environ.get("VPOLL_TEST_PATIENT"))
"""Whether to wait for what takes the kernel seconds: a SYN that is sent again."""

Outcome = tuple[str, Any]
Both = tuple[socket.socket, socket.socket]

picks = st.integers(0, MOST_SOCKETS - 1)
numbers = st.integers(0, 7)
"""Ports for `Differential.aimed`."""


def program(examples: int, steps: int = 40) -> settings:
    """Return the settings of a machine that runs `examples` times unless more are asked for."""
    return settings(
        max_examples=_ASKED or examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def _candidates() -> Iterator[int]:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    below = range(max(1024, int(first) - 16384), int(first))
    # Processes that run tests at the same time begin at different places.
    start = os.getpid() * 997
    while True:
        yield below[start % len(below)]
        start += 1


_ports = _candidates()

# Seconds.  With the usual ones the search for the shortest program would take longer than
# a test may.
_BOUND_ONCE_FAILED = 0.5


def free_ports(count: int) -> list[int]:
    """Return ports that no socket of the kernel has, nor a connection that has ended."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with contextlib.ExitStack() as probes:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                probe = probes.enter_context(socket.socket(socket.AF_INET6, kind))
                try:
                    probe.bind(("::", port))
                except OSError:
                    break
            else:
                found.append(port)
    return found


def outcome(call: Callable[..., Any], *args: Any) -> Outcome:
    try:
        return "returned", call(*args)
    except OSError as exc:
        return "failed", exc.errno


class Differential(RuleBasedStateMachine):
    """Two labs whose sockets with the same index do the same."""

    failed = False
    """Whether a difference has been found: every shorter program with it waits for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStack()
        stacks: tuple[Stack, Stack] = (self.memory, host_stack())
        self.labs = [Lab(stack) for stack in stacks]
        self.socks: list[Both] = []
        self.fixed = [0, *free_ports(3)]

    def add(self, make: Callable[[Lab], socket.socket]) -> Both:
        memory, host = self.labs
        both = make(memory), make(host)
        self.socks.append(both)
        return both

    def pick(self, index: int) -> Both:
        return self.socks[index % len(self.socks)]

    def same(self, both: Both, call: Callable[[socket.socket], Any]) -> Any:
        """Do `call` on both and compare; return the common outcome."""
        in_memory, on_host = (outcome(call, sock) for sock in both)
        assert in_memory == on_host
        return in_memory

    def aimed(self, both: Both, number: int, call: Callable[[socket.socket, int], Any]) -> Any:
        """Like `same`, with a port: 0, a fixed one, or that of one of the sockets."""
        if number < len(self.fixed):
            ports = [self.fixed[number]] * 2
        else:
            ports = [sock.getsockname()[1] for sock in self.pick(number)]
        by_socket = dict(zip(both, ports, strict=True))
        return self.same(both, lambda sock: call(sock, by_socket[sock]))

    def same_name(self, one: Outcome, other: Outcome) -> None:
        """Compare two socket names; of ports that the stacks have chosen, that they have."""
        assert one[0] == other[0], (one, other)
        if one[0] == "failed":
            assert one == other
            return
        (host, port, *rest), (other_host, other_port, *other_rest) = one[1], other[1]
        assert (host, rest) == (other_host, other_rest)
        if port != other_port:
            assert port not in self.fixed
            assert other_port not in self.fixed

    def not_compared(self, both: Both) -> int:
        """Return the events that one of the two may have without the other."""
        return 0

    @invariant()
    def masks_agree(self) -> None:
        for number, both in enumerate(self.socks):
            self.settle(number, both)

    def settle(self, number: int, both: Both) -> None:
        """Wait until both show the same events."""
        in_memory, on_host = both
        compared = ~self.not_compared(both)
        expected = mask_of(in_memory) & compared
        try:
            bound = _BOUND_ONCE_FAILED if Differential.failed else BOUND
            until(lambda: mask_of(on_host) & compared == expected, bound=bound)
        except AssertionError:
            Differential.failed = True
            raise AssertionError(
                f"socket {number}: memory {mask_of(in_memory)!r}, kernel {mask_of(on_host)!r}"
            ) from None

    @invariant()
    def names_agree(self) -> None:
        for in_memory, on_host in self.socks:
            self.same_name(outcome(in_memory.getsockname), outcome(on_host.getsockname))
            self.same_name(outcome(in_memory.getpeername), outcome(on_host.getpeername))

    def teardown(self) -> None:
        for lab in self.labs:
            lab.close()
        self.memory.close()

    def has_sockets(self) -> bool:
        return bool(self.socks)

    def has_room(self) -> bool:
        return len(self.socks) <= MOST_SOCKETS - 2

    def may_end(self, both: Both) -> bool:
        """Return whether the socket may be closed or shut down now."""
        return True

    @precondition(has_sockets)
    @rule(index=picks)
    def take_error(self, index: int) -> None:
        self.same(self.pick(index), error_of)

    @precondition(has_sockets)
    @rule(index=picks, how=st.sampled_from([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
    def shut_down(self, index: int, how: int) -> None:
        both = self.pick(index)
        if self.may_end(both):
            self.same(both, lambda sock: sock.shutdown(how))

    @precondition(has_sockets)
    @rule(index=picks)
    def close(self, index: int) -> None:
        both = self.pick(index)
        if self.may_end(both):
            self.same(both, lambda sock: sock.close())
            self.socks.remove(both)

    @precondition(has_sockets)
    @rule(index=picks)
    def close_with_linger_zero(self, index: int) -> None:
        both = self.pick(index)
        if self.may_end(both):
            self.same(both, linger_zero)
            self.same(both, lambda sock: sock.close())
            self.socks.remove(both)

    @precondition(has_sockets)
    @rule(index=picks)
    def count_waiting(self, index: int) -> None:
        self.same(self.pick(index), lambda sock: ask(sock, FIONREAD))
