"""What the routers of one interface have said, as long as it holds (RFC 8106, 6)."""

from __future__ import annotations

import ipaddress
import math
import time
from typing import Final, NamedTuple

from .advertisement import Advertisement, Told, read_advertisement

__all__ = ["Router", "Routers"]

# RFC 8106, 5.3.1: enough; and resolv.conf(5)'s, of old.
_SERVERS_USED: Final = 3
_DOMAINS_USED: Final = 6
# What is kept of each kind, so that a neighbour cannot fill the memory.
_MOST: Final = 16


class Router(NamedTuple):
    """A router and what it advertised last."""

    address: ipaddress.IPv6Address
    """Its link-local address."""
    advertisement: Advertisement
    obtained: float
    """When it did, in seconds as `time.time` counts them."""


class _Expiring:
    """Things that each have a time at which they end, in the order in which they came."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def take(self, told: Told, now: float) -> None:
        """Keep a thing, lengthen or shorten its time, or forget it where that is 0."""
        if told.lifetime == 0:
            self._ends.pop(told.value, None)
            return
        if told.value not in self._ends and len(self._ends) == _MOST:
            del self._ends[min(self._ends, key=self._ends.__getitem__)]
        self._ends[told.value] = now + told.lifetime

    def expire(self, now: float) -> None:
        self._ends = {value: end for value, end in self._ends.items() if end > now}

    def clear(self) -> None:
        self._ends.clear()

    @property
    def first_end(self) -> float:
        return min(self._ends.values(), default=math.inf)

    def first(self, count: int) -> tuple[str, ...]:
        return tuple(self._ends)[:count]


class Routers:
    """The routers of one interface; times are seconds of any clock that does not jump.

    Parameters:
    scope -- the interface's name or number, which goes behind link-local addresses
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._servers = _Expiring()
        self._domains = _Expiring()
        self._routers: dict[ipaddress.IPv6Address, Router] = {}
        self._router_ends: dict[ipaddress.IPv6Address, float] = {}

    def receive(self, message: bytes, source: ipaddress.IPv6Address, now: float) -> None:
        """Take an ICMPv6 message, as `read_advertisement` does; any other is ignored.

        source -- its sender; RFC 4861, 6.1.2: it must be link-local
        """
        said = read_advertisement(message)
        source = ipaddress.IPv6Address(source.packed)
        if said is None or not source.is_link_local:
            return
        self.tick(now)
        for table, told in ((self._servers, said.servers), (self._domains, said.domains)):
            for one in told:
                value = one.value + self._scope if one.value.endswith("%") else one.value
                table.take(Told(value, one.lifetime), now)
        end = now + _longest(said)
        if end <= now:
            self._forget(source)
            return
        if source not in self._routers and len(self._routers) == _MOST:
            self._forget(min(self._router_ends, key=self._router_ends.__getitem__))
        self._routers[source] = Router(source, said, time.time())
        self._router_ends[source] = end

    def _forget(self, source: ipaddress.IPv6Address) -> None:
        self._routers.pop(source, None)
        self._router_ends.pop(source, None)

    def tick(self, now: float) -> None:
        """Forget what has ended by `now`."""
        self._servers.expire(now)
        self._domains.expire(now)
        for source, end in tuple(self._router_ends.items()):
            if end <= now:
                self._forget(source)

    def clear(self) -> None:
        """Forget everything, as when the interface has another link."""
        self._servers.clear()
        self._domains.clear()
        self._routers.clear()
        self._router_ends.clear()

    @property
    def deadline(self) -> float:
        """When `tick` is to be called, ``inf`` for never."""
        ends = (self._servers.first_end, self._domains.first_end, *self._router_ends.values())
        return min(ends)

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of at most three name servers, in the order in which they came."""
        return self._servers.first(_SERVERS_USED)

    @property
    def domains(self) -> tuple[str, ...]:
        """The search list, at most six domains."""
        return self._domains.first(_DOMAINS_USED)

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers of which anything still holds, in the order in which they came."""
        return tuple(self._routers.values())


def _longest(said: Advertisement) -> float:
    """Return for how long anything of an advertisement holds."""
    return max(
        said.lifetime,
        *(prefix.valid for prefix in said.prefixes),
        *(one.lifetime for one in (*said.servers, *said.domains)),
        0.0,
    )
