"""How an lwIP stack configures itself: what DHCP servers and IPv6's routers say it is to be."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv6Interface
from typing import TYPE_CHECKING, Final

from ...events import IN
from ...vpoll import VPoll
from ..base import Stack
from ..dhcp import Lease
from ..draining import until
from ..names import ResolvConf
from ..names.config import parse_domains, parse_servers
from ..rd import Router
from .config import Route
from .dhcp import DhcpClient
from .ports import Port
from .routers import RouterDiscovery
from .words import Words

if TYPE_CHECKING:
    from .configured import ConfiguredStack

__all__ = ["Autoconf"]

_log = logging.getLogger(__name__)

# Seconds that giving a lease back may take when the stack is closed, twice that of asking
# a neighbour in the same room for its hardware address.
_FAREWELL: Final = 0.2


class Autoconf:
    """Who asks for what on a stack's interfaces, and what the stack is set to; thread-safe.

    Name servers and domains that the stack was given at its opening win over those of
    DHCP servers, and these over those of routers (RFC 8106, 5.3.1).  Where two leases have a
    route to the same network, that of the interface opened first is in force, and the other
    takes its place.
    """

    def __init__(self, stack: ConfiguredStack) -> None:
        self._stack = stack
        self._given = ResolvConf() if stack.resolver is None else stack.resolver.conf
        self._lock = threading.RLock()
        self._clients: list[DhcpClient] = []
        self._routers: list[RouterDiscovery] = []
        self._words: dict[Port, Words] = {}
        self._ready: VPoll | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self.hostname: str | None = None
        """The name that servers are told."""
        self.release = False
        """Whether `close` gives the leases back."""
        self.probe = 0.0
        """Seconds in which others may object to an address that a server offers."""

    def add(self, port: Port, words: Words) -> None:
        """Configure an interface as `words` say.  Raises OSError."""
        with self._lock:
            self._words[port] = words
            if words.dhcp:
                client = DhcpClient(self._stack, port, self.hostname, self.probe, self._leased)
                self._clients.append(client)
            if words.rd:
                self._routers.append(RouterDiscovery(self._stack, port, self._advertised))
            if self._ready is None:
                self._ready = VPoll()
            self._show()
        self._stack.core.settle()

    def _advertised(self) -> None:
        with self._lock:
            self._set_names()
            self._show()

    def learned(self, port: Port) -> list[IPv6Interface]:
        """Return the addresses of the prefixes of an interface's routers."""
        if any(each.port is port for each in tuple(self._routers)):
            return self._stack.core.learned(port)
        return []

    def remove(self, port: Port) -> None:
        """Let an interface alone, which is about to go."""
        with self._lock:
            self._words.pop(port, None)
            leaving = [each for each in self._everybody() if each.port is port]
            self._clients = [client for client in self._clients if client.port is not port]
            self._routers = [each for each in self._routers if each.port is not port]
        for each in leaving:
            each.close()
        if leaving:
            self._advertised()

    def suspend(self, port: Port) -> None:
        """Forget what does not outlast that an interface is down."""
        with self._lock:
            for client in self._clients:
                if client.port is port:
                    client.installed.clear()
        for each in self._of(port):
            each.suspend()

    def resume(self, port: Port) -> None:
        """Give an interface that is up again its routes back, and ask whether all still holds."""
        with self._lock:
            self._add_routes()
        for each in self._of(port):
            each.resume()

    def _everybody(self) -> list[DhcpClient | RouterDiscovery]:
        return [*self._clients, *self._routers]

    def _of(self, port: Port) -> list[DhcpClient | RouterDiscovery]:
        with self._lock:
            return [each for each in self._everybody() if each.port is port]

    def leases(self) -> dict[str, Lease]:
        """Return the leases by the names of their interfaces."""
        with self._lock:
            clients = tuple(self._clients)
        return {client.port.name: lease for client in clients if (lease := client.lease)}

    def routers(self) -> dict[str, tuple[Router, ...]]:
        """Return the routers by the names of the interfaces that they are behind."""
        with self._lock:
            all_routers = tuple(self._routers)
        return {each.port.name: found for each in all_routers if (found := each.routers)}

    # What a lease changes.

    def _leased(self, client: DhcpClient, old: Lease | None, new: Lease | None) -> None:
        with self._lock:
            if client not in self._clients:
                return
            port = client.port
            if new is not None and (old is None or new.settings != old.settings):
                _log.info(
                    "%s: %s from %s for %g s%s",
                    port.name,
                    new.address,
                    new.server,
                    new.lifetime,
                    "".join(f", {route.network} via {route.via}" for route in new.routes),
                )
            same = old is not None and new is not None and old.address == new.address
            # Those through an address's network go with it.
            self._del_routes(client, new if same else None)
            self._set_address(port, old, new)
            self._set_mtu(client, new)
            self._add_routes()
            self._set_names()
            self._show()

    def _set_address(self, port: Port, old: Lease | None, new: Lease | None) -> None:
        if old is not None and (new is None or old.address != new.address):
            self._try(self._stack.del_address, str(old.address), port.name)
        if new is not None and (old is None or old.address != new.address):
            self._try(self._stack.add_address, str(new.address), port.name)

    def _set_mtu(self, client: DhcpClient, lease: Lease | None) -> None:
        """Set what a lease says, or what there was before it, unless somebody has set another."""
        port = client.port
        wanted = None
        if lease is not None and lease.mtu is not None:
            wanted = min(lease.mtu, port.link.mtu)
        if client.mtu is not None:
            before, own = client.mtu
            if wanted == own or port.mtu != own:
                return
            client.mtu = None
        else:
            before = port.mtu
        if (wanted or before) == port.mtu:
            return
        if self._try(self._stack.set_mtu, wanted or before, port.name) and wanted is not None:
            client.mtu = (before, wanted)

    def _del_routes(self, client: DhcpClient, new: Lease | None) -> None:
        """Take those routes away that the lease does not have any more."""
        wanted = set(_routes(new))
        for route in client.installed - wanted:
            via = None if route.via is None else str(route.via)
            self._try(self._stack.del_route, str(route.network), via, client.port.name)
        client.installed &= wanted

    def _add_routes(self) -> None:
        """Add those routes of leases that are not there."""
        for client in self._clients:
            for route in _routes(client.lease):
                if route in client.installed:
                    continue
                via = None if route.via is None else str(route.via)
                if self._try(self._stack.add_route, str(route.network), via, client.port.name):
                    client.installed.add(route)

    def _set_names(self) -> None:
        leases = [lease for client in self._clients if (lease := client.lease)]
        servers = dict.fromkeys(
            (
                *(server for lease in leases for server in lease.dns),
                *(server for each in self._routers for server in each.servers),
            )
        )
        domains = dict.fromkeys(
            (
                *(domain for lease in leases for domain in lease.domains),
                *(domain for each in self._routers for domain in each.domains),
            )
        )
        found = (tuple(servers), tuple(domains))
        if found != self._names:
            self._names = found
            self._put_names()

    def give_names(self, servers: str | Iterable[str], domain: str | Iterable[str]) -> None:
        """Let name servers and domains win over what is learned; where there are none, that holds.

        Raises ValueError for what is no address and no domain and then changes nothing.
        """
        given = ResolvConf(parse_servers(servers), parse_domains(domain))
        with self._lock:
            self._given = given
            self._put_names()

    def _put_names(self) -> None:
        servers, domains = self._names
        Stack.set_dns(self._stack, self._given.servers or servers, self._given.search or domains)

    @staticmethod
    def _try(change: Callable[..., object], *arguments: object) -> bool:
        """Return whether a change could be made; a server may say what cannot be."""
        try:
            change(*arguments)
        except (OSError, ValueError) as exc:
            _log.info("dhcp: %s%r: %s", change.__name__, arguments, exc)
            return False
        return True

    # Waiting.

    def _missing(self) -> list[DhcpClient | RouterDiscovery]:
        """Return those that are still to answer."""
        missing: list[DhcpClient | RouterDiscovery] = []
        for port, words in self._words.items():
            asked = [each for each in self._everybody() if each.port is port]
            silent = [each for each in asked if not each.configured]
            if words.needed:
                missing += [each for each in silent if each.word in words.needed]
            elif silent == asked:
                missing += silent
        return missing

    def _show(self) -> None:
        ready = self._ready
        if ready is None:
            return
        if self._missing():
            ready.del_events(IN)
            return
        ready.add_events(IN)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            try:
                future.get_loop().call_soon_threadsafe(_finish, future)
            except RuntimeError:
                # Its loop has been closed.
                pass

    def wait(self, timeout: float) -> None:
        """Wait in this thread until every interface is configured.  Raises as `wait_on_loop`."""
        ready = self._ready
        if ready is not None and not self._stack.wait(ready, int(IN), timeout):
            self._raise(timeout)

    async def wait_on_loop(self, timeout: float | None) -> None:
        """Wait on the running loop until every interface is configured.

        Raises OSError: ETIMEDOUT, ENETDOWN when the stack is closed.
        """
        with self._lock:
            if not self._missing():
                return
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            with self._lock:
                if future in self._waiting:
                    self._waiting.remove(future)
        self._stack.refuse_closed()
        if not future.done():
            assert timeout is not None
            self._raise(timeout)

    def _raise(self, timeout: float) -> None:
        self._stack.refuse_closed()
        tried = [f"{each.port.name} ({each.tried})" for each in self._missing()]
        if tried:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"no lease from a DHCP server, or no router, within {timeout:g} s on "
                f"{', '.join(tried)}: {os.strerror(errno.ETIMEDOUT)} (is one on that link? else "
                "give ip=ADDRESS/PREFIX; dhcp_timeout=0 does not wait)",
            )

    # The end.

    def close(self) -> None:
        """End everything; give the leases back where `release` says so."""
        with self._lock:
            everybody, clients = self._everybody(), self._clients
            self._clients, self._routers, self._words = [], [], {}
        if self.release and sum(client.release() for client in clients):
            # The servers may have to be asked for their hardware addresses first.
            until(self._stack, _FAREWELL, lambda: False)
        # Another stack may have the library's instance soon.
        for each in everybody:
            each.close()
        self._end()

    def abandon(self) -> None:
        """End in a child of fork(2)."""
        self._lock = threading.RLock()
        everybody = self._everybody()
        self._clients, self._routers, self._words = [], [], {}
        self._waiting = []
        for each in everybody:
            each.abandon()
        self._end()

    def _end(self) -> None:
        self._wake()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()


def _routes(lease: Lease | None) -> list[Route]:
    if lease is None:
        return []
    # Ways to neighbours first: a gateway may be one by them alone.
    found = [Route(network, via) for network, via in lease.routes]
    return sorted(found, key=lambda route: route.via is not None)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
