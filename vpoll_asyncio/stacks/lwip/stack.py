"""`LwipStack`: lwIP as a stack that `open_stack` opens."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from ... import native
from ...ending import unclosed
from ...links.base import Link
from ...vpoll import VPoll
from ..draining import until
from ..names import Resolver
from . import instances
from .blocking import BlockingDriver
from .config import parse_flag
from .configured import ConfiguredStack
from .core import Core
from .dhcp import parse_hostname, parse_seconds, require
from .driver import LoopDriver
from .forks import close_in_children, leave_children_alone
from .interfaces import check_requests, free_name, further_requests, open_interface, request
from .kinds import kind_of
from .options import LwipOptions
from .ports import Port
from .sockets import LwipSocket
from .standby import Standby
from .thread import StackThread

__all__ = ["LwipStack"]

_TYPE_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class LwipStack(ConfiguredStack):
    """lwIP on one or several links: TCP, UDP, ping and raw sockets, IPv4 and IPv6.

    Parameters:
    vnl -- Virtual Network Locator of the link (``"slirp://"``, ``"tap://tap0"`` …)
    link -- a `Link` in place of `vnl`; the stack closes it
    ip -- addresses with prefix length: one or several, of either family
    ip6 -- further IPv6 addresses
    gw -- default gateway; one for each family
    route -- further routes: ``"10.9.0.0/16>10.0.2.7"``, or without ``>`` a network whose
        hosts are neighbours
    mac -- hardware address on Ethernet; by default what the link prescribes, else random
    mtu -- most bytes of an IP packet; by default the link's
    dhcp -- whether a DHCP server says which address, routes, MTU and name servers there are:
        `lease`
    rd -- whether IPv6's routers are asked for, and addresses made of their prefixes and name
        servers taken: `routers`; `slaac` and `auto6` are the same
    auto -- `dhcp` and `rd` at once, where either is enough; `auto4` is `dhcp`
    eth, dhcpv6 -- iothconf's words: the first says nothing here, the second is a ValueError
    dhcp_timeout -- seconds to wait for that at the opening, unless a loop runs in this
        thread: then `wait_configured` is what waits; 0 not to wait
    dhcp_release -- whether leases are given back at the end
    dhcp_probe -- seconds in which others on the link may object by ARP to an address that a
        server offers, which is then declined; 0 not to ask
    hostname -- the name that DHCP servers are told
    iface -- the interface's name, by default ``"vde0"``
    interfaces -- further interfaces, each a mapping of the options above, as
        `add_interface` takes them
    thread -- whether a thread drives the stack while no running loop does, so that it
        answers while a program that blocks computes or sleeps
    dns, domain, dns_options -- name servers, the search list and how to ask, as `Resolver`
        has them

    127.0.0.0/8 and ::1 reach the stack itself.  With an IPv6 address there is a
    link-local one, and routers' advertisements are listened to.

    A loop drives the stack (`attach`); making a socket while a loop runs attaches that
    loop when there is none.  A blocking socket that nobody drives drives it while it
    waits.  With `thread` a thread does while no loop runs; of an attached loop that stops
    without being closed or detached it notices within a tenth of a second.  Every method
    may be called from any thread but where it says otherwise.

    Any number of stacks may be open in a process: each has an instance of the library of
    its own, for which files are copied into the cache directory the first time.  After
    fork(2) they stay the parent's: the child's copies are closed, and the child may open
    stacks of its own.

    Raises ValueError for bad options; OSError: ENOPKG when something must be installed,
    EIO when the library cannot be copied or loaded, EEXIST for two routes to one network, and
    whatever opening a link raises; TimeoutError (ETIMEDOUT) when no DHCP server or router has
    answered.
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
        route: str | Iterable[str] = (),
        mac: str | bytes | None = None,
        mtu: int | str | None = None,
        eth: bool | int | str = False,
        dhcp: bool | int | str = False,
        dhcpv6: bool | int | str = False,
        rd: bool | int | str = False,
        slaac: bool | int | str = False,
        auto: bool | int | str = False,
        auto4: bool | int | str = False,
        auto6: bool | int | str = False,
        dhcp_timeout: float | str = 30,
        dhcp_release: bool | int | str = False,
        dhcp_probe: float | str = 0.2,
        hostname: str | None = None,
        iface: str | None = None,
        interfaces: Iterable[Mapping[str, Any]] = (),
        thread: bool | int | str = False,
        dns: str | Iterable[str] = (),
        domain: str | Iterable[str] = (),
        dns_options: str | Iterable[str] = (),
    ) -> None:
        self._closed = True
        self._opener = os.getpid()
        threaded = parse_flag("thread", thread)
        first = request(
            free_name(()),
            vnl=vnl,
            link=link,
            iface=iface,
            ip=ip,
            ip6=ip6,
            gw=gw,
            route=route,
            mac=mac,
            mtu=mtu,
            eth=eth,
            dhcp=dhcp,
            dhcpv6=dhcpv6,
            rd=rd,
            slaac=slaac,
            auto=auto,
            auto4=auto4,
            auto6=auto6,
        )
        requests = [first, *further_requests(interfaces, [first.name])]
        seconds, name = parse_seconds("dhcp_timeout", dhcp_timeout), parse_hostname(hostname)
        probe = parse_seconds("dhcp_probe", dhcp_probe, 60)
        release = parse_flag("dhcp_release", dhcp_release)
        if any(one.words.dhcp for one in requests):
            require()
        if dns or domain or dns_options:
            self.resolver = Resolver(self, dns, domain, dns_options)
        self._instance = instances.take()
        module = self._instance.module
        try:
            check_requests(requests, module.lib.VP_MOST_INTERFACES)
            super().__init__(Core(module))
        except BaseException:
            instances.release(self._instance)
            raise
        core = self.core
        self.options = LwipOptions(module)
        """Socket options; for `LwipSocket`."""
        self._blocking = BlockingDriver(lambda: core.ports, core.turn, lambda: core.due)
        core.watchers = (self._blocking,)
        self._attaching = threading.RLock()
        self._standby = Standby(self._take_over)
        self._closed = False
        try:
            ports = [open_interface(core, one) for one in requests]
        except BaseException:
            self.close()
            raise
        close_in_children(module.lib, self.abandon)
        if threaded:
            core.thread = StackThread(core)
            core.watchers = (self._blocking, core.thread)
            core.settle()
        self.dhcp_timeout = seconds
        self.autoconf.hostname, self.autoconf.release = name, release
        self.autoconf.probe = probe
        try:
            for one, port in zip(requests, ports, strict=True):
                if one.words:
                    self.autoconf.add(port, one.words)
            self.wait_for_leases()
        except BaseException:
            self.close()
            raise

    @classmethod
    def missing(cls) -> str:
        return native.missing("lwip")

    def supported_domain(self, family: int) -> bool:
        return family in (socket.AF_INET, socket.AF_INET6)

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
        kind = kind_of(family, type & ~_TYPE_FLAGS, proto)
        self._attach_running_loop()
        handle = self.core.new(family == socket.AF_INET6, kind, proto)
        return LwipSocket(self, handle, family, type, proto, self.core.mask(handle))

    # Who drives.

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self.refuse_closed()
        with self._attaching:
            driver = self.core.driver
            if driver is not None:
                if driver.loop is loop:
                    return
                running_here = asyncio._get_running_loop() is loop
                if not driver.loop.is_closed() and (driver.running or not running_here):
                    # It drives once it runs while the other does not.
                    self._standby.add(loop)
                    return
                self._retire(driver)
            self._drive(loop)

    def _drive(self, loop: asyncio.AbstractEventLoop) -> None:
        self._standby.discard(loop)
        core = self.core
        driver = core.driver = LoopDriver(loop, core.turn, core.reader)
        for port in core.ports:
            if port.error is None:
                driver.add(port)
        self._ring_thread()
        self.core.settle()

    def _ring_thread(self) -> None:
        if self.core.thread is not None:
            self.core.thread.ring()

    def _attach_running_loop(self) -> None:
        loop = asyncio._get_running_loop()
        driver = self.core.driver
        if loop is not None and (driver is None or driver.loop is not loop):
            self.attach(loop)

    def _take_over(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Let `loop`, which runs this, drive when the loop that did has stopped."""
        with self._attaching:
            driver = self.core.driver
            if self._closed:
                return True
            if driver is not None and driver.running:
                return driver.loop is loop
            if driver is not None:
                self._retire(driver)
            self._drive(loop)
            return True

    def _retire(self, driver: LoopDriver[Port]) -> None:
        self.core.driver = None
        driver.close()
        if not driver.loop.is_closed():
            # It may run again, and its sockets are here.
            self._standby.add(driver.loop)

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._attaching:
            driver = self.core.driver
            if driver is None or driver.loop is not loop:
                self._standby.discard(loop)
                return
            self.core.driver = None
            driver.close()
        self._ring_thread()
        self._standby.offer()

    def _driven(self) -> bool:
        driver = self.core.driver
        if driver is not None and driver.running:
            return not driver.here
        thread = self.core.thread
        return thread is not None and thread.alive

    def wait(self, vpoll: VPoll, mask: int, timeout: float | None) -> int:
        if self._closed or (timeout is not None and timeout <= 0):
            return super().wait(vpoll, mask, timeout)
        return self._blocking.wait(vpoll, mask, timeout, self._driven)

    def drain(self, timeout: float) -> bool:
        return self._closed or until(self, timeout, self.core.finish)

    def close(self) -> None:
        if self._closed:
            return
        self.autoconf.close()
        self._closed = True
        leave_children_alone(self._instance.module.lib)
        self._standby.clear()
        self.core.close()
        driver, self.core.driver = self.core.driver, None
        if driver is not None:
            driver.close()
        self._blocking.close()
        thread, self.core.thread = self.core.thread, None
        if thread is not None:
            thread.close()
        # Their references back would leave the buffers to the garbage collector.
        self.core.watchers = ()
        for port in self.core.ports:
            port.link.close()
        instances.release(self._instance)

    def abandon(self) -> None:
        """What becomes of the stack in a child of fork(2), where C has closed it already."""
        self._closed = True
        if self.core.thread is not None:
            self.core.thread.after_fork()
        self._blocking.after_fork()
        self.core.after_fork()
        self.autoconf.abandon()
        for port in self.core.ports:
            port.link.close()
        instances.release(self._instance)

    @property
    def closed(self) -> bool:
        return self._closed

    def refuse_closed(self) -> None:
        if self._closed and os.getpid() != self._opener:
            raise OSError(
                errno.ENETDOWN,
                f"the lwip stack is in process {self._opener} alone, which has forked this one: "
                "open another stack here",
            )
        super().refuse_closed()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        links = " ".join(f"{port.name}={port.link!r}" for port in self.core.ports)
        return f"<LwipStack {' '.join(self.addresses)} {state} {links}>"

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if not getattr(self, "_closed", True):
            _unclosed(self, self.close)
