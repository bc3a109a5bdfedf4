"""DHCP on an interface of an lwIP stack, by a socket and timers of the stack's own.

Whoever drives the stack drives the client with it: a loop, a thread, or a call that waits.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from ...events import ERR, HUP, IN
from ...sockets import UserSocket
from ..dhcp import (
    CLIENT_PORT,
    SERVER_PORT,
    Action,
    Bound,
    Client,
    Lease,
    Lost,
    Probe,
    Send,
    State,
    require,
)
from .config import Route
from .ports import Port

if TYPE_CHECKING:
    from .configured import ConfiguredStack

__all__ = ["DhcpClient", "parse_hostname", "parse_seconds", "require"]

_log = logging.getLogger(__name__)

# Messages that are read before others get their turn.
_BATCH: Final = 32
_LARGEST: Final = 4096
# Seconds between two looks whether somebody has an address.
_LOOK: Final = 0.05
_EVERYBODY: Final = "255.255.255.255"


def parse_hostname(hostname: str | None) -> str | None:
    """Return the host name that servers are told.  Raises ValueError for what is none."""
    if hostname is None:
        return None
    plain = hostname.replace("-", "").replace(".", "")
    if not (0 < len(hostname) <= 253 and plain.isalnum() and hostname.isascii()):
        raise ValueError(f"hostname={hostname!r}: expected the name of a host, as lab-1")
    return hostname


def parse_seconds(name: str, timeout: float | str, most: float = math.inf) -> float:
    """Return the seconds of the option `name`.  Raises ValueError for what is no such time."""
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise ValueError(f"{name}={timeout!r}: expected seconds, as 10, or 0 not to wait")
    return seconds


class DhcpClient:
    """The client of one interface, with its socket.  Its methods may be called from any thread.

    probe -- seconds in which others may object to an address by ARP
    changed -- called with (client, lease before, lease now) when that is another one
    """

    word: Final = "dhcp"
    """The option that it is there for."""

    def __init__(
        self,
        stack: ConfiguredStack,
        port: Port,
        hostname: str | None,
        probe: float,
        changed: Callable[[DhcpClient, Lease | None, Lease | None], None],
    ) -> None:
        self.port = port
        self.installed: set[Route] = set()
        """Those of the lease's routes that this client has added."""
        self.mtu: tuple[int, int] | None = None
        """What the interface had, and what a lease has set in its place."""
        self.client = Client(port.mac, hostname, probe=probe)
        self._core = stack.core
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
            if client.state is State.CHECKING and (owner := self._core.probed(self.port)):
                _log.warning(
                    "%s: the address that a DHCP server offers is in use by %s",
                    self.port.name,
                    owner.hex(":"),
                )
                self._do(client.decline(now))
                self._probe(None)
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
            self._timers.set(self._work, self._next_look())

    def _next_look(self) -> float:
        deadline = self.client.deadline
        if self.client.state is State.CHECKING:
            # Nobody tells when somebody objects.
            deadline = min(deadline, self._timers.now() + _LOOK)
        return deadline

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(wire, to):
                    self._send(wire, _EVERYBODY if to is None else str(to))
                case Probe(address):
                    self._probe(address)
                case Bound(lease):
                    self._probe(None)
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

    def _probe(self, address: IPv4Address | None) -> None:
        try:
            self._core.probe(self.port, address)
        except OSError as exc:
            _log.debug("dhcp on %s: %s", self.port.name, exc)

    def _set(self, lease: Lease | None) -> None:
        before, self._in_force = self._in_force, lease
        self._changed(self, before, lease)

    def suspend(self) -> None:
        """The interface is down: a lease goes on, and ends when its time is over."""

    def resume(self) -> None:
        """The interface is up again: ask at once whether the lease still holds, or for one."""
        with self._lock:
            if self._sock.vpoll.closed:
                return
            self._do(self.client.reboot(self._timers.now()))
            self._timers.set(self._work, self._next_look())
        self._core.settle()

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
