"""Random programs: the same steps on the stack and on the kernel, compared one by one.

`Differential` is the state machine that the programs have in common.  Each socket is
two: the stack's and the kernel's.  A rule does the same to both and compares what they
answer; after every rule the event masks, the names and the peers' names of all are
compared.  Either may take a moment: the masks are waited for.

Programs name ports that no one else is given: outside the range from which systems
choose, and unused.  Ports that the two choose themselves differ, and are not compared.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ...stacks.host import host_stack
from .base import SuiteBase, on_loopback
from .lab import BOUND, FIONREAD, Hosts, Lab, ask, error_of, linger_zero, mask_of, until

MOST_SOCKETS = 8

Outcome = tuple[str, Any]
Both = tuple[socket.socket, socket.socket]

picks = st.integers(0, MOST_SOCKETS - 1)
numbers = st.integers(0, 7)
"""Ports for `Differential.aimed`."""


_STEPS = 40


def run_program(
    machine: type[Differential], hosts: Hosts, examples: int, patient: bool, without: Iterable[str]
) -> None:
    """Run `examples` random programs of `machine` on the server host of `hosts`.

    patient -- whether to wait for what takes the kernel seconds: a SYN that is sent again
    without -- rules that are left out
    """
    body: dict[str, Any] = dict.fromkeys(without)
    body |= {"hosts": on_loopback(hosts), "patient": patient}
    made = type(machine.__name__, (machine,), body)
    run_state_machine_as_test(
        made,
        settings=settings(
            max_examples=examples,
            stateful_step_count=_STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
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
    """Return what `call` returns, or its errno, as a pair that can be compared."""
    try:
        return "returned", call(*args)
    except OSError as exc:
        return "failed", exc.errno


class Differential(RuleBasedStateMachine):
    """Two labs whose sockets with the same index do the same."""

    hosts: ClassVar[Hosts]
    """Where the programs run, both hosts the same."""
    patient: ClassVar[bool] = False
    """Whether to wait for what takes the kernel seconds: a SYN that is sent again."""

    failed = False
    """Whether a difference has been found: every shorter program with it waits for its end."""

    def __init__(self) -> None:
        super().__init__()
        kernel = on_loopback(Hosts(host_stack(), host_stack(), "127.0.0.1", "127.0.0.1"))
        self.labs = [Lab(self.hosts), Lab(kernel)]
        self.socks: list[Both] = []
        self.fixed = [0, *free_ports(3)]

    def add(self, make: Callable[[Lab], socket.socket]) -> Both:
        stack, host = self.labs
        both = make(stack), make(host)
        self.socks.append(both)
        return both

    def pick(self, index: int) -> Both:
        return self.socks[index % len(self.socks)]

    def same(self, both: Both, call: Callable[[socket.socket], Any]) -> Any:
        """Do `call` on both and compare; return the common outcome."""
        on_stack, on_host = (outcome(call, sock) for sock in both)
        assert on_stack == on_host
        return on_stack

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
        on_stack, on_host = both
        compared = ~self.not_compared(both)
        bound = _BOUND_ONCE_FAILED if Differential.failed else BOUND

        def agree() -> bool:
            return not (mask_of(on_stack) ^ mask_of(on_host)) & compared

        try:
            until(agree, bound=bound, drive=self.labs[0].drive)
        except AssertionError:
            Differential.failed = True
            raise AssertionError(
                f"socket {number}: stack {mask_of(on_stack)!r}, kernel {mask_of(on_host)!r}"
            ) from None

    @invariant()
    def names_agree(self) -> None:
        for on_stack, on_host in self.socks:
            self.same_name(outcome(on_stack.getsockname), outcome(on_host.getsockname))
            self.same_name(outcome(on_stack.getpeername), outcome(on_host.getpeername))

    def teardown(self) -> None:
        for lab in self.labs:
            lab.close()

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


class ProgramSuite(SuiteBase):
    """What the tests that run programs have in common."""

    patient: ClassVar[bool] = False
    """Whether to wait for what takes the kernel seconds."""

    programs: ClassVar[dict[str, type[Differential]]] = {}
    """By the name that ``differences`` calls them."""

    @classmethod
    def check_rule(cls, program: str, rule: str) -> None:
        """Raise ValueError when there is no such program, or it has no such rule."""
        if program not in cls.programs or not hasattr(cls.programs[program], rule):
            raise ValueError(
                f"{cls.__name__}.differences names {program}.{rule}: expected a rule of one of "
                f"{', '.join(cls.programs)}"
            )

    def run_program(self, name: str, hosts: Hosts) -> None:
        """Run random programs, without the rules that are declared to differ."""
        without = [key.partition(".")[2] for key in self.differences if key.startswith(f"{name}.")]
        run_program(self.programs[name], hosts, self.examples, self.patient, without)
