"""Forwarding TCP connections: each is two transports that write to one another."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final, Self, cast

from .. import streams
from .address import End
from .base import Forward, logger

__all__ = ["TcpForward"]

# struct linger: on, 0 seconds.
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def _reset(transport: asyncio.WriteTransport) -> None:
    """Abort `transport` so that its peer sees an error, not the end of a complete stream."""
    if not transport.is_closing():
        try:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        except OSError:
            pass
    transport.abort()


class _Side(asyncio.Protocol):
    """One of the two transports of a connection."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.other: _Side = self
        # Received before the other side was there: at most what one turn reads.
        self.early: list[bytes] = []
        self.ended = False
        self.lost = False
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)
        self._connection.joined(self)

    def data_received(self, data: bytes) -> None:
        receiver = self.other.transport
        if receiver is None:
            self.early.append(data)
            self.pause()
        elif not receiver.is_closing():
            receiver.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.pass_end()
        # Half-closed: the other direction goes on.
        return True

    def pass_end(self) -> None:
        """Tell the other side, once it is there, that this one sends no more."""
        receiver = self.other.transport
        if receiver is None:
            return
        if self.other.ended:
            # Both directions have ended: close() first sends what is buffered.
            receiver.close()
            if self.transport is not None:
                self.transport.close()
        elif not receiver.is_closing():
            receiver.write_eof()

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not (self.transport.is_closing() or self.ended):
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.full = True
        self.other.pause()

    def resume_writing(self) -> None:
        self.full = False
        self.other.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._connection.left(self, exc)


class _Connection:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, owner: TcpForward) -> None:
        self._owner = owner
        self.client = _Side(self)
        self.target = _Side(self)
        self.client.other = self.target
        self.target.other = self.client
        self._connecting: asyncio.Task[None] | None = None

    def joined(self, side: _Side) -> None:
        if side is self.client:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
            self._owner.begun(self)
            return
        assert side.transport is not None
        if self.client.lost:
            side.transport.abort()
            return
        for data in self.client.early:
            side.transport.write(data)
        self.client.early.clear()
        if self.client.ended:
            self.client.pass_end()
        elif not side.full:
            self.client.resume()

    async def _connect(self) -> None:
        target = self._owner.target
        await streams.create_connection(
            lambda: self.target, target.host, target.port, stack=target.stack
        )

    def _connected(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.warning("%r: no connection to the target: %s", self._owner, exc)
            self.abort()
        if task.cancelled():
            # uvloop then closes a transport without telling its protocol.
            self.target.lost = True
            if self.target.transport is not None:
                self.target.transport.abort()
        self._finish()

    def left(self, side: _Side, exc: BaseException | None) -> None:
        """Have the other side end as `side` did: with an error, or in order."""
        if side is self.client and self._connecting is not None:
            self._connecting.cancel()
        other = side.other.transport
        if other is not None and not side.other.lost:
            if exc is not None:
                _reset(other)
            else:
                other.close()
        self._finish()

    def _finish(self) -> None:
        connected = self._connecting is None or self._connecting.done()
        if self.client.lost and connected and (self.target.lost or not self.target.transport):
            self._owner.over(self)

    def abort(self) -> None:
        """Reset both sides."""
        if self._connecting is not None:
            self._connecting.cancel()
        for side in (self.client, self.target):
            if side.transport is not None and not side.lost:
                _reset(side.transport)


class TcpForward(Forward):
    """A forwarded TCP port."""

    _server: asyncio.AbstractServer
    _serving: asyncio.Task[None]

    def __init__(self, source: End, target: End) -> None:
        super().__init__(source, target)
        self._connections: set[_Connection] = set()

    @classmethod
    async def start(cls, source: End, target: End, backlog: int) -> Self:
        """Listen at `source`.  Raises OSError as listen(2) does."""
        self = cls(source, target)
        self._server = await streams.create_server(
            lambda: _Connection(self).client,
            source.host,
            source.port,
            stack=source.stack,
            backlog=backlog,
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve_forever())
        self._serving.add_done_callback(self._served)
        return self

    def _served(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.warning("%r: no longer listening: %s", self, exc)
        self.close()
        self._finish()

    @property
    def target(self) -> End:
        """Where connections go."""
        return self._target

    @property
    def sockets(self) -> tuple[Any, ...]:
        server: Any = self._server
        return tuple(server.sockets or ())

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _close(self) -> None:
        self._server.close()
        self._serving.cancel()
        for connection in list(self._connections):
            connection.abort()
        self._finish()

    def _finish(self) -> None:
        if self._closing and not self._connections and self._serving.done():
            self._done.set()

    # What connections call.

    def begun(self, connection: _Connection) -> None:
        """Count `connection`; one that was accepted just before `close` is not served."""
        self._connections.add(connection)
        if self._closing:
            connection.abort()

    def over(self, connection: _Connection) -> None:
        """Count `connection` no more."""
        self._connections.discard(connection)
        self._finish()
