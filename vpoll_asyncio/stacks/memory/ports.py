"""Local ports of one host and one protocol: who may bind what, as Linux decides it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from .addresses import ANY, ANY6, is_six, oserror, overlap

__all__ = ["EPHEMERAL", "Holder", "PortTable"]

EPHEMERAL: Final = range(32768, 61000)
"""net.ipv4.ip_local_port_range, as Linux has it by default."""


class Holder(Protocol):
    """Who may hold a port."""

    laddr: str
    v6only: bool
    reuse: bool
    reuseport: bool


_P = TypeVar("_P", bound=Holder)
_Q = TypeVar("_Q", bound=Holder)


class PortTable(Generic[_P]):
    """Which blocks hold which port.  Called under the network's lock.

    may_share -- whether two blocks with a common address may hold one port
    """

    __slots__ = ("_may_share", "_next", "_one", "_several")

    def __init__(self, may_share: Callable[[_P, _P], bool]) -> None:
        self._may_share = may_share
        # Most ports have one block; several are in order, the most recent last.  No call
        # is between a look and what follows from it: a finalizer may close a socket there.
        self._one: dict[int, _P] = {}
        self._several: dict[int, dict[_P, None]] = {}
        self._next = random.randrange(len(EPHEMERAL))

    def users(self, port: int) -> tuple[_P, ...]:
        """Return the blocks that hold `port`, the most recent last."""
        if port in self._one:
            return (self._one[port],)
        # A copy: a finalizer may close a socket while this is gone through.
        return tuple(self._several[port]) if port in self._several else ()

    def conflict(self, pcb: _P, port: int) -> bool:
        """Return whether somebody else's hold on `port` keeps `pcb` from it."""
        return any(
            other is not pcb
            and overlap(pcb.laddr, pcb.v6only, other.laddr, other.v6only)
            and not self._may_share(pcb, other)
            for other in self.users(port)
        )

    def add(self, pcb: _P, port: int) -> None:
        """Let `pcb` hold `port`, whatever others do."""
        one, several = self._one, self._several
        if port in several:
            several[port][pcb] = None
        elif port not in one:
            one[port] = pcb
        elif one[port] is not pcb:
            several[port] = {one[port]: None, pcb: None}
            del one[port]

    def remove(self, pcb: _P, port: int) -> None:
        """End the hold of `pcb` on `port`."""
        one, several = self._one, self._several
        if port in one:
            if one[port] is pcb:
                del one[port]
        elif port in several:
            users = several[port]
            if pcb in users:
                del users[pcb]
            if not users:
                del several[port]

    def take(self, pcb: _P, port: int) -> int:
        """Let `pcb` hold `port`, or an unused one for 0; return it.

        Raises OSError (EADDRINUSE) when it is taken, or none is left.
        """
        if port:
            if self.conflict(pcb, port):
                raise oserror(errno.EADDRINUSE)
        else:
            port = self.unused()
            if not port:
                port = self.choose(lambda candidate: not self._overlapped(pcb, candidate))
            if not port:
                raise oserror(errno.EADDRINUSE)
        self.add(pcb, port)
        return port

    def _overlapped(self, pcb: _P, port: int) -> bool:
        return any(
            overlap(pcb.laddr, pcb.v6only, other.laddr, other.v6only) for other in self.users(port)
        )

    def unused(self) -> int:
        """Return the next ephemeral port that nobody holds, 0 when there is none."""
        port = EPHEMERAL[self._next]
        if port in self._one or port in self._several:
            return self.choose(lambda candidate: not self.users(candidate))
        self._next = (self._next + 1) % len(EPHEMERAL)
        return port

    def choose(self, free: Callable[[int], bool]) -> int:
        """Return the next ephemeral port for which `free` is true, 0 when none is."""
        count = len(EPHEMERAL)
        start = self._next
        for step in range(count):
            port = EPHEMERAL[(start + step) % count]
            if free(port):
                self._next = (start + step + 1) % count
                return port
        return 0

    @staticmethod
    def match(users: Iterable[_Q], address: str) -> list[_Q]:
        """Return those of `users` that serve the local `address` best, the most recent last.

        An exact address goes before a wildcard, an IPv4 wildcard before IPv6's
        (compute_score).
        """
        best = 0
        found: list[_Q] = []
        six = is_six(address)
        for pcb in users:
            if pcb.laddr == address:
                score = 4
            elif pcb.laddr == (ANY6 if six else ANY):
                score = 2
            elif pcb.laddr == ANY6 and not six and not pcb.v6only:
                score = 1
            else:
                continue
            if score > best:
                best = score
                found = [pcb]
            elif score == best:
                found.append(pcb)
        return found
