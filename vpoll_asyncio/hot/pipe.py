"""One direction of a stream in memory: what is sent to an endpoint until it is received.

Here is the everyday: bytes without flags between two endpoints that are connected and
healthy.  Everything else is the subclass's, `send_special` and `recv_special`.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from ..events import IN, OUT, RDNORM, WRNORM
from .accelerator import ACCELERATOR
from .vpoll import VPollState

__all__ = [
    "CLOSE_WAIT",
    "ESTABLISHED",
    "FIN_CAME",
    "FIN_WAITS",
    "NO_FIN",
    "RCV",
    "SND",
    "Chunk",
    "Lock",
    "PipeState",
    "R",
    "W",
    "by_reference",
    "would_block",
]

R: Final = IN | RDNORM
W: Final = OUT | WRNORM

# The kernel's RCV_SHUTDOWN and SEND_SHUTDOWN.
RCV: Final = 1
SND: Final = 2

# The two states in which data are sent.
ESTABLISHED: Final = 3
CLOSE_WAIT: Final = 4

NO_FIN: Final = 0
FIN_WAITS: Final = 1
FIN_CAME: Final = 2

_SENDING: Final = (ESTABLISHED, CLOSE_WAIT)

# From this size on a piece that waits is handed over as it came.
_LARGE: Final = 1024
# Below this many waiting pieces each is kept as it came, however small.
_PIECES: Final = 64
# A view keeps all of the bytes below it alive, which may be so many times as many.
_SHARE: Final = 4

_AGAIN: Final = (errno.EAGAIN, os.strerror(errno.EAGAIN))

Chunk = bytes | bytearray | memoryview


def would_block() -> BlockingIOError:
    """Return the error with which a call says that it would have to wait (EAGAIN)."""
    return BlockingIOError(*_AGAIN)


def by_reference(data: bytes | memoryview, count: int) -> bytes | memoryview:
    """Return the first `count` bytes of `data` as they may be kept: a copy where they must be.

    A view of bytes is kept as a view, one that nobody else can release.
    """
    whole = data if type(data) is bytes else data.obj  # type: ignore[union-attr]
    if type(whole) is not bytes or len(whole) > _SHARE * count:
        return bytes(data[:count])
    if count == len(whole):
        return whole
    return memoryview(data)[:count]


Lock = threading.RLock
"""What guards several endpoints at once: re-entrant, as signal handlers come in between."""

# `with` takes half a microsecond on it, a quarter of an echo in all, so `send` and `recv_some`
# acquire it by hand.  They begin only where their thread does not have it yet: whatever
# interrupts them and wherever, it is theirs if it is held, and where it is not the release
# fails.  No call comes before that release, so another interruption finds it done.


class PipeState:
    """An endpoint's queue of received data, and what decides whether more may come.

    `used` counts the bytes in `chunks`.  Chunks leave the queue before they are looked
    at, and no statement that counts has a call in it, so a signal handler that comes in
    between may send or receive without a byte being lost or counted twice.
    """

    __slots__ = (
        "chunks",
        "error",
        "fin",
        "lock",
        "lowat",
        "mask",
        "orphan",
        "peer",
        "rcvbuf",
        "shut",
        "sndbuf",
        "state",
        "urg",
        "used",
        "vpoll",
    )

    chunks: list[Chunk] | None
    """None until the first byte comes: most connections of many wait."""
    error: int
    fin: int
    """Whether the peer's FIN has come, or waits behind the data."""
    lock: threading.RLock
    lowat: int
    mask: int
    """What `vpoll` shows or is about to."""
    orphan: bool
    """Whether the socket has been closed."""
    peer: Any
    rcvbuf: int
    shut: int
    sndbuf: int
    state: int
    urg: int
    used: int
    vpoll: VPollState | None

    def __init__(self) -> None:
        self.chunks = None
        self.error = self.fin = self.shut = self.state = self.urg = self.used = self.mask = 0
        self.sndbuf = self.rcvbuf = 0
        self.lowat = 1
        self.orphan = False
        self.peer = None
        self.vpoll = None

    def send(self, data: bytes | memoryview, flags: int = 0, address: object = None) -> int:
        """Send a prefix of `data`; return its length.  Raises as send(2) does.

        Bytes are kept by reference, and what is cut of them or a view of them is too where it
        is no small part; of another view there is a copy.
        """
        lock = self.lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return self.send_special(data, flags)
        try:
            lock.acquire()
            peer = self.peer
            if (
                peer is None
                or self.state not in _SENDING
                or flags
                or self.error
                or self.shut & SND
                or peer.shut & RCV
                or peer.orphan
            ):
                lock.release()
                return self.send_special(data, flags)
            count = len(data)
            space = self.sndbuf + peer.rcvbuf - peer.used
            if count > space:
                if space <= 0:
                    raise would_block()
                data = by_reference(data, space)
                count = space
            elif type(data) is not bytes:
                data = by_reference(data, count)
            if not count:
                lock.release()
                return 0
            chunks = peer.chunks
            if chunks is None or len(chunks) >= _PIECES:
                peer.append(data)
            else:
                chunks.append(data)
                peer.used += count
            if peer.urg or peer.lowat > 1:
                peer.refresh()
            else:
                peer.mask |= R
            full = peer.used > peer.rcvbuf and not self.writable()
            if full:
                self.mask &= ~W
            lock.release()
            if full:
                self.show_cleared()
            vpoll = peer.vpoll
            if vpoll is not None:
                # What `show` does, most often without a call.
                file = vpoll.file
                if file is None or file.pending is not None:
                    peer.show()
                else:
                    mask = file.mask = peer.mask
                    for waiter in file.waiters:
                        waiter(mask)
                    if peer.mask != mask:
                        peer.show()
            return count
        except BaseException as exc:
            try:
                lock.release()
            except RuntimeError:
                pass
            if not isinstance(exc, OSError):
                self.mend()
            raise

    def recv_some(self, bufsize: int) -> bytes:
        """Receive at least one and at most `bufsize` bytes, as they can be had without a copy.

        Returns ``b""`` at the end of the stream.  Raises as recv(2) does.
        """
        lock = self.lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return self.recv_special(bufsize, 0)
        try:
            lock.acquire()
            chunks = self.chunks
            before = self.used
            if not before or not chunks or self.urg or self.lowat > 1:
                lock.release()
                return self.recv_special(bufsize, 0)
            data = chunks.pop(0)
            size = len(data)
            if size > bufsize or (chunks and size < _LARGE):
                chunks.insert(0, data)
                data = self.take(bufsize)
            else:
                self.used -= size
            emptied = not self.used and not self.shut & RCV
            if emptied:
                self.mask &= ~R
            touched: list[Any] | None = None
            roomy = None
            if before > self.rcvbuf:
                peer = self.peer
                if peer is None or self.fin == FIN_WAITS or peer.state not in _SENDING:
                    touched = []
                    self.room_made(touched)
                elif not peer.mask & OUT and not peer.orphan and peer.writable():
                    peer.mask |= W
                    roomy = peer
            lock.release()
            if emptied:
                self.show_cleared()
            if roomy is not None:
                roomy.show()
            if touched:
                for each in touched:
                    each.show()
            return data if type(data) is bytes else bytes(data)
        except BaseException as exc:
            try:
                lock.release()
            except RuntimeError:
                pass
            if not isinstance(exc, OSError):
                self.mend()
            raise

    def show_cleared(self) -> None:
        """Show a mask that has only lost events: no waiter has to hear of that.

        A kernel object is told all the same.  On a vpoll without one the comparison and
        the assignment are one step as far as threads and handlers can tell.
        """
        vpoll = self.vpoll
        if vpoll is None:
            return
        file = vpoll.file
        if file is None or file.pending is not None:
            self.show()
        else:
            file.mask = self.mask

    def show(self) -> None:
        """Show `mask` on the vpoll and wake the waiters.  Called without the lock."""
        raise NotImplementedError

    def send_special(self, data: bytes | memoryview, flags: int) -> int:
        """Do what `send` does, in every case."""
        raise NotImplementedError

    def recv_special(self, bufsize: int, flags: int) -> bytes:
        """Receive up to `bufsize` bytes, in every case."""
        raise NotImplementedError

    def append(self, data: Chunk) -> None:
        """Put `data`, which is not empty, at the end of the queue."""
        raise NotImplementedError

    def take(self, count: int) -> bytes:
        """Return the first `count` bytes of the queue, fewer when there are fewer."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Compute `mask` anew."""
        raise NotImplementedError

    def writable(self) -> bool:
        """Return whether a third of the send buffer is free (sk_stream_is_writeable)."""
        raise NotImplementedError

    def room_made(self, touched: list[Any]) -> None:
        """What the peer still held may have arrived; append whose mask has changed."""
        raise NotImplementedError

    def mend(self) -> None:
        """Set right what an exception out of a signal handler has left half done."""
        raise NotImplementedError


if not TYPE_CHECKING and ACCELERATOR is not None:
    Lock = ACCELERATOR.Lock
    PipeState = ACCELERATOR.PipeState
