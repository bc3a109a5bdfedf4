"""A link of bare IP packets whose other end is Python: what user-space tunnels need.

Device tunnels that hand out IPv6 packets, WireGuard, a recorder: packets go out by a
function call and come in by a method call, or both through an asyncio protocol.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

from ..events import IN, OUT, RDNORM, WRNORM
from ..vpoll import VPoll
from .base import Link
from .limits import check_mtu, closed_error

__all__ = ["PacketLink", "PacketProtocol"]

_log = logging.getLogger(__name__)

_READABLE: Final = IN | RDNORM
_WRITABLE: Final = OUT | WRNORM

# RFC 8200, section 5: every link of IPv6 carries that much.
_MTU_MIN: Final = 1280
_HEADER: Final = {4: 20, 6: 40}

Buffer = bytes | bytearray | memoryview


class PacketLink(Link):
    """A link of bare IP packets: out by ``send(packet)``, in by `receive`.

    Parameters:
    send -- called for every packet of the stack, in order, in the thread that drives
        the stack.  It takes the packet unless it returns False or raises
        BlockingIOError: then the link is full, the packet stays with the stack, and
        nothing more comes until `resume`.  Any other exception costs the packet: it is
        counted in `errors`, kept in `last_error`, and logged or given to `on_error`.
        None: `protocol` will bring one, and the link is full until then.
    mtu -- most bytes of a packet, 1280 to 65535
    queue -- most packets that may wait for the stack; what comes on top is dropped
    on_error -- called with each exception of `send` in place of logging it

    Packets that are none (no version 4 or 6, shorter than that version's header) or
    longer than `mtu` are dropped and counted in both directions.

    `receive`, `receive_batch`, `pause` and `resume` may be called from any thread,
    `send` itself included.  Raises ValueError for a wrong mtu or queue, TypeError for a
    `send` that is a coroutine function.
    """

    medium = "ip"

    def __init__(
        self,
        send: Callable[[bytes], object] | None = None,
        *,
        mtu: int = 1500,
        queue: int = 1024,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        self.mtu = check_mtu(mtu, low=_MTU_MIN)
        if inspect.iscoroutinefunction(send):
            raise TypeError(f"send={send!r}: expected a plain function, which nobody awaits")
        if queue < 1:
            raise ValueError(f"queue {queue!r}: expected at least one packet")
        self.queue = queue
        self.errors = 0
        """Exceptions that `send` has raised, BlockingIOError not among them."""
        self.last_error: Exception | None = None
        self._send = send
        self._on_error = on_error
        self._inbox: deque[bytes] = deque()
        # Re-entrant: a waiter of the vpoll runs under it, and so may a signal handler.
        self._lock = threading.RLock()
        self._resumed = 0
        self._attached: PacketProtocol | None = None
        self._vpoll = VPoll(0 if send is None else _WRITABLE)
        self._closed = False

    def receive(self, packet: Buffer) -> bool:
        """Give the stack a packet; return whether it was taken.

        False: the packet was bad, or the queue is full; `dropped` has counted it.
        Raises OSError (EBADF) when the link is closed.
        """
        return self.receive_batch((packet,)) == 1

    def receive_batch(self, packets: Iterable[Buffer]) -> int:
        """Give the stack several packets, with one wake-up; return how many were taken.

        The others were bad, or the queue is full; `dropped` has counted them.  Raises
        OSError (EBADF) when the link is closed.
        """
        taken = 0
        with self._lock:
            self._check()
            for packet in map(bytes, packets):
                if self._is_good(packet) and len(self._inbox) < self.queue:
                    self._inbox.append(packet)
                    taken += 1
                else:
                    self.dropped += 1
            if taken and not self._vpoll.peek() & IN:
                self._vpoll.add_events(_READABLE)
        return taken

    def pause(self) -> None:
        """Say that `send` would refuse: the link is full until `resume`.  No-op when closed."""
        with self._lock:
            if not self._closed and self._vpoll.peek() & OUT:
                self._vpoll.del_events(_WRITABLE)

    def resume(self) -> None:
        """Say that `send` can take packets again.  No-op when closed."""
        with self._lock:
            self._resumed += 1
            if not self._closed and self._send is not None:
                self._vpoll.add_events(_WRITABLE)

    def recv_batch(self, limit: int = 64) -> list[bytes]:
        with self._lock:
            self._check()
            inbox = self._inbox
            packets = [inbox.popleft() for _ in range(min(limit, len(inbox)))]
            if not inbox and self._vpoll.peek() & IN:
                self._vpoll.del_events(_READABLE)
            return packets

    def send_batch(self, frames: Sequence[bytes]) -> int:
        self._check()
        taken = 0
        for packet in frames:
            if not self._vpoll.peek() & OUT:
                break
            if not self._is_good(packet):
                with self._lock:
                    self.dropped += 1
            elif not self._hand_out(packet):
                break
            taken += 1
            if self._closed:
                break
        return taken

    def _hand_out(self, packet: bytes) -> bool:
        """Call `send`; return whether the packet is done with, taken or lost."""
        send = self._send
        if send is None:
            return False
        resumed = self._resumed
        try:
            if send(packet) is not False:
                return True
        except BlockingIOError:
            pass
        except Exception as error:
            self.report(error, lost=True)
            return True
        with self._lock:
            # A `resume` since then may have come after the refusal: ask again.
            if resumed == self._resumed and not self._closed:
                self._vpoll.del_events(_WRITABLE)
        return False

    def report(self, error: Exception, *, lost: bool = False) -> None:
        """Count `error` as one of `send`'s, and log it or give it to `on_error`.

        lost -- it has cost a packet that was taken
        """
        with self._lock:
            self.errors += 1
            self.dropped += lost
            self.last_error = error
            count = self.errors
        if self._on_error is not None:
            try:
                self._on_error(error)
                return
            except Exception:
                _log.exception("the on_error function of %r failed", self)
        # One that fails for every packet would fill the disk: log the 1st, 2nd, 4th, 8th …
        if not count & (count - 1):
            _log.error("%r could not send a packet (error %d)", self, count, exc_info=error)

    def protocol(self, address: Any = None) -> PacketProtocol:
        """Return a protocol for `loop.create_datagram_endpoint`: a packet a datagram.

        address -- where packets go; None for an endpoint that is connected.  (asyncio
            takes an unnamed UNIX socketpair for unconnected: make it an `FdLink`.)

        The link is full until the endpoint is made and after it is lost; another
        protocol may then take its place.  Raises RuntimeError while a protocol is in
        use, ValueError when the link has a `send` function, OSError (EBADF) when it is
        closed.
        """
        with self._lock:
            self._check()
            if self._attached is not None:
                raise RuntimeError(f"{self!r} is in use by {self._attached!r}")
            if self._send is not None:
                raise ValueError(f"{self!r} has a send function: make it without one")
            return PacketProtocol(self, address)

    def attach(self, protocol: PacketProtocol, send: Callable[[bytes], object]) -> None:
        """Send through `protocol` from now on.  Called by the protocol itself.

        Raises RuntimeError while another protocol is in use, OSError (EBADF) when closed.
        """
        with self._lock:
            self._check()
            if self._attached is not None:
                raise RuntimeError(f"{self!r} is in use by {self._attached!r}")
            self._attached, self._send = protocol, send
        self.resume()

    def detach(self, protocol: PacketProtocol) -> None:
        """Send through `protocol` no more.  Called by the protocol itself."""
        with self._lock:
            if self._attached is protocol:
                self._attached = self._send = None
                self.pause()

    def _is_good(self, packet: bytes) -> bool:
        # What has no version that is known has no header that it is long enough for.
        return 0 < len(packet) <= self.mtu and len(packet) >= _HEADER.get(
            packet[0] >> 4, self.mtu + 1
        )

    def _check(self) -> None:
        if self._closed:
            raise closed_error(self)

    @property
    def pollable(self) -> VPoll:
        self._check()
        return self._vpoll

    def close(self) -> None:
        """Give back what the link holds, its protocol's endpoint included."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._inbox.clear()
            protocol = self._attached
            self._vpoll.close()
        if protocol is not None:
            protocol.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"waiting={len(self._inbox)}"
        return (
            f"<PacketLink {state} medium=ip mtu={self.mtu} dropped={self.dropped} "
            f"errors={self.errors}>"
        )


class PacketProtocol(asyncio.DatagramProtocol):
    """The asyncio side of a `PacketLink`, made by `PacketLink.protocol`.

    The stack may be driven by another thread than the loop's: packets then go through
    `call_soon_threadsafe`, at most the link's `queue` at a time.
    """

    def __init__(self, link: PacketLink, address: Any) -> None:
        self._link = link
        self._address = address
        self._transport: asyncio.DatagramTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._paused = False
        self._lock = threading.Lock()
        self._on_their_way = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the link send.  Closes the transport where the link cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        # uvloop's is one in all but its class.
        self._transport = datagrams = cast("asyncio.DatagramTransport", transport)
        try:
            if self._address is None and not transport.get_extra_info("peername"):
                raise ValueError(
                    f"the endpoint {transport!r} has no peer: connect it (remote_addr=), or "
                    "give PacketLink.protocol the address to send to"
                )
            self._link.attach(self, self._send)
        except BaseException:
            datagrams.abort()
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        """Make the link full, and report `exc`."""
        self._transport = None
        self._link.detach(self)
        if exc is not None:
            self._link.report(exc)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Give the stack the packet; one that it cannot take is counted by the link."""
        try:
            self._link.receive(data)
        except OSError:
            # Closed; the endpoint follows.
            pass

    def error_received(self, exc: Exception) -> None:
        """Report `exc`, an earlier packet's; the link goes on."""
        self._link.report(exc)

    def pause_writing(self) -> None:
        """Make the link full."""
        self._paused = True
        self._link.pause()

    def resume_writing(self) -> None:
        """Let the link send again."""
        self._paused = False
        self._link.resume()

    def close(self) -> None:
        """Close the transport.  May be called from any thread."""
        transport, loop = self._transport, self._loop
        if transport is None or loop is None or loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            transport.close()
        else:
            try:
                loop.call_soon_threadsafe(transport.close)
            except RuntimeError:
                # The loop was closed in the meantime, and its transports with it.
                pass

    def _send(self, packet: bytes) -> object:
        transport, loop = self._transport, self._loop
        if transport is None or loop is None or self._paused:
            return False
        if threading.get_ident() == self._thread:
            transport.sendto(packet, self._address)
            return True
        with self._lock:
            if self._on_their_way >= self._link.queue:
                return False
            self._on_their_way += 1
        loop.call_soon_threadsafe(self._send_later, packet)
        return True

    def _send_later(self, packet: bytes) -> None:
        with self._lock:
            was_full = self._on_their_way >= self._link.queue
            self._on_their_way -= 1
        transport = self._transport
        if transport is None:
            gone = ConnectionAbortedError("the endpoint was closed before the packet's turn")
            self._link.report(gone, lost=True)
        else:
            transport.sendto(packet, self._address)
        if was_full and not self._paused:
            self._link.resume()
