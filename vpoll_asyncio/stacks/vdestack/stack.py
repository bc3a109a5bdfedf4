"""`VdeStack`: Linux's own TCP/IP, apart from the host's network."""

from __future__ import annotations

import errno
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Final

from ... import native
from ...ending import unclosed
from ...links import open_link
from ...links.base import Link
from ...links.tap import DEVICE
from ..base import Stack
from ..draining import until
from ..kernelsocket import StackSocket
from ..lwip.config import (
    Route,
    parse_address,
    parse_gateways,
    parse_interfaces,
    parse_mac,
    parse_route,
)
from ..names import Resolver
from .bridge import Bridge
from .finishing import close_sockets, delivered, finished
from .namespace import INTERFACE, Namespace
from .rtnetlink import Netlink

__all__ = ["VdeStack"]

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK)
# Seconds that `close` waits for acknowledgements.
_LAST: Final = 0.5
_SWITCHES: Final = (
    ("kernel/unprivileged_userns_clone", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ("user/max_user_namespaces", "0"),
)


class VdeStack(Stack):
    """The kernel's TCP/IP in a network namespace of its own, on a link.

    Parameters:
    vnl -- Virtual Network Locator of the link (``"vde:///run/switch"``, ``"slirp://"`` …)
    link -- a `Link` in place of `vnl`; the stack closes it
    ip -- addresses with prefix length: one or several, of either family
    ip6 -- further IPv6 addresses
    gw -- default gateway; one for each family
    mac -- hardware address on Ethernet; by default what the link prescribes, else random
    mtu -- most bytes of an IP packet; by default the link's
    dns, domain, dns_options -- name servers, the search list and how to ask, as `Resolver`
        has them

    Its sockets are real descriptors of the kernel, which every loop, library and child
    process takes, made in the namespace by a helper process and handed over.  It needs
    no root where user namespaces are allowed and /dev/net/tun can be opened.

    A thread carries frames between the link and the namespace's interface, ``vde0``; a
    link's ``send`` function is called in that thread.  Any number of stacks may be open.
    Every method may be called from any thread.

    `close` ends the helper and the interface: open sockets then hear nothing any more.
    What closed ones had still to send it waits for, half a second at most; `drain` before
    it has open ones closed and waits as long as it is told.
    After fork(2) a child's sockets, old and new, work as long as the parent keeps the
    stack open; the child's `close` lets go of its copy only.

    Raises ValueError for bad options; OSError: ENOPKG without a compiler, and for `dns`
    without dnspython; EPERM, ENOENT
    or EACCES where the namespace or its interface cannot be made, with what would help.
    """

    name: ClassVar[str] = "vdestack"
    kernel: ClassVar[bool] = True

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
        dns: str | Iterable[str] = (),
        domain: str | Iterable[str] = (),
        dns_options: str | Iterable[str] = (),
    ) -> None:
        self._closed = True
        if (vnl is None) == (link is None):
            raise ValueError("a stack needs a network: give either vnl=LOCATOR or link=LINK")
        if dns or domain or dns_options:
            self.resolver = Resolver(self, dns, domain, dns_options)
        self._interfaces = parse_interfaces(ip, ip6)
        gateways = parse_gateways(gw, self._interfaces)
        given = None if mac is None else parse_mac(mac)
        if link is None:
            assert vnl is not None
            link = open_link(vnl)
        self._link = link
        self._lock = threading.Lock()
        self._opener = os.getpid()
        try:
            self.mac = given or parse_mac(link.address)
            """The hardware address; without meaning where the link carries bare packets."""
            self._mtu = _checked_mtu(mtu, link)
            self._namespace = Namespace(link.medium == "ip")
        except BaseException:
            link.close()
            raise
        try:
            self._bridge = Bridge(self._namespace.device, link)
        except BaseException:
            os.close(self._namespace.device)
            self._namespace.close()
            link.close()
            raise
        self._closed = False
        try:
            with self._raw(socket.AF_INET, socket.SOCK_DGRAM, 0) as probe:
                route = self._raw(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
                self._netlink = Netlink(route, probe, INTERFACE)
            ethernet = link.medium == "ethernet"
            self._netlink.set_link(mtu=self._mtu, mac=self.mac if ethernet else None)
            self._netlink.up()
            for interface in self._interfaces:
                self._netlink.add_address(interface)
            for gateway in gateways:
                self._netlink.add_route(parse_route("default", str(gateway)))
        except BaseException:
            self.close()
            raise
        _open.add(self)

    @classmethod
    def missing(cls) -> str:
        if why := native.missing("vdestack"):
            return why
        if not os.path.exists(DEVICE):
            return f"{DEVICE} is missing: modprobe tun"
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            return f"{DEVICE}: no permission: its mode must let this user write (chmod 666)"
        if os.geteuid():
            for path, off in _SWITCHES:
                file = Path("/proc/sys", path)
                if file.exists() and file.read_text().strip() == off:
                    return f"user namespaces are switched off: sysctl {path.replace('/', '.')}"
        return ""

    def supported_domain(self, family: int) -> bool:
        return family in _FAMILIES

    def claims(self, family: int) -> bool:
        return family in _FAMILIES

    def resolves(self, family: int) -> bool:
        return family in (socket.AF_INET, socket.AF_INET6)

    @property
    def addresses(self) -> list[str]:
        return [str(interface) for interface in self._interfaces]

    @property
    def host_loopback(self) -> str | None:
        return self._link.host_loopback

    @property
    def link(self) -> Link:
        """The link that the stack is on."""
        return self._link

    @property
    def link_error(self) -> OSError | None:
        """What broke the link, or None while it works; a broken one is not used again."""
        return self._bridge.link_error

    @property
    def mtu(self) -> int:
        """Most bytes of an IP packet."""
        return self._mtu

    @property
    def ifindex(self) -> int:
        """Index of ``vde0`` in the namespace: the scope id of link-local addresses."""
        return self._netlink.index

    def if_nameindex(self) -> list[tuple[int, str]]:
        return [*super().if_nameindex(), (self.ifindex, INTERFACE)]

    @property
    def helper(self) -> int:
        """Process id of the helper: ``nsenter -t PID -n`` (and ``-U``) enters the namespace."""
        return self._namespace.helper

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes from (rx) and to (tx) the link, and those the interface refused."""
        names = ("rx_frames", "rx_bytes", "rx_dropped", "tx_frames", "tx_bytes")
        return {name: getattr(self._bridge, name) for name in names}

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> StackSocket:
        self.refuse_closed()
        if not self.supported_domain(family):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return self._raw(family, type, proto)

    def _raw(self, family: int, type: int, proto: int) -> StackSocket:
        fd = self._namespace.socket(family, type, proto)
        try:
            return StackSocket.adopt(self, fd, family, type, proto)
        except BaseException:
            os.close(fd)
            raise

    # What `ip address` and `ip route` do, while the stack works.

    def add_address(self, address: str) -> None:
        """Give the stack a further address, ``"10.0.2.15/24"``, which is used at once.

        Raises ValueError for what is no host's address; OSError: EEXIST when the stack
        has it, ENETDOWN when it is closed.
        """
        interface = parse_address(address, "address")
        with self._lock:
            self.refuse_closed()
            self._netlink.add_address(interface)
            self._interfaces.append(interface)

    def del_address(self, address: str) -> None:
        """Take an address away; a prefix length in it does not matter.

        Raises ValueError for what is no address; OSError: EADDRNOTAVAIL when the stack
        does not have it, ENETDOWN when it is closed.
        """
        wanted = parse_address(address, "address")
        with self._lock:
            self.refuse_closed()
            same = [other for other in self._interfaces if other.ip == wanted.ip]
            for interface in same or [wanted]:
                self._netlink.del_address(interface)
            self._interfaces[:] = [other for other in self._interfaces if other not in same]

    def add_route(self, destination: str, via: str | None = None) -> None:
        """Send packets for a network, or for ``"default"``, through the neighbour `via`.

        Raises ValueError for what is no network or gateway; OSError: EEXIST, ENETUNREACH
        when `via` is no neighbour, ENETDOWN when the stack is closed.
        """
        self._change(self._netlink.add_route, parse_route(destination, via))

    def del_route(self, destination: str, via: str | None = None) -> None:
        """Remove a route.  Raises as `add_route` does; OSError: ESRCH when there is none."""
        self._change(self._netlink.del_route, parse_route(destination, via))

    def _change(self, change: object, route: Route) -> None:
        with self._lock:
            self.refuse_closed()
            assert callable(change)
            change(route)

    def set_mtu(self, mtu: int) -> None:
        """Set the most bytes of an IP packet.

        Raises ValueError for less than 68 and for more than the link carries, OSError:
        ENETDOWN when the stack is closed.
        """
        checked = _checked_mtu(mtu, self._link)
        with self._lock:
            self.refuse_closed()
            self._netlink.set_link(mtu=checked)
            self._mtu = checked

    def after_fork(self) -> None:
        """What becomes of the stack in a child of fork(2)."""
        self._lock = threading.Lock()
        self._bridge.after_fork()
        self._namespace.after_fork()

    def drain(self, timeout: float) -> bool:
        if self._closed or os.getpid() != self._opener:
            return True
        close_sockets(self.helper)
        return until(self, timeout, lambda: finished(self.helper) or self.link_error is not None)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        try:
            if os.getpid() == self._opener and not self._bridge.here:
                until(self, _LAST, lambda: delivered(self.helper) or self.link_error is not None)
        finally:
            self._end()

    def _end(self) -> None:
        netlink = getattr(self, "_netlink", None)
        if netlink is not None:
            netlink.close()
        self._bridge.close()
        self._namespace.close()
        # In a child, a link without a descriptor may be locked by a thread that is not there.
        if os.getpid() == self._opener or self._link.native is not None:
            self._link.close()

    def _let_go(self) -> None:
        """Keep the sockets within from warning as well; the helper sees the process's end."""
        self._netlink.close()
        self._namespace.let_go()

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<VdeStack {' '.join(self.addresses)} {state} link={self._link!r}>"

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if not getattr(self, "_closed", True):
            _unclosed(self, self.close, at_end=self._let_go)


_open: Final[weakref.WeakSet[VdeStack]] = weakref.WeakSet()


def _in_child() -> None:
    for stack in list(_open):
        stack.after_fork()


os.register_at_fork(after_in_child=_in_child)


def _checked_mtu(mtu: int | str | None, link: Link) -> int:
    wanted = link.mtu if mtu is None else int(mtu)
    # RFC 791.
    low = 68
    if not low <= wanted <= link.mtu:
        raise ValueError(f"mtu={mtu!r}: expected {low} to {link.mtu}, which the link carries")
    return wanted
