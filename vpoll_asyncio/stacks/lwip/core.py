"""What passes between Python and the C side: calls, masks, frames.

Every call into C may change the masks of any socket, queue frames and move the
deadline of the timers.  `Core.settle` carries that on.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ...links.base import Link
from ...relay import Relay
from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data
from ...vpoll import VPoll
from .addresses import from_native, raise_errno, to_native
from .config import Gateway, Interface, Route
from .driver import NEVER, LoopDriver
from .masks import Reader, Stream, calls_of, masks_of
from .ports import BATCH, Port, read_counters
from .stats import Stats, read_stats
from .thread import StackThread
from .timers import Timers

__all__ = ["Core", "Watcher"]

_SCRATCH: Final = 65536
_NO_LINK: Final = 0
# LWIP_IPV6_NUM_ADDRESSES without the link-local one.
_LEARNED: Final = 5


class Watcher(Protocol):
    """Who waits for the links besides the loop."""

    def ring(self) -> None:
        """Look at the interfaces again: one has come, gone or broken."""


class Core:
    """The C side of one stack, with what it needs of Python.

    Parameters:
    native -- an instance of the helper, as `vpoll_asyncio.native.load` returns it

    Raises OSError: EBUSY while another stack has the instance, ELIBBAD when the library
    does not match its headers.  Every method may be called from any thread.
    """

    def __init__(self, native: Any) -> None:
        self.closed = True
        self._native = native
        self._lib: Any = native.lib
        self._ffi: Any = native.ffi
        self._require_matching_library()
        ffi, lib = self._ffi, self._lib
        self.instance: str = native.__file__
        """The file of the C side, which no other open stack has."""
        self._send = lib.vp_send
        self._null = ffi.NULL
        self.most_interfaces = int(lib.VP_MOST_INTERFACES)
        """How many interfaces there may be, besides the loopback."""
        self.ports: tuple[Port, ...] = ()
        """The interfaces, in the order of their opening."""
        self._slow_ports: tuple[Port, ...] = ()
        self.driver: LoopDriver[Port] | None = None
        """The loop that drives the stack."""
        self.thread: StackThread | None = None
        """What drives the stack while no loop does."""
        self.watchers: tuple[Watcher, ...] = ()
        """Who else watches the links."""
        self.timers = Timers()
        """What Python is to do when; after setting one outside `turn`, `settle`."""
        self._calls = calls_of(native)
        self.sockets = masks_of(native)
        """The instance's sockets and their masks."""
        # One for each call that is under way: threads, and handlers that interrupt one.
        self._scratches: deque[Any] = deque(maxlen=8)
        self.status = lib.vp_status()
        """The C side's ``struct vp_status``; after a call, `settle` while ``attention`` is set."""
        raise_errno(lib.vp_open())
        self.closed = False

    def _require_matching_library(self) -> None:
        found = self._ffi.new("struct vp_abi *")
        self._lib.vp_abi(found)
        if not found.ok:
            version = self._ffi.string(found.version).decode()
            raise OSError(
                errno.ELIBBAD,
                f"liblwip does not match its headers (version {version}): "
                "reinstall the Debian packages liblwip0 and liblwip-dev together",
            )

    # Interfaces.

    def add_interface(self, name: str, link: Link, mac: bytes, mtu: int) -> Port:
        """Open an interface on `link`, which stays the caller's when this raises.

        Raises OSError: ENOSPC, ENETDOWN.
        """
        port = Port(self._native, name, link, mac, mtu, self._lost)
        self._set_ports((*self.ports, port))
        if self.driver is not None:
            self.driver.add(port)
        self._ring()
        self.settle()
        return port

    def del_interface(self, port: Port) -> None:
        """End an interface; its link is closed once nobody waits for it.

        Raises OSError: ENODEV when it is not there, ENETDOWN when the stack is closed.
        """
        if self.closed:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        raise_errno(self._lib.vp_del_interface(port.index))
        self._set_ports(tuple(other for other in self.ports if other is not port))
        if self.driver is not None:
            self.driver.remove(port, port.link.close)
        else:
            port.link.close()
        self._ring()
        self.settle()

    def _set_ports(self, ports: tuple[Port, ...]) -> None:
        self.ports = ports
        self._slow_ports = tuple(port for port in ports if port.through_python)

    def _ring(self) -> None:
        for watcher in self.watchers:
            watcher.ring()

    def _lost(self, port: Port) -> None:
        self._ring()
        if self.driver is not None:
            self.driver.stop_reading(port)

    def set_up(self, port: Port, up: bool) -> None:
        """Let packets pass, or not.  Raises OSError (ENODEV)."""
        self._configured(self._lib.vp_set_up(port.index, up), port.name)
        port.up = up

    def set_mtu(self, port: Port, mtu: int) -> None:
        """Set the most bytes of an IP packet.  Raises OSError (ENETDOWN, ENODEV)."""
        self._configured(self._lib.vp_set_mtu(port.index, mtu), f"mtu {mtu}")
        port.mtu = mtu

    def add_address(self, port: Port, address: Interface) -> None:
        """Give an interface an address.  Raises OSError: EEXIST, ENOSPC, ENETDOWN, ENODEV."""
        result = self._lib.vp_add_address(
            port.index, self._native_ip(address.ip), address.network.prefixlen
        )
        self._configured(result, address)
        port.addresses.append(address)

    def del_address(self, port: Port, address: Gateway) -> None:
        """Take an address away.  Raises OSError: EADDRNOTAVAIL, ENETDOWN."""
        self._configured(self._lib.vp_del_address(port.index, self._native_ip(address)), address)
        port.addresses[:] = [other for other in port.addresses if other.ip != address]

    def solicit_routers(self, port: Port) -> None:
        """Have lwIP ask for routers and make addresses of their prefixes.

        Raises OSError (ENODEV, ENETDOWN).
        """
        self._configured(self._lib.vp_autoconf(port.index), port.name)

    def learned(self, port: Port) -> list[ipaddress.IPv6Interface]:
        """Return the addresses that lwIP has made of routers' prefixes."""
        out = self._ffi.new("struct vp_addr[]", _LEARNED)
        count = self._lib.vp_learned(port.index, out, _LEARNED)
        raw = [bytes(self._ffi.buffer(out[at].ip, 16)) for at in range(count)]
        # RFC 4862, 5.5.3: with an identifier of 64 bits no other prefix is taken.
        return [ipaddress.IPv6Interface((each, 64)) for each in raw]

    def probe(self, port: Port, address: ipaddress.IPv4Address | None) -> None:
        """Ask by ARP who has an address that is not this host's; None ends that.

        Raises OSError: ENODEV, ENETDOWN, ENOBUFS.
        """
        self._configured(self._lib.vp_probe(port.index, self._native_ip(address)), address)

    def probed(self, port: Port) -> bytes | None:
        """Return the hardware address of whoever has the address that was asked for, or None."""
        owner = self._ffi.new("uint8_t[6]")
        return bytes(owner) if self._lib.vp_probed(port.index, owner) else None

    def add_route(self, route: Route, port: Port | None = None) -> None:
        """Add a route, through `port`.  Raises OSError: EEXIST, ENETUNREACH, ENETDOWN, ENODEV."""
        self._route("vp_add_route", route, port)

    def del_route(self, route: Route, port: Port | None = None) -> None:
        """Remove a route.  Raises OSError: ESRCH, ENETDOWN."""
        self._route("vp_del_route", route, port)

    def _route(self, function: str, route: Route, port: Port | None) -> None:
        network = self._native_ip(route.network.network_address)
        result = getattr(self._lib, function)(
            0 if port is None else port.index,
            network,
            route.network.prefixlen,
            self._native_ip(route.via),
        )
        self._configured(result, route)

    def _native_ip(self, address: Gateway | None) -> Any:
        native = self._ffi.new("struct vp_addr *")
        if address is not None:
            native.family = address.version
            self._ffi.memmove(native.ip, address.packed, len(address.packed))
        return native

    def _configured(self, result: int, what: object) -> None:
        self.settle()
        if result < 0:
            raise OSError(-result, f"{what}: {os.strerror(-result)}")

    def counters(self) -> dict[str, int]:
        """Return what all interfaces have counted, those that are gone too, by name."""
        return read_counters(self._lib, self._ffi, 0)

    def stats(self) -> Stats:
        """Return what the protocols have counted."""
        return read_stats(self._lib, self._ffi)

    @property
    def due(self) -> int:
        """When the timers must run, in milliseconds of CLOCK_MONOTONIC."""
        return min(int(self.status.due_ms), self.timers.due)

    @property
    def more(self) -> bool:
        """Whether there is work left that waits for nothing."""
        return bool(self.status.more)

    def alarm(self) -> int:
        """Return the deadline of the timers; `settle` hears of earlier ones from now on."""
        due = self.due
        self.status.armed_ms = due
        return due

    def skip(self, seconds: float) -> None:
        """Let the timers see `seconds` pass."""

        def step(some: float) -> None:
            self._lib.vp_skip(round(some * 1000))
            self.settle()

        self.timers.skip(seconds, step)
        self.settle()

    def new(self, six: bool, kind: int, protocol: int) -> int:
        """Return the handle of a new socket.

        kind -- of ``enum vp_kind``
        protocol -- IP protocol of a raw or ping socket

        Raises OSError.
        """
        handle: int = self._lib.vp_socket(6 if six else 4, kind, protocol)
        raise_errno(handle)
        return handle

    def mask(self, handle: int) -> int:
        """Return the mask of a socket, 0 for none."""
        return max(0, int(self._lib.vp_mask(handle)))

    # The calls of the sockets.

    def register(self, handle: int, vpoll: VPoll) -> None:
        """Let `vpoll` have the mask of socket `handle` from now on."""
        self.sockets.register(handle, vpoll)

    def forget(self, handle: int) -> None:
        """Close socket `handle`."""
        self._lib.vp_sock_close(handle)
        self.sockets.forget(handle)
        if self.status.attention or self.sockets.busy:
            self.settle()

    def stream(self, sock: UserSocket, handle: int) -> Stream:
        """Return the compiled calls of the stream `sock`."""
        stream: Stream = self._calls.Stream(self.sockets, self.settle, sock, sock.vpoll, handle)
        return stream

    def begin(self, handle: int) -> Address:
        """Set TCP_NODELAY on a stream and return its own address.  Raises OSError (EBADF)."""
        local = self._ffi.new("struct vp_addr *")
        raise_errno(self._lib.vp_begin(handle, local))
        if self.status.attention or self.sockets.busy:
            self.settle()
        return from_native(self._ffi, local)

    def reader(self, port: Port, relay: Relay) -> Callable[[], None] | None:
        """Return what a loop with `relay` is to call when the link is readable.

        None where `turn` does that, as of a link whose frames pass through Python.
        """
        if port.through_python:
            return None
        reader: Reader = self._calls.Reader(self.sockets, self.settle, relay, None, port.index)
        return reader.read

    def call(self, function: str, handle: int, argument: Address | int) -> int:
        """Call a function of the C side on a socket; return its result."""
        native_argument = argument if isinstance(argument, int) else to_native(self._ffi, argument)
        result: int = getattr(self._lib, function)(handle, native_argument)
        self.settle()
        return result

    def finish_connect(self, handle: int) -> int:
        """Return the errno with which connecting ended, 0 for success."""
        result: int = self._lib.vp_finish_connect(handle)
        self.settle()
        return -result

    def accept(self, handle: int) -> tuple[int, Address, int]:
        """Return (handle or negative errno, peer, mask) of the next connection."""
        peer = self._ffi.new("struct vp_addr *")
        mask = self._ffi.new("uint32_t *")
        child: int = self._lib.vp_accept(handle, peer, mask)
        if self.status.attention or self.sockets.busy:
            self.settle()
        if child < 0:
            return child, ("", 0), 0
        return child, from_native(self._ffi, peer), int(mask[0])

    def receive(self, handle: int, size: int, flags: int) -> tuple[int, bytes, Address | None]:
        """Return (length or negative errno, data, sender of a datagram)."""
        ffi = self._ffi
        sender = ffi.new("struct vp_addr *")
        try:
            scratch = self._scratches.pop()
        except IndexError:
            scratch = ffi.new("char[]", _SCRATCH)
        count: int = self._lib.vp_recv(handle, scratch, size, flags, sender)
        data = ffi.buffer(scratch, min(count, size))[:] if count > 0 else b""
        self._scratches.append(scratch)
        if self.status.attention or self.sockets.busy:
            self.settle()
        return count, data, from_native(ffi, sender) if sender.family else None

    def receive_into(self, handle: int, buffer: memoryview, flags: int) -> int:
        """Read into `buffer`; return the count or a negative errno."""
        ffi = self._ffi
        view = ffi.from_buffer("char[]", buffer, require_writable=True)
        sender = ffi.new("struct vp_addr *")
        count: int = self._lib.vp_recv(handle, view, len(buffer), flags, sender)
        self.settle()
        return count

    def send(self, handle: int, data: Data, address: Address | None) -> int:
        """Send; return the count or a negative errno."""
        to = self._null if address is None else to_native(self._ffi, address)
        view = data if isinstance(data, bytes) else self._ffi.from_buffer("char[]", data)
        count: int = self._send(handle, view, len(data), to)
        if self.status.attention or self.sockets.busy:
            self.settle()
        return count

    def name_of(self, function: str, handle: int) -> Address:
        """Return what ``vp_sockname`` or ``vp_peername`` says.  Raises OSError."""
        out = self._ffi.new("struct vp_addr *")
        raise_errno(getattr(self._lib, function)(handle, out))
        return from_native(self._ffi, out)

    def available(self, handle: int) -> int:
        """Return how many bytes `recv` would get at once.  Raises OSError (EBADF)."""
        count: int = self._lib.vp_getopt(handle, self._lib.VP_AVAILABLE)
        raise_errno(count)
        return count

    # After every call into C: masks, frames, timers.

    def settle(self, show: bool = True) -> None:
        """Carry on what the latest call into C has left: masks, frames, timers.

        show -- whether masks are shown; not after a waiter has raised, so that the rest is done
        """
        status = self.status
        if (status.dirty or self.sockets.busy) and show:
            self.sockets.publish()
        if self.closed:
            return
        for port in self._slow_ports:
            if port.backlogged:
                port.flush()
        if status.link_errno:
            status.link_errno = 0
            for port in self.ports:
                port.ask()
        wanted = self.wants_writer()
        status.writing = wanted
        driver = self.driver
        thread = self.thread
        if thread is not None and (driver is None or not driver.running):
            thread.arm(self.due)
            if wanted or status.more:
                thread.ring()
            return
        if driver is None:
            status.armed_ms = 0
            return
        # `due`, without the call: an idle loop does this for every timer.
        driver.arm(min(status.due_ms, self.timers.due))
        status.armed_ms = driver.armed
        if wanted or driver.writing:
            driver.watch_writers()
        if status.more:
            driver.again()

    def wants_writer(self) -> bool:
        """Return whether frames wait for a link to be writable."""
        if self.status.queued or self._slow_ports:
            for port in self.ports:
                if port.wants_writer():
                    return True
        return False

    def feed(self, frames: Sequence[bytes], port: Port | None = None) -> None:
        """Give the stack frames as if a link, by default the first, had brought them."""
        if frames:
            (port or self.ports[0]).feed(frames)
            self.settle()

    def turn(self, readable: Port | bool) -> None:
        """Let the stack work once: read a batch, run timers, set the next deadline.

        readable -- the interface whose link is; True for every one's
        """
        if self.closed:
            return
        if isinstance(readable, bool):
            if readable:
                for port in self.ports:
                    self.turn(port)
                return
            if self.timers.due != NEVER:
                self.timers.run()
            self.sockets.turn(_NO_LINK)
        elif readable.error is not None:
            self.sockets.turn(_NO_LINK)
        elif readable.through_python:
            readable.read(BATCH)
            self.sockets.turn(_NO_LINK)
        else:
            ran = self.timers.due != NEVER and self.timers.run()
            self.sockets.turn(readable.index)
            if not self.status.attention and not ran:
                return
        self.settle()

    def after_fork(self) -> None:
        """In the child: C has closed its copy already."""
        self.closed = True
        self.timers.after_fork()
        self.driver = None
        self.thread = None
        self.sockets.after_fork()
        self.sockets.publish()

    def finish(self) -> bool:
        """Close the sockets, and return whether all that they have sent has arrived."""
        left = self._lib.vp_finish()
        self.settle()
        return not left and not self.wants_writer()

    def close(self) -> None:
        """Kill the sockets, tell their peers, end the C side."""
        self.closed = True
        self.timers.clear()
        self._lib.vp_quit()
        self.sockets.publish()
        for port in self._slow_ports:
            port.flush()
        self._lib.vp_close()
