"""What passes between Python and the C side: calls, masks, frames.

Every call into C may change the masks of any socket, queue frames and move the
deadline of the timers.  `Core.settle` carries that on.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from array import array
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
from .driver import LoopDriver
from .masks import Reader, Stream, calls_of, masks_of
from .thread import StackThread

__all__ = ["Core", "Driven"]

_log = logging.getLogger(__name__)

_BATCH: Final = 64
_SCRATCH: Final = 65536
_DRAIN: Final = 4 * 65536


class Driven(Protocol):
    """Who must know when the link is broken."""

    def stop_reading(self) -> None:
        """Leave the link alone."""


class Core:
    """The C side of one stack, with what it needs of Python.

    Parameters:
    native -- an instance of the helper, as `vpoll_asyncio.native.load` returns it
    link -- where frames go
    mac, mtu -- of the interface

    Raises OSError: EBUSY while another stack has the instance, ELIBBAD when the library
    does not match its headers.  Every method may be called from any thread.
    """

    def __init__(self, native: Any, link: Link, mac: bytes, mtu: int) -> None:
        self.closed = True
        self._lib: Any = native.lib
        self._ffi: Any = native.ffi
        self._require_matching_library()
        ffi, lib = self._ffi, self._lib
        self.instance: str = native.__file__
        """The file of the C side, which no other open stack has."""
        self._send = lib.vp_send
        self._null = ffi.NULL
        self._link = link
        self.link_error: OSError | None = None
        """What broke the link."""
        self.driver: LoopDriver | None = None
        """The loop that drives the stack."""
        self.thread: StackThread | None = None
        """What drives the stack while no loop does."""
        self.watchers: tuple[Driven, ...] = ()
        """Who else watches the link."""
        port = link.native
        config = ffi.new("struct vp_config *")
        config.ethernet = link.medium == "ethernet"
        config.mac = mac
        config.mtu = mtu
        if port is not None:
            config.native = 1
            config.fd, config.recv, config.send, config.context, config.batch = port
        self._python_link = port is None
        self._calls = calls_of(native)
        self.sockets = masks_of(native)
        """The instance's sockets and their masks."""
        self._flushing = threading.Lock()
        # One for each call that is under way: threads, and handlers that interrupt one.
        self._scratches: deque[Any] = deque(maxlen=8)
        self._drained = ffi.new("char[]", _DRAIN) if self._python_link else None
        self._lengths = ffi.new("uint32_t[]", _BATCH)
        self.status = lib.vp_status()
        """The C side's ``struct vp_status``; after a call, `settle` while ``attention`` is set."""
        self._unsent: list[bytes] = []
        raise_errno(lib.vp_open(config))
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

    def add_address(self, interface: Interface) -> None:
        """Give the interface an address.  Raises OSError: EEXIST, ENOSPC, ENETDOWN."""
        result = self._lib.vp_add_address(
            self._native_ip(interface.ip), interface.network.prefixlen
        )
        self._configured(result, interface)

    def del_address(self, address: Gateway) -> None:
        """Take an address away.  Raises OSError: EADDRNOTAVAIL, ENETDOWN."""
        self._configured(self._lib.vp_del_address(self._native_ip(address)), address)

    def add_route(self, route: Route) -> None:
        """Add a route.  Raises OSError: EEXIST, ENETUNREACH, ENETDOWN."""
        self._route("vp_add_route", route)

    def del_route(self, route: Route) -> None:
        """Remove a route.  Raises OSError: ESRCH, ENETDOWN."""
        self._route("vp_del_route", route)

    def _route(self, function: str, route: Route) -> None:
        network = self._native_ip(route.network.network_address)
        result = getattr(self._lib, function)(
            network, route.network.prefixlen, self._native_ip(route.via)
        )
        self._configured(result, route)

    def set_mtu(self, mtu: int) -> None:
        """Set the most bytes of an IP packet.  Raises OSError (ENETDOWN)."""
        self._configured(self._lib.vp_set_mtu(mtu), f"mtu {mtu}")

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
        """Return the C side's counters by name."""
        raw = self._ffi.new("struct vp_counters *")
        self._lib.vp_counters(raw)
        fields = self._ffi.typeof("struct vp_counters").fields
        return {name: int(getattr(raw, name)) for name, _ in fields}

    @property
    def due(self) -> int:
        """When the timers must run, in milliseconds of CLOCK_MONOTONIC."""
        return int(self.status.due_ms)

    @property
    def more(self) -> bool:
        """Whether there is work left that waits for nothing."""
        return bool(self.status.more)

    def alarm(self) -> int:
        """Return the deadline of the timers; `settle` hears of earlier ones from now on."""
        due = self.status.due_ms
        self.status.armed_ms = due
        return int(due)

    def skip(self, seconds: float) -> None:
        """Let the timers see `seconds` pass."""
        self._lib.vp_skip(round(seconds * 1000))
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

    def reader(self, relay: Relay) -> Callable[[], None] | None:
        """Return what a loop with `relay` is to call when the link is readable.

        None where `turn` does that, as of a link whose frames pass through Python.
        """
        if self._python_link:
            return None
        reader: Reader = self._calls.Reader(self.sockets, self.settle, relay)
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
        if self._python_link and (status.queued or self._unsent):
            self._flush()
        if status.link_errno:
            self._ask_link()
        wanted = self.wants_writer()
        status.writing = wanted
        driver = self.driver
        thread = self.thread
        if thread is not None and (driver is None or not driver.running):
            thread.arm(status.due_ms)
            if wanted or status.more:
                thread.ring()
            return
        if driver is None:
            status.armed_ms = 0
            return
        driver.arm(status.due_ms)
        status.armed_ms = driver.armed
        if wanted is not driver.writing:
            driver.want_writer(wanted)
        if status.more:
            driver.again()

    def wants_writer(self) -> bool:
        """Return whether frames wait for the link to be writable."""
        return self.link_error is None and bool(self.status.queued or self._unsent)

    def _flush(self) -> None:
        """Move frames from the C side's queue to a link that Python serves."""
        lock = self._flushing
        while (self.status.queued or self._unsent) and lock.acquire(blocking=False):
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
        if self.link_error is not None:
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
        self.status.link_errno = 0
        if self.link_error is None and not self.closed:
            self._read_link(1)

    def _read_link(self, limit: int) -> None:
        try:
            frames = self._link.recv_batch(limit)
        except OSError as exc:
            self._lose_link(exc)
            return
        if frames:
            self._feed(frames)

    def _feed(self, frames: Sequence[bytes]) -> None:
        lengths = array("I", map(len, frames))
        self._lib.vp_feed(
            b"".join(frames), self._ffi.from_buffer("uint32_t[]", lengths), len(frames)
        )

    def feed(self, frames: Sequence[bytes]) -> None:
        """Give the stack frames as if the link had brought them."""
        if frames:
            self._feed(frames)
            self.settle()

    def _lose_link(self, error: OSError) -> None:
        if self.link_error is not None or self.closed:
            return
        self.link_error = error
        _log.warning("the lwip stack has lost its link: %s", error)
        for watcher in self.watchers:
            watcher.stop_reading()
        if self.driver is not None:
            self.driver.stop_reading()

    def turn(self, readable: bool) -> None:
        """Let the stack work once: read a batch, run timers, set the next deadline."""
        if self.closed:
            return
        if not readable or self.link_error is not None:
            self.sockets.turn(False)
        elif self._python_link:
            self._read_link(_BATCH)
            self.sockets.turn(False)
        else:
            self.sockets.turn(True)
            if not self.status.attention:
                return
        self.settle()

    def after_fork(self) -> None:
        """In the child: C has closed its copy already."""
        self.closed = True
        self.driver = None
        self.thread = None
        self.sockets.after_fork()
        self.sockets.publish()

    def close(self) -> None:
        """Kill the sockets, tell their peers, end the C side."""
        self.closed = True
        self._lib.vp_quit()
        self.sockets.publish()
        if self._python_link and self.link_error is None:
            self._flush()
        self._lib.vp_close()
