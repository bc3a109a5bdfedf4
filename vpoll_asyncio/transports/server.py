"""The server: listens on user sockets, makes a transport for each connection."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import ssl
import sys
from asyncio import constants
from collections.abc import Callable
from typing import Any, Final

from ..events import IN
from ..sockets import UserSocket
from ..stacks.base import activated
from ..watch import Watch
from .alive import drop, held, hold
from .base import SocketTransport, logger
from .errors import RETRY, closed_error, stack_down
from .stream import StreamTransport
from .tls import make_tls
from .view import SocketView

__all__ = ["Server"]

# Connections that one turn accepts at most, whatever the backlog.
_ACCEPTS: Final = 64
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# gh-79033: before 3.12 a closed server did not wait for its connections.
_WAITS_FOR_CONNECTIONS: Final = sys.version_info >= (3, 12)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Listener:
    """One listening socket of a server, and the watch that accepts from it."""

    def __init__(self, server: Server, sock: UserSocket, context: contextvars.Context) -> None:
        self.sock = sock
        self._server = server
        self._context = context
        self._watch: Watch | None = None
        self._retry: asyncio.TimerHandle | None = None

    def start(self, backlog: int) -> None:
        self.sock.listen(backlog)
        self._accepts = max(1, min(backlog, _ACCEPTS))
        self._watch = Watch(
            self._server.get_loop(),
            self.sock.vpoll,
            IN,
            self._accept,
            context=self._context,
            owner=self,
        )

    def vpoll_closed(self) -> None:
        self._server.fail(closed_error())

    def unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def stop(self) -> None:
        self.unwatch()
        if self._retry is not None:
            self._retry.cancel()
        self.sock.close()

    def _accept(self, mask: int) -> None:
        # Level-triggered: what this turn leaves waiting calls again.
        for _ in range(self._accepts):
            try:
                connection, address = self.sock.do_accept()
            except RETRY:
                if mask & ~IN:
                    self._trouble(OSError(errno.EIO, "the listening socket hung up"))
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._trouble(exc)
                return
            connection.setblocking(False)
            self._server.accepted(connection, address)
            # To ask once more than there are connections would cost an exception.
            if not self._server.is_serving() or not self._waits():
                return

    def _waits(self) -> bool:
        try:
            return bool(self.sock.vpoll.peek())
        except OSError:
            # Closed, or its kernel object is gone: accept(2) tells.
            return True

    def _trouble(self, exc: OSError) -> None:
        """Report an error of accept(2) and try again later, unless it is for good."""
        if down := stack_down(self.sock):
            self._server.fail(down)
            return
        message = "socket.accept() failed"
        if exc.errno in _OUT_OF_RESOURCES:
            message = "socket.accept() out of system resource"
        loop = self._server.get_loop()
        loop.call_exception_handler(
            {"message": message, "exception": exc, "socket": SocketView(self.sock)}
        )
        # The connection that could not be taken still waits: asking at once would spin.
        assert self._watch is not None
        self._watch.set_interest(0)
        self._retry = loop.call_later(constants.ACCEPT_RETRY_DELAY, self._resume)

    def _resume(self) -> None:
        self._retry = None
        if self._watch is None or not self._server.is_serving():
            return
        if self.sock.vpoll.closed:
            self._server.fail(closed_error())
            return
        self._watch.set_interest(IN)


class Server(asyncio.AbstractServer):
    """An `asyncio.Server` over listening user sockets, on any loop.

    Each connection's protocol is made and called in a copy of the context that the
    server was made in, with the server's stack as the current one.  A stack that is
    closed ends the server: `serve_forever` raises its OSError (ENETDOWN).

    All methods are to be called in the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[UserSocket],
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        ssl_context: ssl.SSLContext | None,
        backlog: int,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl_context
        self._backlog = backlog
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._listeners: list[_Listener] | None = []
        for sock in sockets:
            context = contextvars.copy_context()
            context.run(activated.set, sock.stack)
            self._listeners.append(_Listener(self, sock, context))
        # Only counted: an abandoned transport is still to give its ResourceWarning.
        self._clients = 0
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving = False
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that the server runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """Return whether new connections are accepted."""
        return self._serving

    @property
    def sockets(self) -> tuple[SocketView, ...]:
        """The listening sockets; empty once closed."""
        return tuple(SocketView(listener.sock) for listener in self._listeners or ())

    def begin(self) -> None:
        """Listen and accept from now on.  Raises OSError (EADDRINUSE …)."""
        if self._serving or self._listeners is None:
            return
        self._serving = True
        hold(self._loop, self)
        for listener in self._listeners:
            listener.start(self._backlog)

    def unwatch(self) -> None:
        """Hear of no connections any more: the loop has been closed."""
        for listener in self._listeners or ():
            listener.unwatch()

    async def start_serving(self) -> None:
        """Accept connections from now on; nothing changes when that is so already.

        Raises RuntimeError when the server is closed, OSError as listen(2) does.
        """
        if self._listeners is None:
            raise RuntimeError(f"server {self!r} is closed")
        self.begin()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; the server is closed then.

        When this task is cancelled, as Ctrl-C does, connections that are still open are
        not waited for on any Python (3.12 and 3.13 would: gh-123720); when `close` is
        called elsewhere, `wait_closed` decides.

        Raises RuntimeError when the server is closed or somebody else waits here, and
        OSError (ENETDOWN) when the stack is closed meanwhile.
        """
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._listeners is None:
            raise RuntimeError(f"server {self!r} is closed")
        self.begin()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            try:
                self.close()
                if not _is_cancelled():
                    await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        if not _is_cancelled():
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening.  Connections that were accepted stay; closing twice is allowed."""
        listeners, self._listeners = self._listeners, None
        if listeners is None:
            return
        self._serving = False
        drop(self._loop, self)
        for listener in listeners:
            listener.stop()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._wake_if_done()

    def fail(self, exc: OSError) -> None:
        """Close because a listening socket is dead; `serve_forever` raises `exc`."""
        forever, self._forever = self._forever, None
        self.close()
        if forever is not None and not forever.done():
            forever.set_exception(exc)
            return
        self._loop.call_exception_handler(
            {"message": "A server's listening socket is gone", "exception": exc}
        )

    def close_clients(self) -> None:
        """Close every connection of the server, sending what is buffered."""
        for transport in self._connections():
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection of the server at once."""
        for transport in self._connections():
            transport.abort()

    def _connections(self) -> list[SocketTransport]:
        return [
            thing
            for thing in held(self._loop)
            if isinstance(thing, SocketTransport) and thing.belongs_to(self)
        ]

    async def wait_closed(self) -> None:
        """Wait until the server is closed and, from Python 3.12 on, its connections too."""
        if self._waiters is None or (self._listeners is None and not _WAITS_FOR_CONNECTIONS):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake_if_done(self) -> None:
        if self._listeners is None and not self._clients:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters or ():
                if not waiter.done():
                    waiter.set_result(None)

    # What listeners and transports call.

    def attach(self) -> None:
        """Count one more connection."""
        self._clients += 1

    def detach(self) -> None:
        """Count one connection less."""
        self._clients -= 1
        self._wake_if_done()

    def accepted(self, sock: UserSocket, address: Any) -> None:
        """Serve the connection `sock`, in a context of its own."""
        if self._loop.get_debug():
            logger.debug("%r got a new connection from %r: %r", self, address, sock)
        context = contextvars.copy_context()
        context.run(self._serve, sock, address, context)

    def _serve(self, sock: UserSocket, address: Any, context: contextvars.Context) -> None:
        protocol: asyncio.BaseProtocol | None = None
        try:
            protocol = self._protocol_factory()
            if self._ssl_context is None:
                StreamTransport(
                    self._loop, sock, protocol, peername=address, server=self, context=context
                )
                return
            make_tls(
                self._loop,
                sock,
                protocol,
                self._ssl_context,
                server_side=True,
                peername=address,
                server=self,
                ssl_handshake_timeout=self._ssl_handshake_timeout,
                ssl_shutdown_timeout=self._ssl_shutdown_timeout,
                context=context,
            )
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            sock.close()
            self._loop.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                    "protocol": protocol,
                }
            )
