"""`LwipStack`: lwIP as a stack that `open_stack` opens."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import warnings
from collections.abc import Iterable
from typing import ClassVar, Final

from ... import native
from ...links import open_link
from ...links.base import Link
from ...vpoll import VPoll
from ..base import Stack
from .config import parse_gateways, parse_interfaces, parse_mac
from .core import Core
from .driver import BlockingDriver, LoopDriver
from .forks import close_in_children, leave_children_alone
from .options import LwipOptions
from .sockets import LwipSocket

__all__ = ["LwipStack"]

_TYPE_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_PROTOCOLS: Final = {
    socket.SOCK_STREAM: (0, socket.IPPROTO_TCP),
    socket.SOCK_DGRAM: (0, socket.IPPROTO_UDP),
}


class LwipStack(Stack):
    """lwIP on a link: TCP and UDP, IPv4 and IPv6.

    Parameters:
    vnl -- Virtual Network Locator of the link (``"slirp://"``, ``"tap://tap0"`` …)
    link -- a `Link` in place of `vnl`; the stack closes it
    ip -- addresses with prefix length: one or several, of either family
    ip6 -- further IPv6 addresses
    gw -- default gateway; one for each family
    mac -- hardware address on Ethernet; by default what the link prescribes, else random
    mtu -- most bytes of an IP packet; by default the link's

    127.0.0.0/8 and ::1 reach the stack itself.  With an IPv6 address there is a
    link-local one, and routers' advertisements are listened to.

    A loop drives the stack (`attach`); making a socket while a loop runs attaches that
    loop when there is none.  A blocking socket that nobody drives drives it while it
    waits.  Every method may be called from any thread but where it says otherwise.

    There can be one open lwIP stack in a process.  After fork(2) it stays the
    parent's: the child's copy is closed, and the child may open one of its own.

    Raises ValueError for bad options; OSError: ENOPKG when something must be installed,
    EBUSY while another lwIP stack is open, and whatever opening the link raises.
    """

    name: ClassVar[str] = "lwip"

    def __init__(
        self,
        *,
        vnl: str | None = None,
        link: Link | None = None,
        ip: str | Iterable[str] = (),
        ip6: str | Iterable[str] = (),
        gw: str | Iterable[str] = (),
        mac: str | bytes | None = None,
        mtu: int | str | None = None,
    ) -> None:
        self._closed = True
        if (vnl is None) == (link is None):
            raise ValueError("a stack needs a network: give either vnl=LOCATOR or link=LINK")
        self._interfaces = parse_interfaces(ip, ip6)
        gateways = parse_gateways(gw, self._interfaces)
        # The first interface is the default one, where lwIP looks for IPv6 as well.
        self._interfaces.sort(
            key=lambda interface: (
                not any(
                    gateway in interface.network
                    for gateway in gateways
                    if gateway.version == interface.version
                )
            )
        )
        if mac is None and link is not None:
            mac = link.address
        hardware = parse_mac(mac)
        module = native.load("lwip")
        if link is None:
            assert vnl is not None
            link = open_link(vnl)
            if mac is None and link.address is not None:
                hardware = link.address
        self._link = link
        self.mac = hardware
        """The hardware address; without meaning where the link carries bare packets."""
        try:
            self.mtu = _checked_mtu(mtu, link)
            """Most bytes of an IP packet."""
            self.core = Core(module, link, hardware, self.mtu)
            """The C side; for `LwipSocket`."""
        except BaseException:
            link.close()
            raise
        self.options = LwipOptions(module)
        """Socket options; for `LwipSocket`."""
        self._blocking = BlockingDriver(
            link.pollable, self.core.turn, lambda: self.core.due, self.core.wants_writer
        )
        self.core.watchers = (self._blocking,)
        self._closed = False
        try:
            self.core.configure(self._interfaces, gateways)
            self.core.settle()
        except BaseException:
            self.close()
            raise
        close_in_children(module.lib, self.abandon)

    @classmethod
    def missing(cls) -> str:
        return native.missing("lwip")

    def supported_domain(self, family: int) -> bool:
        return family in (socket.AF_INET, socket.AF_INET6)

    @property
    def addresses(self) -> list[str]:
        return [str(interface) for interface in self._interfaces]

    @property
    def link(self) -> Link:
        """The link that the stack is on."""
        return self._link

    @property
    def link_error(self) -> OSError | None:
        """What broke the link, or None while it works; a broken one is not used again."""
        return self.core.link_error

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes since the stack was opened, and what was dropped why.

        ``rx_malformed`` (lengths, headers), ``rx_foreign`` (other hosts, unknown
        protocols), ``rx_martian`` (addresses that may not come from outside),
        ``rx_backlog`` (full accept queues), ``tx_dropped`` (refused by the link),
        ``tx_deferred`` (queue to the link full; TCP sends them again).
        """
        return self.core.counters()

    def skip_time(self, seconds: float) -> None:
        """Let the stack's timers see `seconds` pass at once, in steps of 0.1: for tests.

        Retransmissions, keep-alives, TIME-WAIT and the like then happen without
        waiting; frames that answer them go out before this returns.
        """
        self.refuse_closed()
        self.core.skip(seconds)

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> LwipSocket:
        self.refuse_closed()
        if not self.supported_domain(family):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        kind = type & ~_TYPE_FLAGS
        protocols = _PROTOCOLS.get(socket.SocketKind(kind)) if kind in _PROTOCOLS else None
        if protocols is None:
            raise OSError(errno.ESOCKTNOSUPPORT, os.strerror(errno.ESOCKTNOSUPPORT))
        if proto not in protocols:
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        self._attach_running_loop()
        handle = self.core.new(family == socket.AF_INET6, kind == socket.SOCK_STREAM)
        return LwipSocket(self, handle, family, type, proto, self.core.mask(handle))

    # Who drives.

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self.refuse_closed()
        driver = self.core.driver
        if driver is not None:
            if driver.loop is loop:
                return
            if not driver.loop.is_closed():
                raise RuntimeError(
                    f"{driver.loop!r} drives the lwip stack: detach it before attaching another"
                )
        core = self.core
        driver = core.driver = LoopDriver(loop, self._link.pollable, core.turn, core.reader)
        if self.link_error is not None:
            driver.stop_reading()
        self.core.settle()

    def _attach_running_loop(self) -> None:
        loop = asyncio._get_running_loop()
        driver = self.core.driver
        if loop is not None and (driver is None or driver.loop.is_closed()):
            self.attach(loop)

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        driver = self.core.driver
        if driver is not None and driver.loop is loop:
            self.core.driver = None
            driver.close()

    def _driven(self) -> bool:
        driver = self.core.driver
        return driver is not None and driver.running and not driver.here

    def wait(self, vpoll: VPoll, mask: int, timeout: float | None) -> int:
        if self._closed or (timeout is not None and timeout <= 0):
            return super().wait(vpoll, mask, timeout)
        return self._blocking.wait(vpoll, mask, timeout, self._driven)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        leave_children_alone()
        self.core.close()
        driver, self.core.driver = self.core.driver, None
        if driver is not None:
            driver.close()
        self._blocking.close()
        self._link.close()

    def abandon(self) -> None:
        """What becomes of the stack in a child of fork(2), where C has closed it already."""
        self._closed = True
        self.core.after_fork()
        self._link.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<LwipStack {' '.join(self.addresses)} {state} link={self._link!r}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()


def _checked_mtu(mtu: int | str | None, link: Link) -> int:
    wanted = link.mtu if mtu is None else int(mtu)
    low = 576
    if not low <= wanted <= link.mtu:
        raise ValueError(f"mtu={mtu!r}: expected {low} to {link.mtu}, which the link carries")
    return wanted
