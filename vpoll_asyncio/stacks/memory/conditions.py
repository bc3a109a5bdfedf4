"""What is wrong between the hosts of a network: rules for paths, and the partition.

A network has none of this until somebody asks for it.  When rules change, streams that exist
join a wire or leave it, and go on from where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ...links.netem import NetemCounters
from ...links.netemspec import Settings, parse_settings
from .opening import StreamPcb
from .path import Arrive, Path
from .tcp import SYN_SENT, Touched
from .wire import WireEnd, wire

if TYPE_CHECKING:
    from .agenda import Agenda
    from .network import Host, Network

__all__ = ["GOOD", "Conditions", "Rule"]

GOOD: Final = parse_settings()
"""Nothing is wrong."""


class Rule(NamedTuple):
    """What is in force from a host to another one; None: from or to any."""

    source: Host | None
    target: Host | None
    settings: Settings
    number: int
    """The how manieth it is that has been made."""


_NO_RULE: Final = Rule(None, None, GOOD, 0)


class Conditions:
    """The conditions of one network.  Everything is called under its lock."""

    def __init__(self, network: Network, seed: int) -> None:
        self._network = network
        self.agenda: Agenda = network.agenda
        self.now = self.agenda.now
        self._seed = seed
        self._rules: list[Rule] = []
        self._number = 0
        self._groups: dict[Host, int] | None = None
        self._paths: dict[tuple[Host, Host], Path] = {}
        self.tcp_syn_retries = 6
        self.tcp_retries2 = 15
        self.tcp_user_timeout = 0.0

    # What is the case.

    @property
    def seed(self) -> int:
        """What all random numbers follow from."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        self._paths.clear()

    def rule(self, source: Host, target: Host) -> Rule:
        """Return the rule in force from `source` to `target`: the last of those that fit."""
        if source is not target:
            for rule in reversed(self._rules):
                if rule.source in (None, source) and rule.target in (None, target):
                    return rule
        return _NO_RULE

    @property
    def partitioned(self) -> bool:
        """Whether there is a partition."""
        return self._groups is not None

    def is_cut(self, source: Host, target: Host) -> bool:
        """Return whether the partition is between the two."""
        groups = self._groups
        return groups is not None and groups.get(source, -1) != groups.get(target, -1)

    def bad(self, one: Host, other: Host) -> bool:
        """Return whether anything is wrong between the two, in either direction."""
        if one is other or not (self._rules or self._groups is not None):
            return False
        return (
            self.is_cut(one, other)
            or self.path(one, other).settings != GOOD
            or self.path(other, one).settings != GOOD
        )

    def path(self, source: Host, target: Host) -> Path:
        """Return the path from `source` to `target`."""
        path = self._paths.get((source, target))
        if path is None:
            rule = self.rule(source, target)
            path = Path(
                self.agenda,
                rule.settings,
                self._seed_of(rule, source, target),
                lambda: self.is_cut(source, target),
            )
            if not (source.down or target.down):
                path = self._paths.setdefault((source, target), path)
        return path

    def counters(self, source: Host, target: Host) -> NetemCounters:
        """Return what has happened to packets since the path's conditions were set."""
        return self.path(source, target).counters

    def _seed_of(self, rule: Rule, source: Host, target: Host) -> str:
        """The same in the next run, and another one for each rule that the path has had."""
        return f"{self._seed} {_name(source)} {_name(target)} {rule.number}"

    # Changes.

    def set_rule(self, source: Host | None, target: Host | None, settings: Settings) -> None:
        """Let `settings` be in force from `source` to `target`; None: any host.

        `settle` is to be called afterwards.
        """
        self._rules = [
            rule
            for rule in self._rules
            if source not in (None, rule.source) or target not in (None, rule.target)
        ]
        self._number += 1
        if settings != GOOD or self._rules:
            self._rules.append(Rule(source, target, settings, self._number))
        for hosts in list(self._paths):
            if source in (None, hosts[0]) and target in (None, hosts[1]):
                del self._paths[hosts]

    def partition(self, groups: Sequence[Iterable[Host]] | None, touched: Touched) -> None:
        """Let nothing pass between two groups; who is in none is in one more.  None: heal."""
        self._groups = (
            None
            if groups is None
            else {host: number for number, group in enumerate(groups) for host in group}
        )
        self.settle(touched)

    def forget(self, host: Host) -> None:
        """`host` has left the network."""
        self._rules = [rule for rule in self._rules if host not in (rule.source, rule.target)]
        for hosts in [hosts for hosts in self._paths if host in hosts]:
            del self._paths[hosts]
        if self._groups is not None:
            self._groups.pop(host, None)

    # Who is affected.

    def knock(self, client: StreamPcb, target: Host, touched: Touched) -> None:
        """Let `client` connect to `target` over a wire."""
        end = wire(client, self, target)
        client.peer = end
        end.knock(touched)

    def settle(self, touched: Touched) -> None:
        """Let streams join a wire or leave theirs, as the conditions demand."""
        for host in set(self._network.hosts.values()):
            for pcb in list(host.open):
                if isinstance(pcb, StreamPcb):
                    self._settle(pcb, touched)

    def _settle(self, pcb: StreamPcb, touched: Touched) -> None:
        peer, server = pcb.peer, pcb.server
        if isinstance(peer, WireEnd):
            peer.leave_wire(touched)
        elif peer is not None:
            if peer is not pcb and peer.peer is pcb and self.bad(pcb.host, peer.host):
                self._join(pcb, peer, touched)
        elif pcb.state == SYN_SENT and server is not None and self.bad(pcb.host, server.host):
            pcb.stop_knocking()
            self.knock(pcb, server.host, touched)

    def _join(self, pcb: StreamPcb, peer: StreamPcb, touched: Touched) -> None:
        end = wire(pcb, self, peer.host)
        other = end.other
        other.peer = peer
        for each in end, other:
            each.take_over(touched)
        for each in end, other:
            each.taken_over(touched)

    def post(self, source: Host, target: Host, size: int, arrive: Arrive, argument: object) -> None:
        """Let a datagram of `size` bytes, headers included, set out."""
        self.path(source, target).send(size, arrive, argument, self.now())


def _name(host: Host) -> str:
    """What a host is called in the seed of its paths: the same in the next run."""
    return host.hostname or ",".join(map(str, host.interfaces))
