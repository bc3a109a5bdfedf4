"""`LwipStack`: the stack object, and what passes between Python and C."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
import weakref
from array import array
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from ... import native
from ...links import open_link
from ...links.base import Link
from ...sockaddr import Address
from ...sockhooks import Data
from ...vpoll import VPoll
from ..base import Stack
from .config import parse_gateways, parse_interfaces, parse_mac
from .driver import NEVER, BlockingDriver, LoopDriver
from .options import LwipOptions
from .sockets import LwipSocket, from_native, to_native

__all__ = ["LwipStack"]

_log = logging.getLogger(__name__)

_BATCH: Final = 64
_COLLECT: Final = 256
_SCRATCH: Final = 65536
_DRAIN: Final = 4 * 65536
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
        self._native = native.load("lwip")
        self._lib: Any = self._native.lib
        self._ffi: Any = self._native.ffi
        _require_matching_library(self._native)
        if link is None:
            assert vnl is not None
            link = open_link(vnl)
            if mac is None and link.address is not None:
                hardware = link.address
        self._link = link
        try:
            self._open(hardware, _checked_mtu(mtu, link), gateways)
        except BaseException:
            link.close()
            raise

    def _open(self, hardware: bytes, mtu: int, gateways: list[Any]) -> None:
        ffi, lib, link = self._ffi, self._lib, self._link
        self.mac = hardware
        """The hardware address; without meaning where the link carries bare packets."""
        self.mtu = mtu
        """Most bytes of an IP packet."""
        self.options = LwipOptions(self._native)
        """Socket options; for `LwipSocket`."""
        port = link.native
        config = ffi.new("struct vp_config *")
        config.ethernet = link.medium == "ethernet"
        config.mac = hardware
        config.mtu = mtu
        if port is not None:
            config.native = 1
            config.fd, config.recv, config.send, config.context, config.batch = port
        self._python_link = port is None
        self._vpolls: dict[int, VPoll] = {}
        self._early: dict[int, int] = {}
        self._publishing = threading.Lock()
        self._flushing = threading.Lock()
        self._scratch_lock = threading.Lock()
        self._scratch = ffi.new("char[]", _SCRATCH)
        self._drained = ffi.new("char[]", _DRAIN) if self._python_link else None
        self._lengths = ffi.new("uint32_t[]", _BATCH)
        self._handles = ffi.new("uint64_t[]", _COLLECT)
        self._masks = ffi.new("uint32_t[]", _COLLECT)
        self._status = lib.vp_status()
        self._unsent: list[bytes] = []
        self._loop: LoopDriver | None = None
        self._link_error: OSError | None = None
        self._blocking = BlockingDriver(
            link.pollable, self._turn, lambda: int(self._status.due_ms), self._wants_writer
        )
        result = lib.vp_open(config)
        if result == -errno.EBUSY:
            raise OSError(errno.EBUSY, "another lwIP stack is open in this process: close it first")
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        try:
            for interface in self._interfaces:
                self._configure("vp_add_address", interface.ip, interface.network.prefixlen)
            for gateway in gateways:
                self._configure("vp_set_gateway", gateway)
        except BaseException:
            lib.vp_close()
            raise
        self._closed = False
        _register_for_fork(self)
        self.settle()

    def _configure(self, function: str, address: Any, *rest: int) -> None:
        native_address = self._ffi.new("struct vp_addr *")
        native_address.family = address.version
        self._ffi.memmove(native_address.ip, address.packed, len(address.packed))
        result = getattr(self._lib, function)(native_address, *rest)
        if result < 0:
            raise OSError(-result, f"{address}: {os.strerror(-result)}")

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
        return self._link_error

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes since the stack was opened, and what was dropped why.

        ``rx_malformed`` (lengths, headers), ``rx_foreign`` (other hosts, unknown
        protocols), ``rx_martian`` (addresses that may not come from outside),
        ``rx_backlog`` (full accept queues), ``tx_dropped`` (refused by the link),
        ``tx_deferred`` (queue to the link full; TCP sends them again).
        """
        raw = self._ffi.new("struct vp_counters *")
        self._lib.vp_counters(raw)
        fields = self._ffi.typeof("struct vp_counters").fields
        return {name: int(getattr(raw, name)) for name, _ in fields}

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
        handle = self._lib.vp_socket(
            6 if family == socket.AF_INET6 else 4, kind == socket.SOCK_STREAM
        )
        if handle < 0:
            raise OSError(-handle, os.strerror(-handle))
        return LwipSocket(self, handle, family, type, proto, self._lib.vp_mask(handle))

    # The calls of the sockets.

    def register(self, handle: int, vpoll: VPoll) -> None:
        """Let `vpoll` have the mask of socket `handle` from now on."""
        self._vpolls[handle] = vpoll
        early = self._early.pop(handle, None)
        if early is not None:
            vpoll.set_events(early)

    def forget(self, handle: int) -> None:
        """Close socket `handle`."""
        self._vpolls.pop(handle, None)
        self._lib.vp_sock_close(handle)
        self._early.pop(handle, None)
        self.settle()

    def call(self, function: str, handle: int, argument: Address | int) -> int:
        """Call a function of the C side on a socket; return its result."""
        native_argument = argument if isinstance(argument, int) else to_native(self._ffi, argument)
        result: int = getattr(self._lib, function)(handle, native_argument)
        self.settle()
        return result

    def accept(self, handle: int) -> tuple[int, Address, int]:
        """Return (handle or negative errno, peer, mask) of the next connection."""
        peer = self._ffi.new("struct vp_addr *")
        mask = self._ffi.new("uint32_t *")
        child: int = self._lib.vp_accept(handle, peer, mask)
        self.settle()
        if child < 0:
            return child, ("", 0), 0
        return child, from_native(self._ffi, peer), int(mask[0])

    def receive(self, handle: int, size: int, flags: int) -> tuple[int, bytes, Address | None]:
        """Return (length or negative errno, data, sender of a datagram)."""
        ffi = self._ffi
        sender = ffi.new("struct vp_addr *")
        with self._scratch_lock:
            count: int = self._lib.vp_recv(handle, self._scratch, size, flags, sender)
            data = ffi.buffer(self._scratch, min(count, size))[:] if count > 0 else b""
        status = self._status
        if status.dirty or status.queued or status.more:
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
        ffi = self._ffi
        to = ffi.NULL if address is None else to_native(ffi, address)
        view = data if isinstance(data, bytes) else ffi.from_buffer("char[]", data)
        count: int = self._lib.vp_send(handle, view, len(data), to)
        self.settle()
        return count

    def name_of(self, function: str, handle: int) -> Address:
        """Return what ``vp_sockname`` or ``vp_peername`` says.  Raises OSError."""
        out = self._ffi.new("struct vp_addr *")
        result = getattr(self._lib, function)(handle, out)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return from_native(self._ffi, out)

    def available(self, handle: int) -> int:
        """Return how many bytes `recv` would get at once.  Raises OSError (EBADF)."""
        count: int = self._lib.vp_getopt(handle, self._lib.VP_AVAILABLE)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count

    # After every call into C: masks, frames, timers.

    def settle(self) -> None:
        """Carry on what the latest call into C has left: masks, frames, timers."""
        status = self._status
        if status.dirty:
            self._publish()
        if self._python_link and (status.queued or self._unsent):
            self._flush()
        if status.link_errno:
            self._ask_link()
        driver = self._loop
        if driver is None:
            return
        driver.arm(status.due_ms)
        driver.want_writer(self._wants_writer())
        if status.more:
            driver.again()

    def _wants_writer(self) -> bool:
        return self._link_error is None and bool(self._status.queued or self._unsent)

    def _publish(self) -> None:
        # One thread publishes, so that no older mask overwrites a newer one; whoever
        # comes meanwhile, or from inside a waiter, leaves it to that one, which looks
        # again after it has let go.
        status, lock = self._status, self._publishing
        while status.dirty and lock.acquire(blocking=False):
            try:
                count = self._lib.vp_collect(self._handles, self._masks, _COLLECT)
                for index in range(count):
                    self._set_mask(self._handles[index], self._masks[index])
            finally:
                lock.release()

    def _set_mask(self, handle: int, mask: int) -> None:
        vpoll = self._vpolls.get(handle)
        if vpoll is None:
            # Accepted in another thread, which has not registered it yet, or closed.
            self._early[handle] = mask
            vpoll = self._vpolls.get(handle)
            if vpoll is None:
                return
            self._early.pop(handle, None)
        try:
            vpoll.set_events(mask)
        except OSError:
            if not vpoll.closed:
                raise

    def _flush(self) -> None:
        """Move frames from the C side's queue to a link that Python serves."""
        lock = self._flushing
        while (self._status.queued or self._unsent) and lock.acquire(blocking=False):
            try:
                if not self._flush_some():
                    return
            finally:
                lock.release()

    def _flush_some(self) -> bool:
        ffi = self._ffi
        if not self._unsent:
            count = self._lib.vp_drain(self._drained, _DRAIN, self._lengths, _BATCH)
            at = 0
            whole = ffi.buffer(self._drained)
            for index in range(count):
                end = at + self._lengths[index]
                self._unsent.append(whole[at:end])
                at = end
        if self._link_error is not None:
            self._unsent.clear()
            return True
        try:
            taken = self._link.send_batch(self._unsent)
        except OSError as exc:
            self._unsent.clear()
            self._lose_link(exc)
            return True
        del self._unsent[:taken]
        return not self._unsent

    def _ask_link(self) -> None:
        """The C side met an error on the link, which itself knows whether that matters."""
        self._status.link_errno = 0
        if self._link_error is None and not self._closed:
            self._read_link(1)

    def _read_link(self, limit: int) -> None:
        try:
            frames = self._link.recv_batch(limit)
        except OSError as exc:
            self._lose_link(exc)
            return
        if frames:
            lengths = array("I", map(len, frames))
            self._lib.vp_feed(
                b"".join(frames), self._ffi.from_buffer("uint32_t[]", lengths), len(frames)
            )

    def _lose_link(self, error: OSError) -> None:
        if self._link_error is not None or self._closed:
            return
        self._link_error = error
        _log.error("the lwip stack has lost its link: %s", error)
        self._blocking.stop_reading()
        if self._loop is not None:
            self._loop.stop_reading()

    def _turn(self, readable: bool) -> int:
        """Let the stack work once: read a batch, run timers.  Returns the next deadline."""
        if self._closed:
            return NEVER
        if readable and self._link_error is None:
            if self._python_link:
                self._read_link(_BATCH)
                self._lib.vp_turn(0)
            else:
                self._lib.vp_turn(1)
        else:
            self._lib.vp_turn(0)
        self.settle()
        return int(self._status.due_ms)

    # Who drives.

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self.refuse_closed()
        driver = self._loop
        if driver is not None:
            if driver.loop is loop:
                return
            if not driver.loop.is_closed():
                raise RuntimeError(
                    f"{driver.loop!r} drives the lwip stack: detach it before attaching another"
                )
        self._loop = LoopDriver(loop, self._link.pollable, self._turn)
        if self._link_error is not None:
            self._loop.stop_reading()
        self.settle()

    def _attach_running_loop(self) -> None:
        loop = asyncio._get_running_loop()
        if loop is not None and (self._loop is None or self._loop.loop.is_closed()):
            self.attach(loop)

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        driver = self._loop
        if driver is not None and driver.loop is loop:
            self._loop = None
            driver.close()

    def _driven(self) -> bool:
        driver = self._loop
        return driver is not None and driver.running and not driver.here

    def wait(self, vpoll: VPoll, mask: int, timeout: float | None) -> int:
        if timeout is not None and timeout <= 0:
            return super().wait(vpoll, mask, timeout)
        return self._blocking.wait(vpoll, mask, timeout, self._driven)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _forget_for_fork(self)
        self._lib.vp_quit()
        self._publish()
        if self._python_link and self._link_error is None:
            self._flush()
        self._lib.vp_close()
        driver, self._loop = self._loop, None
        if driver is not None:
            driver.close()
        self._blocking.close()
        self._link.close()

    def abandon(self) -> None:
        """What becomes of the stack in a child of fork(2), where C has closed it already."""
        self._closed = True
        self._loop = None
        self._link.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"sockets={len(self._vpolls)}"
        return f"<LwipStack {' '.join(self.addresses)} {state} link={self._link!r}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


def _checked_mtu(mtu: int | str | None, link: Link) -> int:
    wanted = link.mtu if mtu is None else int(mtu)
    low = 576
    if not low <= wanted <= link.mtu:
        raise ValueError(f"mtu={mtu!r}: expected {low} to {link.mtu}, which the link carries")
    return wanted


def _require_matching_library(module: Any) -> None:
    found = module.ffi.new("struct vp_abi *")
    module.lib.vp_abi(found)
    if not found.ok:
        version = module.ffi.string(found.version).decode()
        raise OSError(
            errno.ELIBBAD,
            f"liblwip does not match its headers (version {version}): "
            "reinstall the Debian packages liblwip0 and liblwip-dev together",
        )


_current: weakref.ref[LwipStack] | None = None
_hooked = False


def _register_for_fork(stack: LwipStack) -> None:
    global _current, _hooked
    _current = weakref.ref(stack)
    if _hooked:
        return
    _hooked = True
    lib = stack._lib

    def in_child() -> None:
        lib.vp_after_fork(1)
        open_stack = _current and _current()
        if open_stack is not None:
            open_stack.abandon()

    os.register_at_fork(
        before=lib.vp_before_fork,
        after_in_parent=lambda: lib.vp_after_fork(0),
        after_in_child=in_child,
    )


def _forget_for_fork(stack: LwipStack) -> None:
    global _current
    if _current is not None and _current() is stack:
        _current = None
