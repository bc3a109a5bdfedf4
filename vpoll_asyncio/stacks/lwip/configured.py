"""What `ip link`, `ip address` and `ip route` do, for an lwIP stack while it works."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable

from ...links.base import Link
from ..base import Stack, attach
from ..dhcp import Lease
from ..names import Addresses
from ..rd import Router
from .autoconf import Autoconf
from .config import Interface, Route, check_room, parse_address, parse_route
from .core import Core
from .dhcp import require
from .interfaces import (
    LOOPBACK,
    NetworkInterface,
    checked_mtu,
    free_name,
    open_interface,
    port_named,
    request,
    shown,
)
from .ports import Port
from .stats import Stats

__all__ = ["ConfiguredStack"]


def _is_ipv6(address: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        return False
    return True


class ConfiguredStack(Stack):
    """A stack whose interfaces, addresses and routes come and go; thread-safe.

    core -- the C side, which is open
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        """The C side; for `LwipSocket`."""
        self._configuring = threading.Lock()
        self.autoconf = Autoconf(self)
        """What DHCP servers and routers tell the stack to be."""
        self.dhcp_timeout = 0.0
        """Seconds that opening an interface waits for its lease, or for a router."""

    @property
    def addresses(self) -> list[str]:
        given = [str(address) for port in self.core.ports for address in tuple(port.addresses)]
        learned = (self.autoconf.learned(port) for port in self.core.ports)
        return given + [str(address) for addresses in learned for address in addresses]

    @property
    def host_loopback(self) -> str | None:
        links = (port.link for port in self.core.ports)
        return next((link.host_loopback for link in links if link.host_loopback), None)

    def add_interface(
        self,
        *,
        vnl: str | None = None,
        link: Link | None = None,
        iface: str | None = None,
        ip: str | Iterable[str] = (),
        ip6: str | Iterable[str] = (),
        gw: str | Iterable[str] = (),
        route: str | Iterable[str] = (),
        mac: str | bytes | None = None,
        mtu: int | str | None = None,
        **words: bool | int | str,
    ) -> NetworkInterface:
        """Open a further interface; the options are the stack's own, and its routes go through it.

        iface -- its name; by default the first of ``vde0``, ``vde1`` … that is free
        words -- how it is to be configured by others, as `LwipStack` has it: ``dhcp``, ``rd``,
            ``auto`` …  Unless a loop runs in this thread, this returns when it is, or raises
            after the stack's `dhcp_timeout`

        Nothing stays behind when this raises, and the link is closed unless an option was bad:
        ValueError for that and for more interfaces than there is room for (32); OSError:
        EEXIST when there is an interface, an address or a route like it already, ENETUNREACH,
        ENETDOWN when the stack is closed, ETIMEDOUT when no DHCP server has answered, ENOPKG
        without dpkt, and whatever opening the link raises.
        """
        with self._configuring:
            self.refuse_closed()
            names = [port.name for port in self.core.ports]
            asked = request(
                free_name(names),
                vnl=vnl,
                link=link,
                iface=iface,
                ip=ip,
                ip6=ip6,
                gw=gw,
                route=route,
                mac=mac,
                mtu=mtu,
                **words,
            )
            if asked.words.dhcp:
                require()
            if len(names) == self.core.most_interfaces:
                raise ValueError(f"{len(names) + 1} interfaces: lwIP has room for {len(names)}")
            if asked.name in names:
                raise OSError(errno.EEXIST, f"{asked.name}: {os.strerror(errno.EEXIST)}")
            check_room([*self._all_addresses(), *asked.addresses])
            port = open_interface(self.core, asked)
        if asked.words:
            try:
                self.autoconf.add(port, asked.words)
                self.wait_for_leases()
            except BaseException:
                self.del_interface(port.name)
                raise
        return self._shown(port)

    def wait_for_leases(self) -> None:
        """Wait as opening an interface does, where no loop runs.  Raises OSError (ETIMEDOUT)."""
        if self.dhcp_timeout and asyncio._get_running_loop() is None:
            self.autoconf.wait(self.dhcp_timeout)

    @property
    def lease(self) -> Lease | None:
        """What a DHCP server has granted the first interface that has a lease, else None."""
        return next(iter(self.leases.values()), None)

    @property
    def leases(self) -> dict[str, Lease]:
        """What DHCP servers have granted, by the names of the interfaces."""
        return self.autoconf.leases()

    @property
    def routers(self) -> dict[str, tuple[Router, ...]]:
        """What IPv6's routers have advertised and still holds, by the names of the interfaces.

        Only with the options `rd`, `auto` and `auto6`.
        """
        return self.autoconf.routers()

    async def wait_configured(self, timeout: float | None = None) -> None:
        """Wait on the running loop, which drives the stack, until every interface has its lease.

        With the option `rd` it waits for an address of a router's prefix too; with `auto` for
        one of both.

        timeout -- seconds; None to wait as long as it takes

        At once where no interface has such an option.  Raises OSError: ETIMEDOUT, with
        what was tried, ENETDOWN when the stack is closed; RuntimeError as `attach`.
        """
        self.refuse_closed()
        attach(asyncio.get_running_loop(), self)
        await self.autoconf.wait_on_loop(timeout)

    def del_interface(self, name: str) -> None:
        """Close an interface and its link; its addresses and routes go with it.

        Connections from its addresses end with ETIMEDOUT, and what only it led to is
        unreachable.  A loop that watches the link in another thread closes it when it gets
        round to it.  Raises OSError: ENODEV when there is no such interface, ENETDOWN when the
        stack is closed.
        """
        with self._configuring:
            self.refuse_closed()
            port = port_named(self.core, _given(name))
        self.autoconf.remove(port)
        with self._configuring:
            self.refuse_closed()
            self.core.del_interface(port)

    @property
    def interfaces(self) -> list[NetworkInterface]:
        """The interfaces as they are now, in the order of their opening, without the loopback."""
        with self._configuring:
            return [] if self.closed else [self._shown(port) for port in self.core.ports]

    def _shown(self, port: Port) -> NetworkInterface:
        return shown(port, self.autoconf.learned(port))

    def if_nameindex(self) -> list[tuple[int, str]]:
        """Return index and name of every interface, as `socket.if_nameindex` does of the host's."""
        return [(1, LOOPBACK), *((port.index, port.name) for port in self.core.ports)]

    def lookup_hosts(self, host: str, family: int) -> Addresses | None:
        """Return the address of a link-local host whose scope is an interface's name, too."""
        address, _, scope = host.partition("%")
        if scope and family != socket.AF_INET and _is_ipv6(address):
            for index, name in self.if_nameindex():
                if name == scope:
                    return Addresses([f"{address}%{index}"])
        return super().lookup_hosts(host, family)

    def if_nametoindex(self, name: str) -> int:
        """Return the index of an interface.  Raises OSError (ENODEV)."""
        for index, other in self.if_nameindex():
            if other == name:
                return index
        raise OSError(errno.ENODEV, f"no interface {name!r}: {os.strerror(errno.ENODEV)}")

    def if_indextoname(self, index: int) -> str:
        """Return the name of an interface.  Raises OSError (ENXIO)."""
        for other, name in self.if_nameindex():
            if other == index:
                return name
        raise OSError(errno.ENXIO, f"no interface {index}: {os.strerror(errno.ENXIO)}")

    def set_up(self, name: str) -> None:
        """Let packets pass an interface again.  Raises OSError (ENODEV, ENETDOWN)."""
        self._set_up(name, True)

    def set_down(self, name: str) -> None:
        """Let no packet pass an interface.

        As in a kernel the routes that were added through it are gone, its addresses are still
        this host's, and the ways to their networks come back with it.  Raises OSError
        (ENODEV, ENETDOWN).
        """
        self._set_up(name, False)

    def set_dns(self, servers: str | Iterable[str], domain: str | Iterable[str] = ()) -> None:
        """Ask the name servers `servers` from the next look-up on, and search in `domain`.

        They win over what DHCP servers and routers say; of what is empty that holds.  Raises
        ValueError as `Stack.set_dns` does.
        """
        self.autoconf.give_names(servers, domain)

    def _set_up(self, name: str, up: bool) -> None:
        with self._configuring:
            self.refuse_closed()
            port = port_named(self.core, _given(name))
            self.core.set_up(port, up)
        if up:
            self.autoconf.resume(port)
        else:
            self.autoconf.suspend(port)

    def _all_addresses(self) -> list[Interface]:
        return [address for port in self.core.ports for address in port.addresses]

    def add_address(self, address: str, iface: str | None = None) -> None:
        """Give an interface, by default the first, a further address, ``"10.0.2.15/24"``.

        It is used at once.  Raises ValueError for what is no host's address with its prefix
        length and where the library has no room for more; OSError: EEXIST when the stack has
        it, ENODEV when there is no such interface, ENETDOWN when the stack is closed.
        """
        parsed = parse_address(address, "address")
        with self._configuring:
            self.refuse_closed()
            port = port_named(self.core, iface)
            others = self._all_addresses() if parsed.version == 4 else port.addresses
            check_room([*(other for other in others if other.version == parsed.version), parsed])
            self.core.add_address(port, parsed)

    def del_address(self, address: str, iface: str | None = None) -> None:
        """Take an address away, of any interface or of one; a prefix length does not matter.

        Connections from it end with ETIMEDOUT at once, which the kernel's would only after
        a quarter of an hour.  Routes through its network go with it.  Raises ValueError
        for what is no address, OSError: EADDRNOTAVAIL when the stack does not have it, ENODEV
        when there is no such interface, ENETDOWN when the stack is closed.
        """
        found = parse_address(address, "address").ip
        with self._configuring:
            self.refuse_closed()
            ports = self.core.ports if iface is None else (port_named(self.core, iface),)
            for port in ports:
                if any(other.ip == found for other in port.addresses):
                    self.core.del_address(port, found)
                    return
        raise OSError(errno.EADDRNOTAVAIL, f"{found}: {os.strerror(errno.EADDRNOTAVAIL)}")

    def add_route(self, destination: str, via: str | None = None, iface: str | None = None) -> None:
        """Send packets for a network, or for ``"default"``, through the neighbour `via`.

        Without `via` the network's hosts are neighbours themselves, on `iface` or the first
        interface that is up.  Of several routes the one with the longest prefix counts.
        Raises ValueError for what is no network or no gateway for it; OSError: EEXIST when
        there is a route to the same network, ENETUNREACH when `via` is no neighbour, ENODEV
        when there is no such interface, ENETDOWN when it is down or the stack is closed.
        """
        self._route(self.core.add_route, parse_route(destination, via), iface)

    def del_route(self, destination: str, via: str | None = None, iface: str | None = None) -> None:
        """Remove a route; ``"default"`` without `via` is IPv4's.

        Raises ValueError as `add_route` does; OSError: ESRCH when there is none like it,
        ENODEV, ENETDOWN when the stack is closed.
        """
        self._route(self.core.del_route, parse_route(destination, via), iface)

    def _route(
        self, change: Callable[[Route, Port | None], None], route: Route, iface: str | None
    ) -> None:
        with self._configuring:
            self.refuse_closed()
            change(route, None if iface is None else port_named(self.core, iface))

    def set_mtu(self, mtu: int, iface: str | None = None) -> None:
        """Set the most bytes of an IP packet that an interface, by default the first, sends.

        Connections keep what they have.  Raises ValueError for less than 576 and for more
        than the link carries, OSError: ENODEV when there is no such interface, ENETDOWN when
        the stack is closed.
        """
        with self._configuring:
            self.refuse_closed()
            port = port_named(self.core, iface)
            self.core.set_mtu(port, checked_mtu(mtu, port.link))

    # Of the first interface; each raises OSError (ENODEV) when the last has been taken away.

    @property
    def link(self) -> Link:
        """The link that the first interface is on."""
        return port_named(self.core, None).link

    @property
    def mac(self) -> bytes:
        """The first interface's hardware address; without meaning on a link of bare packets."""
        return port_named(self.core, None).mac

    @property
    def mtu(self) -> int:
        """Most bytes of an IP packet on the first interface."""
        return port_named(self.core, None).mtu

    @property
    def link_error(self) -> OSError | None:
        """What broke the first interface's link, or None while it works."""
        return port_named(self.core, None).error

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes of all interfaces since the stack was opened, what was dropped why.

        ``rx_malformed`` (lengths, headers), ``rx_foreign`` (other hosts, unknown
        protocols), ``rx_martian`` (addresses that may not come from outside),
        ``rx_backlog`` (full accept queues), ``tx_dropped`` (refused by the link),
        ``tx_deferred`` (queue to the link full; TCP sends them again).
        """
        return self.core.counters()

    def stats(self) -> Stats:
        """Return what the protocols have counted since the stack was opened, and the sockets.

        By protocol, then by the names of ``/proc/net/snmp``: `Stats` has them all.
        """
        return self.core.stats()


def _given(name: str) -> str:
    """Return `name`: None stands for the first interface where it may be left out only."""
    if not isinstance(name, str):
        raise ValueError(f"{name!r}: expected the name of an interface")
    return name
