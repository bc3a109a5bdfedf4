"""What a program says of the paths between the hosts of a memory network."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ...links.netem import NetemCounters
from ...links.netemspec import Settings, Value, as_number, parse_settings
from .agenda import ManualClock
from .conditions import GOOD, Conditions
from .network import Host, Network
from .pcb import Pcb, publish

if TYPE_CHECKING:
    from .stack import MemoryStack

__all__ = ["MemoryNetwork"]

# An unsigned int of milliseconds.
_USER_TIMEOUT_MAX: Final = 4294967.295


class MemoryNetwork:
    """The network of a `MemoryStack`, and what is wrong between its hosts.

    Every stack of one network returns equal ones as `MemoryStack.network`; it is not made by
    programs.  At first everything passes at once.  `set_path` and `partition` change that at
    any time: connections that exist go on under the new conditions, and what is under way
    keeps the time that it was given when it set out.

    A stream does over its path what TCP does: it connects in a round trip, sends again what
    got lost, and gives up with ETIMEDOUT.  Datagrams are delayed, lost, doubled, reordered.
    A host reaches itself, whatever the conditions say.

    What happens to a packet follows from `seed`, from the two hosts, and from how many there
    were on that way before, and from no time.  Acknowledgements are never lost, save by a
    partition.

    A thread of its own lets things happen, as long as there is something under way; with
    `clock`, the program does.  Methods may be called from any thread.
    """

    __slots__ = ("_network",)

    def __init__(self, network: Network) -> None:
        self._network = network

    @classmethod
    def of(cls, network: Network) -> MemoryNetwork:
        """Return what programs see of `network`."""
        return cls(network)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryNetwork) and other._network is self._network

    def __hash__(self) -> int:
        return hash(self._network)

    def __repr__(self) -> str:
        conditions = self._network.conditions
        state = "" if conditions is None else f" seed={conditions.seed}"
        if conditions is not None and conditions.partitioned:
            state += " partitioned"
        return f"<MemoryNetwork {self.name}{state}: {len(set(self._network.hosts.values()))} hosts>"

    @property
    def name(self) -> str:
        """``"mem://NAME"``, or what stands for a network without a name."""
        return self._network.name

    def _conditions(self) -> Conditions:
        """Under the lock: the conditions, made when they are first asked for."""
        network = self._network
        if network.conditions is None:
            network.conditions = Conditions(network, secrets.randbits(32))
        return network.conditions

    def _host(self, stack: object) -> Host:
        if isinstance(stack, str):
            raise ValueError(
                f"{stack!r} is a name: expected the stack that has it, of a "
                f"vpoll_asyncio.testing.Network network[{stack!r}]"
            )
        host = getattr(stack, "host", None)
        if not isinstance(host, Host) or host.network is not self._network:
            raise ValueError(f"{stack!r} is no stack on {self.name}")
        if host.down:
            raise ValueError(f"{stack!r} is closed: it has left {self.name}")
        return host

    # Conditions.

    def set_path(
        self,
        a: MemoryStack | None = None,
        b: MemoryStack | None = None,
        *,
        both: bool = True,
        delay: float | str = 0,
        jitter: Value = 0,
        distribution: str = "uniform",
        loss: Value = 0,
        duplicate: Value = 0,
        corrupt: Value = 0,
        reorder: Value = 0,
        gap: int | str = 0,
        rate: float | str = 0,
        limit: int | str = 1000,
    ) -> None:
        """Set the conditions from `a` to `b`, and from `b` to `a` unless `both` is false.

        The words are those of tc-netem(8), as `NetemLink` has them.  What is not given is
        good, so ``set_path(a, b)`` makes that path a perfect one, and ``set_path()`` all.

        a, b -- stacks of this network; None for any.  The last call that fits a path counts
        delay -- how long a packet takes: seconds, or ``"10ms"``
        jitter, distribution -- by how much the delay varies: at most (``"uniform"``) or as the
            standard deviation (``"normal"``)
        loss, duplicate, corrupt -- how many of the packets get lost, come twice, or come with
            a wrong checksum, which drops them: a fraction of 1, or ``"2%"``, perhaps with a
            correlation: ``"2% 25%"``
        reorder, gap -- how many overtake those that are delayed, and every how many one may
        rate -- bits a second, or ``"10mbit"``, headers included
        limit -- most packets under way; more are dropped

        Raises ValueError for a bad value, and for a stack that is closed or not on the network.
        """
        settings = parse_settings(
            delay=delay,
            jitter=jitter,
            distribution=distribution,
            loss=loss,
            duplicate=duplicate,
            corrupt=corrupt,
            reorder=reorder,
            gap=gap,
            rate=rate,
            limit=limit,
        )
        if settings._replace(limit=GOOD.limit) == GOOD:
            settings = GOOD
        touched: list[Pcb] = []
        with self._network.lock:
            source = None if a is None else self._host(a)
            target = None if b is None else self._host(b)
            if source is not None and source is target:
                raise ValueError(f"{a!r} has no path to itself: give two stacks, or None for any")
            conditions = self._conditions()
            conditions.set_rule(source, target, settings)
            if both and source is not target:
                conditions.set_rule(target, source, settings)
            conditions.settle(touched)
        publish(*dict.fromkeys(touched))

    def path(self, a: MemoryStack, b: MemoryStack) -> Settings:
        """Return the conditions in force from `a` to `b`.

        Raises ValueError for a stack that is closed or not on the network.
        """
        with self._network.lock:
            return self._conditions().rule(self._host(a), self._host(b)).settings

    def counters(self, a: MemoryStack, b: MemoryStack) -> NetemCounters:
        """Return what has happened to packets from `a` to `b` since the path was set.

        What a partition keeps back is not counted.

        Raises ValueError for a stack that is closed or not on the network.
        """
        with self._network.lock:
            return self._conditions().path(self._host(a), self._host(b)).counters

    def partition(self, *groups: Iterable[MemoryStack]) -> None:
        """Let nothing pass between stacks of different groups: ``partition([a], [b, c])``.

        Stacks that are in no group, those opened later too, make up one more.  What would
        arrive is lost, and nobody is told: streams send it again, ever more seldom, and go on
        after `heal` unless they have given up.  Replaces the partition that there is.

        Raises ValueError for a stack in two groups, and for one that is closed or not on the
        network.
        """
        touched: list[Pcb] = []
        members = [list(group) for group in groups]
        with self._network.lock:
            hosts = [[self._host(stack) for stack in group] for group in members]
            seen: set[Host] = set()
            for host in (host for group in hosts for host in dict.fromkeys(group)):
                if host in seen:
                    name = host.hostname or ", ".join(map(str, host.interfaces))
                    raise ValueError(f"{name} is in two groups: expected each in one")
                seen.add(host)
            self._conditions().partition(hosts, touched)
        publish(*dict.fromkeys(touched))

    def heal(self) -> None:
        """End the partition.  Conditions that `set_path` has set stay."""
        touched: list[Pcb] = []
        with self._network.lock:
            self._conditions().partition(None, touched)
        publish(*dict.fromkeys(touched))

    def connected(self, a: MemoryStack, b: MemoryStack) -> bool:
        """Return whether no partition is between `a` and `b`.

        Raises ValueError for a stack that is closed or not on the network.
        """
        with self._network.lock:
            return not self._conditions().is_cut(self._host(a), self._host(b))

    @property
    def seed(self) -> int:
        """What all random numbers follow from; drawn when it has not been set.

        Setting it begins all numbers anew.  Raises ValueError for what is no int.
        """
        with self._network.lock:
            return self._conditions().seed

    @seed.setter
    def seed(self, seed: int) -> None:
        if type(seed) is not int:
            raise ValueError(f"seed {seed!r}: expected an int")
        with self._network.lock:
            self._conditions().seed = seed

    # Time.

    @property
    def clock(self) -> ManualClock | None:
        """The clock that decides when things happen; None: the machine's.

        Raises ValueError when it is set while something is under way, which has its time by
        the clock before, and for what is no `ManualClock`.
        """
        return self._network.agenda.clock

    @clock.setter
    def clock(self, clock: ManualClock | None) -> None:
        if clock is not None and not isinstance(clock, ManualClock):
            raise ValueError(f"clock {clock!r}: expected a ManualClock, or None for the machine's")
        agenda = self._network.agenda
        with self._network.lock:
            if agenda.next is not None and clock is not agenda.clock:
                raise ValueError(
                    f"{self.name} has something under way: set its clock before the first "
                    "traffic over a path with conditions"
                )
            agenda.clock = clock
            self._network.time = time.monotonic if clock is None else clock.monotonic

    @property
    def tcp_user_timeout(self) -> float:
        """Seconds after which a stream gives up that hears nothing; 0: as the retries say.

        They count as Linux counts them: a connection's from the first SYN on, data's from
        when they were sent again, and none ends before something has been sent again.  The
        socket option TCP_USER_TIMEOUT, in milliseconds, goes before it.

        Raises ValueError for what is negative, or more than the option holds: 4,294,967.295.
        """
        with self._network.lock:
            return self._conditions().tcp_user_timeout

    @tcp_user_timeout.setter
    def tcp_user_timeout(self, seconds: float) -> None:
        if not 0 <= as_number(seconds) <= _USER_TIMEOUT_MAX:
            raise ValueError(
                f"tcp_user_timeout {seconds!r}: expected seconds, from 0 to {_USER_TIMEOUT_MAX}"
            )
        with self._network.lock:
            self._conditions().tcp_user_timeout = seconds

    @property
    def tcp_syn_retries(self) -> int:
        """How often a SYN is sent again, after 1, 2, 4 … seconds: 6 (tcp(7)).

        The socket option TCP_SYNCNT goes before it.  Raises ValueError for less than 1 and more
        than 127.
        """
        with self._network.lock:
            return self._conditions().tcp_syn_retries

    @tcp_syn_retries.setter
    def tcp_syn_retries(self, count: int) -> None:
        with self._network.lock:
            self._conditions().tcp_syn_retries = _count("tcp_syn_retries", count, 1)

    @property
    def tcp_retries2(self) -> int:
        """How often data are sent again before a stream gives up: 15, some 924 s (tcp(7)).

        Raises ValueError for less than 0 and more than 255.
        """
        with self._network.lock:
            return self._conditions().tcp_retries2

    @tcp_retries2.setter
    def tcp_retries2(self, count: int) -> None:
        with self._network.lock:
            self._conditions().tcp_retries2 = _count("tcp_retries2", count, 0)


def _count(name: str, count: int, least: int) -> int:
    most = 127 if name == "tcp_syn_retries" else 255
    if type(count) is not int or not least <= count <= most:
        raise ValueError(f"{name} {count!r}: expected an int from {least} to {most}")
    return count
