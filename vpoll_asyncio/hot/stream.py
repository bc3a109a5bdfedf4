"""The everyday of a stream transport: bytes that the socket takes, data that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from .accelerator import ACCELERATOR

__all__ = ["StreamIO", "StreamOwner"]

# More of what comes in pieces of this size goes to the protocol in the same turn.
_LARGE: Final = 16 * 1024


class StreamOwner(Protocol):
    """What a `StreamIO` asks of its transport: all that is not everyday."""

    def write_other(self, data: Any) -> None:
        """Do what `write` does, in every case."""

    def write_rest(self, data: bytes, sent: int) -> None:
        """The socket took only the first `sent` bytes of `data`."""

    def write_raised(self, data: bytes, exc: BaseException) -> None:
        """The socket took nothing of `data`."""

    def read_raised(self, exc: BaseException, mask: int) -> None:
        """Receiving raised `exc`, where `mask` was pending."""

    def read_eof(self) -> None:
        """The stream has ended."""

    def received_raised(self, exc: BaseException) -> None:
        """The protocol's `data_received` raised `exc`."""

    def goes_on(self) -> bool:
        """Return whether there is more to be read right now."""


class StreamIO:
    """`write` and `read` of one transport.

    send -- takes ``(data, 0, None)``, as `SocketHooks.do_send`
    receive -- takes a size, as `SocketHooks.do_recv_some`
    limit -- bytes that one `read` gives to the protocol at most
    """

    __slots__ = ("direct", "limit", "owner", "protocol", "reading", "receive", "send")

    def __init__(
        self,
        owner: StreamOwner,
        send: Callable[[bytes, int, None], int],
        receive: Callable[[int], bytes],
        limit: int,
    ) -> None:
        self.owner = owner
        self.send = send
        self.receive = receive
        self.limit = limit
        self.direct = False
        """Whether `write` may send at once: nothing waits to be sent, nothing forbids it."""
        self.reading = False
        """Whether the protocol wants what `read` can give it."""
        self.protocol: asyncio.Protocol | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send `data`: `StreamTransport.write`."""
        if type(data) is not bytes or not self.direct or not data:
            self.owner.write_other(data)
            return
        try:
            sent = self.send(data, 0, None)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.owner.write_raised(data, exc)
            return
        if sent != len(data):
            self.owner.write_rest(data, sent)

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
