"""Random programs: the same steps on the stack and on the kernel, compared one by one.

`Differential` is the state machine that the programs have in common.  Each socket is
two: the stack's and the kernel's.  A rule does the same to both and compares what they
answer; after every rule the event masks, the names and the peers' names of all are
compared.  Either may take a moment: the masks are waited for.

Programs name ports that no one else is given: outside the range from which systems
choose, and unused.  Ports that the two choose themselves differ, and are not compared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
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

from .base import SuiteBase, on_loopback
from .lab import BOUND, FIONREAD, Hosts, ask, error_of, linger_zero
from .oracle import Both, Oracle, Outcome, free_ports, outcome

MOST_SOCKETS = 8

picks = st.integers(0, MOST_SOCKETS - 1)
numbers = st.integers(0, 7)
"""Ports for `Differential.aimed`."""


_STEPS = 40


def run_program(
    machine: type[Differential],
    hosts: Hosts,
    examples: int,
    patient: bool,
    without: Iterable[str],
    bound: float = BOUND,
) -> None:
    """Run `examples` random programs of `machine` on the server host of `hosts`.

    patient -- whether to wait for what takes the kernel seconds: a SYN that is sent again
    without -- rules that are left out
    bound -- seconds after which a state that should come has not come
    """
    body: dict[str, Any] = dict.fromkeys(without)
    body |= {"hosts": on_loopback(hosts), "patient": patient, "bound": bound}
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


class Differential(Oracle, RuleBasedStateMachine):
    """Random steps on an oracle's sockets."""

    hosts: ClassVar[Hosts]
    """Where the programs run, both hosts the same."""
    patient: ClassVar[bool] = False
    """Whether to wait for what takes the kernel seconds: a SYN that is sent again."""
    bound: ClassVar[float] = BOUND
    """Seconds after which a state that should come has not come."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Oracle.__init__(self, self.hosts, self.bound)
        self.fixed = [0, *free_ports(3)]

    def pick(self, index: int) -> Both:
        return self.socks[index % len(self.socks)]

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

    @invariant()
    def masks_agree(self) -> None:
        super().masks_agree()

    @invariant()
    def names_agree(self) -> None:
        for on_stack, on_host in self.socks:
            self.same_name(outcome(on_stack.getsockname), outcome(on_host.getsockname))
            self.same_name(outcome(on_stack.getpeername), outcome(on_host.getpeername))

    def teardown(self) -> None:
        self.close_all()

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
        run_program(self.programs[name], hosts, self.examples, self.patient, without, self.bound)
