"""Router discovery (RFC 4861) and stateless addresses (RFC 4862), which lwIP does by itself.

What lwIP does not look at, the names of RFC 8106 above all, is read here by a raw socket of
the stack's own.  Nobody tells when lwIP has an address of a prefix, so that is looked for.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...events import ERR, HUP, IN
from ...sockets import UserSocket
from ..rd import Router, Routers
from .ports import Port

if TYPE_CHECKING:
    from .configured import ConfiguredStack

__all__ = ["RouterDiscovery"]

_log = logging.getLogger(__name__)

# Seconds between two looks: lwIP itself acts once a second.
_LOOK: Final = 0.1
# Looks after an advertisement: nobody else has an address after two seconds.
_LOOKS: Final = 50
# Messages that are read before others get their turn.
_BATCH: Final = 32
_LARGEST: Final = 65535
_ADVERTISEMENT: Final = 134
_ICMPV6_FILTER: Final = 1
# struct icmp6_filter: a bit for each type that is kept out.
_ONLY_ADVERTISEMENTS: Final = struct.pack(
    "=8I",
    *(
        0xFFFFFFFF & ~(1 << _ADVERTISEMENT % 32 if word == _ADVERTISEMENT // 32 else 0)
        for word in range(8)
    ),
)


class RouterDiscovery:
    """Asks for the routers of one interface and keeps what they say.

    changed -- called when there is an address at last, and when name servers or domains are
        others

    Raises OSError (ENODEV, ENETDOWN).  Its methods may be called from any thread.
    """

    word: Final = "rd"
    """The option that it is there for."""

    def __init__(self, stack: ConfiguredStack, port: Port, changed: Callable[[], None]) -> None:
        self.port = port
        self._core = stack.core
        self._timers = stack.core.timers
        self._changed = changed
        self._routers = Routers(port.name)
        self._told: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._looks_left = 0
        self._lock = threading.RLock()
        sock = stack.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        assert isinstance(sock, UserSocket)
        self._sock = sock
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _ONLY_ADVERTISEMENTS)
            device = port.name.encode() + b"\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            sock.vpoll.add_waiter(self._on_event)
            self._core.solicit_routers(port)
        except BaseException:
            sock.close()
            raise

    @property
    def configured(self) -> bool:
        """Whether there is an address of a prefix that a router has advertised."""
        return bool(self._core.learned(self.port))

    @property
    def tried(self) -> str:
        """What was done, for a message."""
        routers = self.routers
        if not routers:
            return "routers were solicited"
        said = routers[0].advertisement
        wants = ", but tells to use DHCPv6, which lwIP has not" if said.managed else ""
        return f"router {routers[0].address} gives no prefix for addresses{wants}"

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers that have advertised anything that still holds."""
        with self._lock:
            self._routers.tick(self._timers.now())
            return self._routers.routers

    @property
    def servers(self) -> tuple[str, ...]:
        """Name servers."""
        return self._told[0]

    @property
    def domains(self) -> tuple[str, ...]:
        """The search list."""
        return self._told[1]

    def _on_event(self, mask: int) -> None:
        # Not here: whoever drives the stack is in the middle of something.
        if mask & (IN | ERR) and not mask & HUP:
            self._timers.set(self._work, self._timers.now())

    def _work(self) -> None:
        with self._lock:
            if self._sock.vpoll.closed:
                return
            more = self._receive()
            now = self._timers.now()
            self._routers.tick(now)
            self._timers.set(self._work, now if more else self._routers.deadline)
            told = (self._routers.servers, self._routers.domains)
            changed, self._told = told != self._told, told
        if changed:
            self._changed()

    def _receive(self) -> bool:
        """Read a batch; return whether more may be there."""
        for _ in range(_BATCH):
            try:
                message, sender = self._sock.recvfrom(_LARGEST)
            except BlockingIOError:
                return False
            except OSError as exc:
                _log.debug("routers on %s: %s", self.port.name, exc)
                return exc.errno != errno.EBADF
            source = ipaddress.IPv6Address(sender[0].partition("%")[0])
            self._routers.receive(message, source, self._timers.now())
            # An address can come of it.
            self._looks_left = _LOOKS
            self._timers.set(self._look, self._timers.now() + _LOOK)
        return True

    def _look(self) -> None:
        self._looks_left -= 1
        if self.configured:
            self._changed()
        elif self._looks_left > 0:
            self._timers.set(self._look, self._timers.now() + _LOOK)

    def suspend(self) -> None:
        """The interface is down: what its routers have said holds no longer."""
        with self._lock:
            self._routers.clear()
        self._timers.set(self._work, self._timers.now())
        self._core.settle()

    def resume(self) -> None:
        """The interface is up again: solicit at once."""
        with contextlib.suppress(OSError):
            # It may be gone by now.
            self._core.solicit_routers(self.port)

    def close(self) -> None:
        """Look no more; lwIP goes on."""
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """End, in a child of fork(2): the thread that holds the lock may not be there."""
        self._timers.set(self._look, float("inf"))
        self._timers.set(self._work, float("inf"))
        with contextlib.suppress(OSError):
            self._sock.close()
