"""What stream and datagram transports share: watching, closing, reporting."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from .._asyncio import FlowControl
from ..ending import unclosed
from ..events import ERR, HUP, IN, OUT, RDHUP
from ..sockets import UserSocket
from ..watch import Watch
from .alive import drop, hold
from .errors import closed_error, pending_error, stack_down
from .view import SocketView

if TYPE_CHECKING:
    from .server import Server

__all__ = ["READ", "TERMINAL", "SocketTransport", "logger"]

# asyncio's own: who filters asyncio's messages means these too.
logger = logging.getLogger("asyncio")

TERMINAL = ERR | HUP
READ = IN | RDHUP


class SocketTransport(FlowControl):
    """A transport over a user socket, on any loop, without a descriptor.

    It waits on the socket's vpoll, level-triggered.  A terminal event (ERR, HUP) that
    nobody can take away ends the watching, so a dead connection costs nothing.  All
    methods are to be called in the loop's thread.

    Callbacks of the protocol run in `context`, by default a copy of the current one.
    """

    max_size: ClassVar[int] = 256 * 1024
    """Bytes that one turn reads at most."""

    _loop: asyncio.AbstractEventLoop
    _protocol: Any
    _closed = True
    _view: SocketView | None = None
    _reader: Callable[[int], None]
    """Reads what waits; called with the mask."""
    if TYPE_CHECKING:

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: UserSocket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        names: tuple[Any, Any] = (None, None),
        server: Server | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._context = contextvars.copy_context() if context is None else context
        self._server = server
        self._conn_lost = 0
        self._closing = False
        self._paused = False
        self._started = False
        # The peer will send no more.
        self._ended = False
        # A terminal event was seen while there was nothing to read or write.
        self._deaf = False
        self._interest = 0
        # As they are now: a connection that has ended has no peer any more.
        self._sockname, self._peername = names
        self._watch = Watch(loop, sock.vpoll, 0, self._ready, context=self._context, owner=self)
        self.set_protocol(protocol)
        self._closed = False
        hold(loop, self)
        if server is not None:
            server.attach()
        loop.call_soon(self._begin, protocol, waiter, context=self._context)

    def _begin(self, protocol: asyncio.BaseProtocol, waiter: asyncio.Future[None] | None) -> None:
        try:
            protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(protocol.connection_made, exc)
        finally:
            self._started = True
            self._refresh()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _report(self, callback: Callable[..., object], exc: BaseException) -> None:
        """Tell the loop of an exception as `asyncio.Handle` does."""
        self._loop.call_exception_handler(
            {
                "message": f"Exception in callback {callback!r}",
                "exception": exc,
                "handle": asyncio.Handle(callback, (self,), self._loop, self._context),
            }
        )

    def unwatch(self) -> None:
        """Hear of no events any more: the loop has been closed."""
        self._watch.cancel()

    def belongs_to(self, server: Server) -> bool:
        """Return whether this is a connection of `server`."""
        return self._server is server

    # What is waited for.

    def _pending_writes(self) -> bool:
        raise NotImplementedError

    def _refresh(self) -> None:
        """Watch for what can be acted upon now."""
        if self._conn_lost:
            interest = 0
        else:
            interest = OUT if self._pending_writes() else 0
            if self._started and not (self._paused or self._closing or self._ended):
                interest |= READ
            if not interest and not self._deaf:
                # Nothing but what is always reported.
                interest = ERR
        if interest != self._interest:
            self._interest = interest
            # Reading is what connections do most of their time.
            watch = self._watch
            watch.callback = self._reader if interest == READ else self._ready
            if interest:
                watch.set_interest(interest)
            else:
                watch.wanted = 0

    def _ready(self, mask: int) -> None:
        interest = self._interest
        if interest & IN and mask & (READ | TERMINAL):
            self._reader(mask)
        if interest & OUT and mask & (OUT | TERMINAL):
            if self._pending_writes() and not self._conn_lost:
                self._write_ready(mask)
        elif interest == ERR:
            self._terminal_while_idle()

    def _write_ready(self, mask: int) -> None:
        raise NotImplementedError

    def _terminal_while_idle(self) -> None:
        if self._conn_lost:
            return
        # Paused: what was received before the error is still to be read, in its time.
        error = pending_error(self._sock) if self._ended else stack_down(self._sock)
        if error is not None:
            self._fatal_error(error, "Fatal error on socket transport")
            return
        self._deaf = True
        self._refresh()

    def _would_block(self, mask: int, message: str) -> None:
        """Make sure that a socket that reports ERR or HUP yet does nothing is given up."""
        if mask & TERMINAL and self._sock.vpoll.peek() & TERMINAL:
            error = pending_error(self._sock)
            self._fatal_error(error or ConnectionResetError("the connection hung up"), message)

    def vpoll_closed(self) -> None:
        """End the transport: somebody has closed its socket."""
        self._fatal_error(closed_error(), "The socket was closed under its transport")

    # What programs call.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what `asyncio.BaseTransport.get_extra_info` has of a connection.

        "socket" is a `SocketView`; "sockname" and "peername" are what they were at first,
        None where the socket had none.
        """
        if name == "peername":
            return self._peername
        if name == "sockname":
            return self._sockname
        if name != "socket":
            return default
        if self._view is None:
            self._view = SocketView(self._sock)
        return self._view

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Call `protocol` from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol; None once `connection_lost` has been called."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closed or being closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Return whether received data goes to the protocol."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Call the protocol with no more data until `resume_reading`."""
        if self._closing or self._paused:
            return
        self._paused = True
        self._refresh()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._closing or not self._paused:
            return
        self._paused = self._deaf = False
        self._refresh()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def close(self) -> None:
        """Stop reading, send what is buffered, then close the socket.

        The protocol's `connection_lost` is called with None afterwards.
        """
        if self._closing:
            return
        self._closing = True
        if not self._pending_writes():
            self._lose(None)
        self._refresh()

    def abort(self) -> None:
        """Close the socket without sending what is buffered."""
        self._force_close(None)

    # How it ends.

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        else:
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        self._force_close(exc)

    # The name that asyncio.sslproto calls.
    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._discard_writes()
        self._closing = True
        self._lose(exc)
        self._refresh()

    def _discard_writes(self) -> None:
        raise NotImplementedError

    def _lose(self, exc: BaseException | None) -> None:
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self._closed = True
        self._protocol = None
        self._watch.cancel()
        drop(self._loop, self)
        try:
            self._sock.close()
        finally:
            server, self._server = self._server, None
            if server is not None:
                server.detach()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "closing" if self._closing else "open"
        reading = "polling" if self._interest & IN else "idle"
        writing = "polling" if self._interest & OUT else "idle"
        return (
            f"<{type(self).__name__} {state} {self._sockname} "
            f"peer={self._peername} read={reading} "
            f"write=<{writing}, bufsize={self.get_write_buffer_size()}>>"
        )

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if not self._closed:
            _unclosed(self, self._give_back, kind="transport ")
