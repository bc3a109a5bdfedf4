"""Forwarding UDP datagrams: each client has a socket of its own towards the target."""

from __future__ import annotations

import asyncio
import collections
import errno
from typing import Any, Final, Self, cast

from .. import streams
from .address import End
from .base import Forward, logger

__all__ = ["UdpForward"]

# Datagrams of a client that wait for its socket to be made.
_EARLY: Final = 64


class _Listener(asyncio.DatagramProtocol):
    """Receives what clients send."""

    def __init__(self, owner: UdpForward) -> None:
        self._owner = owner
        self.transport: asyncio.DatagramTransport | None = None
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._owner.client(addr).send(data)

    def error_received(self, exc: Exception) -> None:
        # A reply did not reach its client, which may have gone: others go on.
        self._owner.errors += 1

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.listener_lost()


class _Client(asyncio.DatagramProtocol):
    """What one client sent goes out of here, and the replies come in."""

    def __init__(self, owner: UdpForward, address: Any) -> None:
        self._owner = owner
        self.address = address
        self.last = 0.0
        self.transport: asyncio.DatagramTransport | None = None
        self._early: list[bytes] = []
        self._full = False
        self._closed = False
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        target = self._owner.target
        await streams.create_datagram_endpoint(
            lambda: self, remote_addr=(target.host or "", target.port), stack=target.stack
        )

    def _connected(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.warning("%r: no socket towards the target: %s", self._owner, exc)
            self._owner.errors += 1
            self._owner.forget(self)
        if self.transport is None:
            self._owner.client_lost(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        if self._closed:
            transport.close()
            return
        early, self._early = self._early, []
        for data in early:
            self.send(data)

    def send(self, data: bytes) -> None:
        if self._closed or self._full or (self.transport is None and len(self._early) == _EARLY):
            self._owner.dropped += 1
        elif self.transport is None:
            self._early.append(data)
        else:
            self.transport.sendto(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self._closed:
            self._owner.reply(self, data)

    def error_received(self, exc: Exception) -> None:
        # ECONNREFUSED: nobody listens at the target yet, or any more.  The client tries again.
        self._owner.errors += 1

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.forget(self)
        self._owner.client_lost(self)

    def close(self) -> None:
        self._closed = True
        if self.transport is None:
            self._connecting.cancel()
        else:
            self.transport.abort()


class UdpForward(Forward):
    """A forwarded UDP port."""

    def __init__(self, source: End, target: End, idle_timeout: float, max_clients: int) -> None:
        super().__init__(source, target)
        if idle_timeout <= 0:
            raise ValueError(f"idle_timeout {idle_timeout!r}: expected seconds above 0")
        if max_clients < 1:
            raise ValueError(f"max_clients {max_clients!r}: expected at least 1")
        self._idle_timeout = idle_timeout
        self._max_clients = max_clients
        self._loop = asyncio.get_running_loop()
        # The one that was idle longest comes first.
        self._clients: collections.OrderedDict[Any, _Client] = collections.OrderedDict()
        # Those whose sockets are not closed yet, forgotten ones too.
        self._open: set[_Client] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._listener = _Listener(self)
        self._listening = False
        self.dropped = 0
        """Datagrams dropped because a buffer was full."""
        self.errors = 0
        """Errors of single datagrams, such as ECONNREFUSED from the target."""

    @classmethod
    async def start(cls, source: End, target: End, idle_timeout: float, max_clients: int) -> Self:
        """Receive at `source`.  Raises OSError as bind(2) does."""
        if source.host is None:
            raise ValueError(f"source {source}: for UDP name the address, '0.0.0.0' or '[::]'")
        self = cls(source, target, idle_timeout, max_clients)
        await streams.create_datagram_endpoint(
            lambda: self._listener, local_addr=(source.host, source.port), stack=source.stack
        )
        self._listening = True
        return self

    @property
    def target(self) -> End:
        """Where datagrams go."""
        return self._target

    @property
    def sockets(self) -> tuple[Any, ...]:
        transport = self._listener.transport
        if transport is None or self._closing:
            return ()
        return (transport.get_extra_info("socket"),)

    @property
    def connections(self) -> int:
        return len(self._clients)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listener.transport is not None:
            self._listener.transport.abort()
        for client in list(self._clients.values()):
            self.forget(client)
        self._finish()

    def _finish(self) -> None:
        if self._closing and not self._listening and not self._open:
            self._done.set()

    # Clients.

    def client(self, address: Any) -> _Client:
        """Return the client at `address`, a new one if need be, as the latest used."""
        client = self._clients.get(address)
        if client is None:
            if len(self._clients) >= self._max_clients:
                self.forget(next(iter(self._clients.values())))
            client = self._clients[address] = _Client(self, address)
            self._open.add(client)
        self._touch(client)
        return client

    def _touch(self, client: _Client) -> None:
        client.last = self._loop.time()
        self._clients.move_to_end(client.address)
        if self._timer is None:
            self._timer = self._loop.call_at(client.last + self._idle_timeout, self._expire)

    def _expire(self) -> None:
        self._timer = None
        limit = self._loop.time() - self._idle_timeout
        while self._clients:
            oldest = next(iter(self._clients.values()))
            if oldest.last > limit:
                self._timer = self._loop.call_at(oldest.last + self._idle_timeout, self._expire)
                return
            self.forget(oldest)

    def forget(self, client: _Client) -> None:
        """Close `client`; what its address sends from now on makes a new one."""
        if self._clients.get(client.address) is client:
            del self._clients[client.address]
        client.close()

    def client_lost(self, client: _Client) -> None:
        """Note that the socket of `client` is closed."""
        self._open.discard(client)
        self._finish()

    def reply(self, client: _Client, data: bytes) -> None:
        """Send what the target answered to `client`."""
        if self._clients.get(client.address) is client:
            self._touch(client)
        transport = self._listener.transport
        if transport is None or self._listener.full or transport.is_closing():
            self.dropped += 1
            return
        try:
            transport.sendto(data, client.address)
        except OSError as exc:
            if exc.errno != errno.EMSGSIZE:
                raise
            self.dropped += 1

    def listener_lost(self) -> None:
        """Note that the listening socket is closed, by us or by its stack."""
        self._listening = False
        self.close()
        self._finish()
