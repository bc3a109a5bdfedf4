"""`Network`: hosts in a test's own process, and what happens on the way between them."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from ...links import NetemCounters
from ...stacks.memory import MemoryNetwork, MemoryStack
from ...stacks.memory.network import network
from .isolation import isolated
from .refusal import RefusingStack

__all__ = ["HostOrName", "Network"]

HostOrName = MemoryStack | str
"""A host of a `Network`, or its name."""

_NUMBERS: Final = itertools.count(1)
_PREFIXES: Final = {4: 24, 6: 64}
# What hosts that are given no address get, in turn.
_FREE: Final = (ipaddress.IPv4Network("10.0.0.0/24"), ipaddress.IPv6Network("fd00::/64"))

_NO_HOST: Final = (
    "a hermetic network is in use and none of its hosts is active here: run this code as a host, "
    "`with network.host('client').activate():` (tasks inherit it, threads by asyncio.to_thread)"
)


class Network:
    """A network of hosts inside the process, on which unmodified programs run as one of them.

    Parameters:
    seed -- what every loss and every delay of the network is drawn from, an int; None
        draws one

    ::

        with Network() as network:
            server = network.host("server", "10.0.0.1")
            client = network.host("client", "10.0.0.2")
            with server.activate():
                ...  # asyncio.start_server(..., port=80), uvicorn, aiohttp's web.TCPSite
            with client.activate():
                ...  # asyncio.open_connection("server", 80), aiohttp, httpx, requests

    From the first to the last line code whose context has no active host is refused
    sockets of AF_INET and AF_INET6, and names (OSError, ENETDOWN): no kernel socket of
    these families is made.  It is so for the whole process, on whatever loop, asyncio's
    and uvloop's own among them; AF_UNIX, socketpairs, pipes and child processes are the
    host's.  ``open_stack("host").activate()`` leads out on purpose.

    Networks nest.  Any thread may use one and its hosts.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        if seed is not None and type(seed) is not int:
            raise TypeError(f"seed must be an int or None, not {seed!r}")
        self._seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self._vnl = f"mem://vpoll_asyncio.testing.Network-{next(_NUMBERS)}"
        self._conditions = MemoryNetwork.of(network(self._vnl))
        self._conditions.seed = self._seed
        self._hosts: dict[str, MemoryStack] = {}
        self._steps = contextlib.ExitStack()
        self._state = "new"

    @property
    def seed(self) -> int:
        """What the network's losses and delays are drawn from."""
        return self._seed

    @property
    def hosts(self) -> Mapping[str, MemoryStack]:
        """The hosts by their names."""
        return MappingProxyType(self._hosts)

    def __getitem__(self, name: str) -> MemoryStack:
        """Return the host called `name`.  Raises KeyError, which names those there are."""
        try:
            return self._hosts[name]
        except KeyError:
            known = ", ".join(map(repr, self._hosts)) or "no host yet"
            raise KeyError(f"no host {name!r} on this network: it has {known}") from None

    def host(self, name: str, *addresses: str, **options: Any) -> MemoryStack:
        """Add a host and return its stack, whose `activate` runs code as that host.

        name -- by which the other hosts find it
        addresses -- ``"10.0.0.1"``, ``"fd00::1/64"``: one or several; without a prefix
            length it is /24, and /64 in IPv6.  Without any, the next free ones of
            10.0.0.0/24 and fd00::/64
        options -- further ones of the memory stack: `gw`, `dns` …

        Raises ValueError for what is no address or no name, and when no address is free any
        more; OSError: EADDRINUSE when another host has the name or an address; RuntimeError
        when the network is not open.
        """
        if self._state != "open":
            raise self._not_open()
        if not name:
            raise ValueError("a host needs a name, by which the others find it")
        given = [_with_prefix(address) for address in addresses] or self._next_free()
        host = MemoryStack(vnl=self._vnl, ip=given, hostname=name, **options)
        self._hosts[name] = host
        self._steps.callback(host.close)
        return host

    def _next_free(self) -> list[str]:
        used = {interface.ip for host in self._hosts.values() for interface in host.host.interfaces}
        found = []
        for free in _FREE:
            address = next((ip for ip in free.hosts() if ip not in used), None)
            if address is None:
                raise ValueError(
                    f"no address of {free} is free any more: give this host one of its own, "
                    "such as '10.1.0.1/16'"
                )
            found.append(f"{address}/{free.prefixlen}")
        return found

    @property
    def conditions(self) -> MemoryNetwork:
        """What `set_path`, `partition` and `heal` change, with the rest of what can be set.

        Its clock (time that the test moves on) and TCP's patience, for example.  Its methods
        take hosts, not names.  Raises RuntimeError when the network is not open.
        """
        if self._state != "open":
            raise self._not_open()
        return self._conditions

    def set_path(
        self,
        a: HostOrName | None = None,
        b: HostOrName | None = None,
        *,
        both: bool = True,
        **conditions: Any,
    ) -> None:
        """Set the conditions of the path from host `a` to host `b`, at once, for all traffic.

        a, b -- hosts or their names; None for every host
        both -- whether they hold for the way back, too
        conditions -- `delay`, `jitter`, `loss`, `rate` and the others of
            `MemoryNetwork.set_path`, in its units: ``delay="20ms"``, ``loss="2%"``,
            ``rate="10mbit"``

        What is not given is good: ``set_path()`` makes every path a perfect one.  Raises
        KeyError for a name that no host has, ValueError for a bad condition or host.
        """
        self.conditions.set_path(self._found(a), self._found(b), both=both, **conditions)

    def counters(self, a: HostOrName, b: HostOrName) -> NetemCounters:
        """Return what has happened to packets from host `a` to host `b` since `set_path`.

        a, b -- hosts or their names

        What a partition keeps back is not counted.  Raises KeyError for a name that no host
        has, ValueError for what is no host of this network.
        """
        one, other = (self[host] if isinstance(host, str) else host for host in (a, b))
        return self.conditions.counters(one, other)

    def partition(self, *groups: HostOrName | Iterable[HostOrName]) -> None:
        """Let nothing pass between hosts of different `groups`, until `heal`.

        groups -- a host or its name, or several of them, each.  Hosts in no group are one
            more: ``partition("server")`` cuts the server off

        Raises KeyError for a name that no host has, ValueError for a host in two groups.
        """
        self.conditions.partition(*map(self._group, groups))

    def heal(self) -> None:
        """End the partition.  What `set_path` has set stays."""
        self.conditions.heal()

    def _group(self, group: HostOrName | Iterable[HostOrName]) -> list[MemoryStack]:
        members = [group] if isinstance(group, (str, MemoryStack)) else group
        return [self[member] if isinstance(member, str) else member for member in members]

    def _found(self, host: HostOrName | None) -> MemoryStack | None:
        return self[host] if isinstance(host, str) else host

    def _not_open(self) -> RuntimeError:
        return RuntimeError(f"the network is {self._state}: use it in `with Network() as network:`")

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a Network is entered once: make another one")
        self._steps.enter_context(isolated(RefusingStack(_NO_HOST)))
        self._state = "open"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the hosts: what is still open on them is dead (ENETDOWN).  Twice is allowed."""
        self._state = "closed"
        self._steps.close()

    def __repr__(self) -> str:
        return f"<Network {self._state}, seed {self._seed}, hosts {', '.join(self._hosts)}>"


def _with_prefix(address: str) -> str:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        # It has a prefix length, or the stack says what it expects.
        return address
    return f"{address}/{_PREFIXES[version]}"
