"""DHCP on the interfaces of an lwIP stack, by sockets and timers of the stack's own.

Whoever drives the stack drives the clients with it: a loop, a thread, or a call that waits.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv6Interface
from typing import TYPE_CHECKING, Final

from ...events import ERR, HUP, IN
from ...sockets import UserSocket
from ...vpoll import VPoll
from ..dhcp import (
    CLIENT_PORT,
    SERVER_PORT,
    Action,
    Bound,
    Client,
    Lease,
    Lost,
    Send,
    State,
    require,
)
from ..draining import until
from ..names import ResolvConf
from .config import Route
from .ports import Port
from .routers import RouterDiscovery

if TYPE_CHECKING:
    from .configured import ConfiguredStack

__all__ = ["Leases", "parse_hostname", "parse_timeout", "require"]

_log = logging.getLogger(__name__)

# Messages that are read before others get their turn.
_BATCH: Final = 32
_LARGEST: Final = 4096
_EVERYBODY: Final = "255.255.255.255"
# Seconds that giving a lease back may take when the stack is closed, twice that of asking
# a neighbour in the same room for its hardware address.
_FAREWELL: Final = 0.2


def parse_hostname(hostname: str | None) -> str | None:
    """Return the host name that servers are told.  Raises ValueError for what is none."""
    if hostname is None:
        return None
    plain = hostname.replace("-", "").replace(".", "")
    if not (0 < len(hostname) <= 253 and plain.isalnum() and hostname.isascii()):
        raise ValueError(f"hostname={hostname!r}: expected the name of a host, as lab-1")
    return hostname


def parse_timeout(timeout: float | str) -> float:
    """Return the seconds to wait for a lease.  Raises ValueError for what is no such time."""
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"dhcp_timeout={timeout!r}: expected seconds, as 30, or 0 not to wait")
    return seconds


class _InterfaceClient:
    """The client of one interface, with its socket.  Its methods may be called from any thread.

    changed -- called with (client, lease before, lease now) when that is another one
    """

    def __init__(
        self,
        stack: ConfiguredStack,
        port: Port,
        hostname: str | None,
        changed: Callable[[_InterfaceClient, Lease | None, Lease | None], None],
    ) -> None:
        self.port = port
        self.installed: set[Route] = set()
        """Those of the lease's routes that this client has added."""
        self.client = Client(port.mac, hostname)
        self._changed = changed
        self._in_force: Lease | None = None
        self._timers = stack.core.timers
        self._lock = threading.Lock()
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert isinstance(sock, UserSocket)
        self._sock = sock
        try:
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            device = port.name.encode() + b"\0"
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            self._sock.bind(("0.0.0.0", CLIENT_PORT))
        except BaseException:
            self._sock.close()
            raise
        self._sock.vpoll.add_waiter(self._on_event)
        self._timers.set(self._work, self._timers.now())

    @property
    def lease(self) -> Lease | None:
        """The lease that the stack is set to."""
        return self.client.lease

    @property
    def configured(self) -> bool:
        """Whether there is a lease."""
        return self.client.lease is not None

    @property
    def tried(self) -> str:
        """What was sent, for a message."""
        sent = [f"{count} {kind.name}" for kind, count in tuple(self.client.sent.items())]
        return ", ".join(sent) or "nothing was sent"

    def _on_event(self, mask: int) -> None:
        # Not here: whoever drives the stack is in the middle of something.
        if mask & (IN | ERR) and not mask & HUP:
            self._timers.set(self._work, self._timers.now())

    def _work(self) -> None:
        with self._lock:
            client, now = self.client, self._timers.now()
            if self._sock.vpoll.closed:
                return
            if client.state is State.STOPPED:
                self._do(client.start(now))
            for _ in range(_BATCH):
                try:
                    wire, sender = self._sock.recvfrom(_LARGEST)
                except BlockingIOError:
                    break
                except OSError as exc:
                    _log.debug("dhcp on %s: %s", self.port.name, exc)
                    continue
                if sender[1] == SERVER_PORT:
                    self._do(client.receive(wire, self._timers.now()))
            else:
                self._timers.set(self._work, now)
                return
            self._do(client.tick(self._timers.now()))
            self._timers.set(self._work, client.deadline)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(wire, to):
                    self._send(wire, _EVERYBODY if to is None else str(to))
                case Bound(lease):
                    self._set(lease)
                case Lost(lease, why):
                    _log.warning("%s: the lease of %s is %s", self.port.name, lease.address, why)
                    self._set(None)

    def _send(self, wire: bytes, to: str) -> None:
        try:
            self._sock.sendto(wire, (to, SERVER_PORT))
        except OSError as exc:
            # It will be sent again: the interface may be down, its link full.
            _log.debug("dhcp on %s: to %s: %s", self.port.name, to, exc)

    def _set(self, lease: Lease | None) -> None:
        before, self._in_force = self._in_force, lease
        self._changed(self, before, lease)

    def release(self) -> bool:
        """Give the lease back, if there is one."""
        with self._lock:
            actions = self.client.release()
            self._do([action for action in actions if isinstance(action, Send)])
        return bool(actions)

    def close(self) -> None:
        """End; the interface keeps what it has."""
        with self._lock:
            self.client.stop()
            self.abandon()

    def abandon(self) -> None:
        """End, in a child of fork(2): the thread that holds the lock may not be there."""
        self._timers.set(self._work, float("inf"))
        self._sock.close()


class Leases:
    """The clients of a stack's interfaces, and what the stack is set to by them; thread-safe.

    Name servers and domains that the stack was given at its opening win over those of
    servers.  Where two leases have a route to the same network, that of the interface
    opened first is in force, and the other takes its place.
    """

    def __init__(self, stack: ConfiguredStack) -> None:
        self._stack = stack
        self._given = ResolvConf() if stack.resolver is None else stack.resolver.conf
        self._lock = threading.RLock()
        self._clients: list[_InterfaceClient] = []
        self._routers: list[RouterDiscovery] = []
        self._ready: VPoll | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self.hostname: str | None = None
        """The name that servers are told."""
        self.release = False
        """Whether `close` gives the leases back."""

    def add(self, port: Port, *, dhcp: bool = True, rd: bool = False) -> None:
        """Configure an interface by DHCP, by router discovery, or both.  Raises OSError."""
        stack = self._stack
        with self._lock:
            if dhcp:
                client = _InterfaceClient(stack, port, self.hostname, self._changed)
                self._clients.append(client)
            if rd:
                self._routers.append(RouterDiscovery(stack.core, port, self._found))
            if self._ready is None:
                self._ready = VPoll()
            self._show()
        self._stack.core.settle()

    def _found(self) -> None:
        with self._lock:
            self._show()

    def learned(self) -> list[IPv6Interface]:
        """Return the addresses of routers' prefixes."""
        core = self._stack.core
        return [
            address for routers in tuple(self._routers) for address in core.learned(routers.port)
        ]

    def remove(self, port: Port) -> None:
        """Let an interface alone, which is about to go."""
        with self._lock:
            leaving = [client for client in self._clients if client.port is port]
            self._clients = [client for client in self._clients if client.port is not port]
            routers = [each for each in self._routers if each.port is port]
            self._routers = [each for each in self._routers if each.port is not port]
        for client in leaving:
            client.close()
        for each in routers:
            each.close()
        if leaving or routers:
            with self._lock:
                self._set_names()
                self._show()

    def of(self) -> dict[str, Lease]:
        """Return the leases by the names of their interfaces."""
        with self._lock:
            clients = tuple(self._clients)
        return {client.port.name: lease for client in clients if (lease := client.lease)}

    # What a lease changes.

    def _changed(self, client: _InterfaceClient, old: Lease | None, new: Lease | None) -> None:
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
            self._set_routes(client, new if same else None)
            self._set_address(port, old, new)
            if new is not None and new.mtu is not None and (old is None or old.mtu != new.mtu):
                self._try(self._stack.set_mtu, min(new.mtu, port.link.mtu), port.name)
            self.restore()
            self._set_names()
            self._show()

    def _set_address(self, port: Port, old: Lease | None, new: Lease | None) -> None:
        if old is not None and (new is None or old.address != new.address):
            self._try(self._stack.del_address, str(old.address), port.name)
        if new is not None and (old is None or old.address != new.address):
            self._try(self._stack.add_address, str(new.address), port.name)

    def _set_routes(self, client: _InterfaceClient, new: Lease | None) -> None:
        """Take those routes away that the lease does not have any more."""
        wanted = set(_routes(new))
        for route in client.installed - wanted:
            via = None if route.via is None else str(route.via)
            self._try(self._stack.del_route, str(route.network), via, client.port.name)
        client.installed &= wanted

    def restore(self, port: Port | None = None) -> None:
        """Add those routes of leases that are not there.

        port -- an interface that has lost its routes, having been down
        """
        with self._lock:
            for client in self._clients:
                if client.port is port:
                    client.installed.clear()
                for route in _routes(client.lease):
                    if route in client.installed:
                        continue
                    via = None if route.via is None else str(route.via)
                    name = client.port.name
                    if self._try(self._stack.add_route, str(route.network), via, name):
                        client.installed.add(route)

    def _set_names(self) -> None:
        leases = [lease for client in self._clients if (lease := client.lease)]
        servers = dict.fromkeys(server for lease in leases for server in lease.dns)
        domains = dict.fromkeys(domain for lease in leases for domain in lease.domains)
        found = (tuple(servers), tuple(domains))
        if found != self._names:
            self._names = found
            self._try(
                self._stack.set_dns,
                self._given.servers or found[0],
                self._given.search or found[1],
            )

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

    def _missing(self) -> list[_InterfaceClient | RouterDiscovery]:
        everybody: list[_InterfaceClient | RouterDiscovery] = [*self._clients, *self._routers]
        return [each for each in everybody if not each.configured]

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
        """Wait in this thread until every interface has its lease.  Raises as `wait_on_loop`."""
        ready = self._ready
        if ready is not None and not self._stack.wait(ready, int(IN), timeout):
            self._raise(timeout)

    async def wait_on_loop(self, timeout: float | None) -> None:
        """Wait on the running loop until every interface has its lease.

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
        tried = [f"{client.port.name} ({client.tried})" for client in self._missing()]
        if tried:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"no lease from a DHCP server, or no router, within {timeout:g} s on "
                f"{', '.join(tried)}: {os.strerror(errno.ETIMEDOUT)}",
            )

    # The end.

    def close(self) -> None:
        """End every client; give the leases back where `release` says so."""
        with self._lock:
            clients, self._clients = tuple(self._clients), []
        if self.release and sum(client.release() for client in clients):
            # The servers may have to be asked for their hardware addresses first.
            until(self._stack, _FAREWELL, lambda: False)
        for client in clients:
            client.close()
        # Another stack may have the library's instance soon.
        routers, self._routers = self._routers, []
        for each in routers:
            each.close()
        self._end()

    def abandon(self) -> None:
        """End in a child of fork(2)."""
        self._lock = threading.RLock()
        clients, self._clients = tuple(self._clients), []
        for client in clients:
            client.abandon()
        self._routers = []
        self._waiting = []
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
