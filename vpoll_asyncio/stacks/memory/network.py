"""Networks and hosts: who has which address, and what can be reached from where."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ...hot.pipe import Lock
from .addresses import Interface, canonical_name, is_loopback, is_six, oserror
from .agenda import Agenda
from .ports import PortTable
from .timewait import TimeWait, TimeWaits

if TYPE_CHECKING:
    from .conditions import Conditions
    from .opening import StreamPcb
    from .pcb import Pcb
    from .udp import DatagramPcb

__all__ = ["Host", "Network", "network"]

_BROADCAST: Final = "255.255.255.255"
_LOOPBACK_BROADCAST: Final = "127.255.255.255"


class Network:
    """Hosts that reach each other by any of their addresses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = next(_numbers)
        """Networks whose locks are held at once are locked in this order."""
        self.lock = Lock()
        self.hosts: dict[str, Host] = {}
        self.names: dict[str, Host] = {}
        self.agenda = Agenda(self)
        self.time: Callable[[], float] = time.monotonic
        """Tells the time of TIME_WAIT, in seconds."""
        self.conditions: Conditions | None = None
        """What is wrong between the hosts; None: nothing ever was."""

    def join(self, host: Host) -> None:
        """Add `host` with its addresses and its name.

        Raises OSError (EADDRINUSE) for an address or a name that another host has.
        """
        with self.lock:
            for interface in host.interfaces:
                if str(interface.ip) in self.hosts:
                    raise OSError(
                        errno.EADDRINUSE,
                        f"{interface.ip} is already an address of another stack on {self.name}",
                    )
            name = canonical_name(host.hostname)
            if name and name in self.names:
                raise OSError(
                    errno.EADDRINUSE,
                    f"{host.hostname!r} is already the name of another stack on {self.name}",
                )
            for interface in host.interfaces:
                self.hosts[str(interface.ip)] = host
            if name:
                self.names[name] = host

    def leave(self, host: Host) -> None:
        """Give back the addresses and the name of `host`."""
        with self.lock:
            for interface in host.interfaces:
                if self.hosts.get(str(interface.ip)) is host:
                    del self.hosts[str(interface.ip)]
            name = canonical_name(host.hostname)
            if self.names.get(name) is host:
                del self.names[name]


_numbers = itertools.count()
_all: weakref.WeakSet[Network] = weakref.WeakSet()
_named: weakref.WeakValueDictionary[str, Network] = weakref.WeakValueDictionary()
# Re-entrant, as whatever interrupts the thread that holds it may fork.
_making = threading.RLock()


def network(vnl: str | None) -> Network:
    """Return the process's network of that name, or a new private one for None."""
    with _making:
        found = None if vnl is None else _named.get(vnl)
        if found is None:
            found = Network(vnl or "a private network")
            _all.add(found)
            if vnl is not None:
                _named[vnl] = found
        return found


class _Fork:
    """Holds every network's lock across fork(2), so that no child gets one half changed.

    Nor one that a thread has locked which the child does not have.
    """

    def __init__(self) -> None:
        self._held: list[Network] = []

    def before(self) -> None:
        _making.acquire()
        found = sorted(_all, key=lambda net: net.number)
        for net in found:
            net.lock.acquire()
        self._held += found

    def after(self) -> None:
        held, self._held = self._held, []
        for net in reversed(held):
            net.lock.release()
        _making.release()

    def after_in_child(self) -> None:
        untold = [pcb for net in self._held for pcb in net.agenda.forked()]
        self.after()
        for pcb in untold:
            with contextlib.suppress(OSError):
                # A kernel object of its own belongs to the parent (`VPoll`).
                pcb.show()


_fork = _Fork()
os.register_at_fork(
    before=_fork.before, after_in_parent=_fork.after, after_in_child=_fork.after_in_child
)


def _streams_may_share(pcb: StreamPcb | TimeWait, other: StreamPcb | TimeWait) -> bool:
    # The rule of inet_bind_conflict().
    if pcb.reuse and other.reuse and not other.listening:
        return True
    return pcb.reuseport and other.reuseport


def _datagrams_may_share(pcb: DatagramPcb, other: DatagramPcb) -> bool:
    # The rule of inet_rcv_saddr_equal() in udp_lib_lport_inuse().
    return (pcb.reuse and other.reuse) or (pcb.reuseport and other.reuseport)


class Host:
    """One stack's place in a network: addresses, ports and endpoints.

    interfaces -- its addresses with their prefixes, loopback aside
    gateways -- routers of its default routes
    hostname -- the name that others on the network find it by, or ""

    Everything is called under the network's lock.
    """

    def __init__(
        self,
        net: Network,
        interfaces: Sequence[Interface],
        gateways: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address],
        hostname: str = "",
    ) -> None:
        self.network = net
        self.interfaces = tuple(interfaces)
        self.hostname = hostname
        self._gateways = tuple(gateways)
        self._own = frozenset(str(interface.ip) for interface in interfaces)
        self._broadcasts = frozenset(
            str(interface.network.broadcast_address)
            for interface in interfaces
            if interface.version == 4 and interface.network.prefixlen < 31
        )
        self.streams: PortTable[StreamPcb | TimeWait] = PortTable(_streams_may_share)
        self.waits = TimeWaits(self.streams, net)
        self.datagrams: PortTable[DatagramPcb] = PortTable(_datagrams_may_share)
        self.listeners: dict[int, list[StreamPcb]] = {}
        self.connections: set[tuple[str, int, str, int]] = set()
        self.open: set[Pcb] = set()
        self.down = False

    def owns(self, address: str) -> bool:
        """Return whether `address` is this host's, loopback included."""
        return address in self._own or is_loopback(address)

    def route(self, address: str) -> Host | None:
        """Return the host that `address`, which is no wildcard, leads to.

        None where a route exists and nobody answers.  Raises OSError (ENETUNREACH)
        where there is no route.
        """
        if self.owns(address):
            return self
        family = 6 if is_six(address) else 4
        if any(interface.version == family for interface in self.interfaces):
            found = self.network.hosts.get(address)
            if found is not None or self._has_route(address):
                return found
        raise oserror(errno.ENETUNREACH)

    def _has_route(self, address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return (
            any(ip in interface.network for interface in self.interfaces)
            or any(gateway.version == ip.version for gateway in self._gateways)
            or self.is_broadcast(address)
            or ip.is_multicast
        )

    def source(self, destination: str) -> str:
        """Return the local address from which `destination`, which has a route, is reached."""
        if destination == "127.0.0.1":
            return destination
        if is_loopback(destination):
            return "::1" if is_six(destination) else "127.0.0.1"
        if destination in self._own:
            return destination
        ip = ipaddress.ip_address(destination)
        same = [interface for interface in self.interfaces if interface.version == ip.version]
        for interface in same:
            if ip in interface.network:
                return str(interface.ip)
        return str(same[0].ip)

    def is_broadcast(self, address: str) -> bool:
        """Return whether `address` is everybody's on one of this host's IPv4 networks."""
        return address in self._broadcasts or address in (_BROADCAST, _LOOPBACK_BROADCAST)

    def everybody(self, address: str) -> Iterator[Host]:
        """Return the hosts that a datagram to the broadcast `address` reaches, this one too."""
        seen = {id(self)}
        yield self
        if address == _LOOPBACK_BROADCAST:
            return
        for host in list(self.network.hosts.values()):
            if id(host) not in seen and host.is_broadcast(address):
                seen.add(id(host))
                yield host
