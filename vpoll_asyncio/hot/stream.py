"""The everyday of a stream transport: bytes that the socket takes, or not yet, and that it has."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from .accelerator import ACCELERATOR

__all__ = ["StreamIO", "StreamOwner"]

# More of what comes in pieces of this size goes to the protocol in the same turn.  What
# waits in shorter ones is joined before it is sent.
_LARGE: Final = 16 * 1024
# Sends in one turn, so that a stack that takes everything does not keep the loop.
_SENDS: Final = 16

Piece = bytes | memoryview


def negative(count: int) -> ValueError:
    """Return the error of a stack that answers a send with `count`."""
    return ValueError(f"sent {count} bytes: expected 0 or more, or an exception")


class StreamOwner(Protocol):
    """What a `StreamIO` asks of its transport: all that is not everyday."""

    def write_other(self, data: Any) -> None:
        """Do what `write` does, in every case."""

    def write_raised(self, data: bytes, exc: BaseException) -> None:
        """The socket took nothing of `data`."""

    def waits(self) -> None:
        """Something waits to be sent, where nothing did."""

    def too_much(self) -> None:
        """More waits than `StreamIO.high`."""

    def join_waiting(self) -> Piece:
        """Join short pieces at the head of `StreamIO.buffer`; return the head."""

    def is_full(self) -> bool:
        """Return whether the socket would take nothing now."""

    def flush_raised(self, exc: BaseException, mask: int) -> None:
        """Sending what waits raised `exc`, where `mask` was pending."""

    def flushed(self) -> None:
        """Less waits to be sent, or nothing any more."""

    def read_raised(self, exc: BaseException, mask: int) -> None:
        """Receiving raised `exc`, where `mask` was pending."""

    def read_eof(self) -> None:
        """The stream has ended."""

    def received_raised(self, exc: BaseException) -> None:
        """The protocol's `data_received` raised `exc`."""

    def goes_on(self) -> bool:
        """Return whether there is more to be read right now."""


class StreamIO:
    """`write`, `flush` and `read` of one transport.

    send -- takes ``(data, 0, None)``, as `SocketHooks.do_send`
    receive -- takes a size, as `SocketHooks.do_recv_some`
    limit -- bytes that one `read` gives to the protocol at most
    high -- from how many bytes on that wait the owner hears that they are `too_much`
    """

    __slots__ = (
        "buffer",
        "direct",
        "full",
        "high",
        "limit",
        "open",
        "owner",
        "protocol",
        "reading",
        "receive",
        "send",
        "size",
    )

    def __init__(
        self,
        owner: StreamOwner,
        send: Callable[[bytes | memoryview, int, None], int],
        receive: Callable[[int], bytes],
        limit: int,
        high: int,
    ) -> None:
        self.owner = owner
        self.send = send
        self.receive = receive
        self.limit = limit
        self.high = high
        self.buffer: collections.deque[Piece] | None = None
        """What waits to be sent, bytes and views of bytes; None until something has to."""
        self.size = 0
        """Bytes in `buffer`."""
        self.full = False
        """Whether the socket would take nothing, at the cost of an exception."""
        self.open = False
        """Whether anybody may write bytes."""
        self.direct = False
        """Whether `write` may send at once: `open`, with an empty `buffer`, and not `full`."""
        self.reading = False
        """Whether the protocol wants what `read` can give it."""
        self.protocol: asyncio.Protocol | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send `data`: `StreamTransport.write`."""
        if type(data) is not bytes or not data or not self.open:
            self.owner.write_other(data)
            return
        if not self.direct:
            self.keep(data)
            return
        try:
            sent = self.send(data, 0, None)
            if sent < 0:
                raise negative(sent)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.owner.write_raised(data, exc)
            return
        if sent != len(data):
            self.keep(memoryview(data)[sent:])

    def keep(self, data: Piece) -> None:
        """Have `data`, which is not empty, wait to be sent."""
        buffer = self.buffer
        if buffer is None:
            buffer = self.buffer = collections.deque()
        was_empty = not buffer
        buffer.append(data)
        self.size += len(data)
        if was_empty:
            self.direct = False
            self.owner.waits()
        if self.size > self.high:
            self.owner.too_much()

    def flush(self, mask: int) -> None:
        """Send what waits, as much as the socket takes."""
        buffer = self.buffer
        assert buffer
        try:
            for _ in range(_SENDS):
                piece = buffer[0]
                if len(piece) < _LARGE and len(buffer) > 1:
                    piece = self.owner.join_waiting()
                sent = self.send(piece, 0, None)
                if sent < 0:
                    raise negative(sent)
                self.size -= sent
                if sent == len(piece):
                    buffer.popleft()
                else:
                    buffer[0] = memoryview(piece)[sent:]
                self.full = self.owner.is_full()
                if self.full or not buffer:
                    break
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.owner.flush_raised(exc, mask)
            return
        self.owner.flushed()

    def read(self, mask: int) -> None:
        """Receive what waits and give it to the protocol."""
        left = self.limit
        while True:
            try:
                data = self.receive(left)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self.owner.read_raised(exc, mask)
                return
            if not data:
                self.owner.read_eof()
                return
            try:
                self.protocol.data_received(data)  # type: ignore[union-attr]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self.owner.received_raised(exc)
                return
            if len(data) < _LARGE:
                return
            left -= len(data)
            if left < _LARGE or not (self.reading and self.owner.goes_on()):
                return


if not TYPE_CHECKING and ACCELERATOR is not None:
    StreamIO = ACCELERATOR.StreamIO
