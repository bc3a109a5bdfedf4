"""The bytes that wait for a stream's reader, and the urgent one among them."""

from __future__ import annotations

from typing import Final

from ...hot.pipe import Chunk
from .pcb import Pcb

__all__ = ["URG_READ", "URG_VALID", "StreamQueue"]

# TCP_URG_VALID and TCP_URG_READ.
URG_VALID: Final = 1
URG_READ: Final = 2

# Below this many waiting chunks each is kept as it came; above, small ones are joined,
# or a sender of single bytes would cost fifty times its buffer.
_CHUNKS: Final = 64
_SMALL: Final = 1024


class StreamQueue(Pcb):
    """The part of a stream's block that holds what has been sent to it."""

    __slots__ = ("oobinline", "urg_at", "urg_byte")

    # `Connection` sets them: a constructor each would take longer than what it does.
    oobinline: bool
    urg_at: int
    urg_byte: bytes

    def append(self, data: Chunk) -> None:
        count = len(data)
        chunks = self.chunks
        if chunks is None:
            self.chunks = [data]
        elif len(chunks) < _CHUNKS or count >= _SMALL:
            chunks.append(data)
        else:
            tail = chunks[-1]
            if type(tail) is bytearray and len(tail) < 16 * _SMALL:
                tail += data
            else:
                chunks.append(bytearray(data))
        self.used += count

    def take(self, count: int) -> bytes:
        chunks = self.chunks
        if not chunks:
            return b""
        head = chunks.pop(0)
        size = len(head)
        if size > count:
            view = memoryview(head)
            chunks.insert(0, view[count:])
            data = bytes(view[:count])
            size = count
        else:
            data = head if type(head) is bytes else bytes(head)
            if size < count and chunks:
                data = self._join(data, count)
                size = len(data)
        self.used -= size
        return data

    def _join(self, first: bytes, count: int) -> bytes:
        chunks = self.chunks
        parts: list[Chunk] = [first]
        count -= len(first)
        while count and chunks:
            try:
                head = chunks.pop(0)
            except IndexError:
                # A signal handler has taken it.
                break
            if len(head) > count:
                view = memoryview(head)
                chunks.insert(0, view[count:])
                head = view[:count]
            parts.append(head)
            count -= len(head)
        return b"".join(parts)

    def recount(self) -> None:
        """Count the bytes anew, after an exception came in between."""
        self.used = sum(map(len, self.chunks or ()))

    def peek(self, count: int, start: int = 0) -> bytes:
        """Return up to `count` bytes from `start` of the queue, which stays as it is."""
        parts: list[Chunk] = []
        for chunk in tuple(self.chunks or ()):
            if count <= 0:
                break
            if start >= len(chunk):
                start -= len(chunk)
                continue
            part = chunk[start : start + count]
            parts.append(part)
            count -= len(part)
            start = 0
        return b"".join(parts)

    def cut(self, count: int) -> None:
        """Drop what is behind the first `count` bytes, the urgent one perhaps."""
        kept = self.peek(count)
        self.chunks = [kept] if kept else None
        self.used = count = len(kept)
        if self.urg_at >= count:
            self.urg = 0

    def drop(self) -> None:
        """Drop everything."""
        self.chunks = None
        self.used = 0
        self.urg = 0

    # The urgent byte: tcp_check_urg() and what tcp_recvmsg() makes of it.

    def mark_urgent(self, data: bytes) -> None:
        """The last byte of `data`, which come next, is urgent.

        An urgent byte before it that has not been passed becomes ordinary data,
        unless it is the next to be read: then it is gone.
        """
        if self.urg and not self.urg_at and not self.oobinline and self.used:
            self.take(1)
        self.urg = URG_VALID
        self.urg_at = self.used + len(data) - 1
        self.urg_byte = data[-1:]

    def take_ordinary(self, count: int) -> bytes:
        """Take data up to the urgent byte; the byte itself is passed, unless inline."""
        if not self.urg:
            return self.take(count)
        if not self.urg_at:
            self.urg = 0
            if not self.oobinline:
                self.take(1)
            return self.take(count)
        data = self.take(min(count, self.urg_at))
        self.urg_at -= len(data)
        return data

    def peek_ordinary(self, count: int) -> bytes:
        """Return what `take_ordinary` would."""
        if not self.urg:
            return self.peek(count)
        if not self.urg_at:
            return self.peek(count, 0 if self.oobinline else 1)
        return self.peek(min(count, self.urg_at))

    def at_mark(self) -> bool:
        """Return whether the urgent byte is the next one (SIOCATMARK)."""
        return bool(self.urg and not self.urg_at)

    def waiting(self) -> int:
        """Return how many bytes can be read before the urgent one (SIOCINQ)."""
        if self.urg and not self.oobinline and self.urg_at < self.used:
            return self.urg_at
        return self.used
