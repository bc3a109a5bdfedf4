"""The stream transport: protocols over a connected user socket, on any loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import sys
from asyncio import constants
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from .._asyncio import SENDFILE_BY_WRITING
from ..events import ERR, IN, OUT
from ..hot.stream import StreamIO
from ..sockets import UserSocket
from .base import READ, TERMINAL, SocketTransport, logger
from .errors import RETRY

if TYPE_CHECKING:
    from .server import Server

__all__ = ["StreamTransport"]

# Up to so many bytes are joined where they wait in short pieces.
_JOINED: Final = 64 * 1024


class StreamTransport(SocketTransport):
    """A `asyncio.Transport` over a connected stream socket.

    Behaves as the transport that asyncio's selector loop makes for a kernel socket:
    `write` tries to send at once; what does not fit is buffered under flow control.
    Immutable bytes are buffered by reference, mutable buffers are copied.
    """

    _start_tls_compatible = True
    _sendfile_compatible = SENDFILE_BY_WRITING

    # Few connections have one: a place in each object would be memory for nothing.
    _file_sender: asyncio.Task[Any] | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: UserSocket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        peername: Any = None,
        server: Server | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._eof = False
        # Not everybody may write: `write_eof` was called, or a file is being sent.
        self._guarded = False
        receive, send, sockname, peername = sock.begin_stream(peername)
        self._io = io = StreamIO(self, send, receive, self.max_size, self._high_water)
        # The class has the method, the object the way without a detour.
        self.write = io.write  # type: ignore[method-assign]
        super().__init__(loop, sock, protocol, waiter, (sockname, peername), server, context)

    # Reading.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._io.protocol = protocol  # type: ignore[assignment]
        self._buffered = buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self._reader = self._read_into_buffer if buffered else self._io.read
        interest = self._interest
        if interest:
            if interest == READ:
                self._watch.callback = self._reader
            self._io.reading = interest & IN != 0 and not buffered

    def _ready(self, mask: int) -> None:
        interest = self._interest
        if interest & IN and mask & (READ | TERMINAL):
            self._reader(mask)
        if interest & OUT and mask & (OUT | TERMINAL):
            if self._io.buffer and not self._conn_lost:
                self._io.flush(mask)
        elif interest == ERR:
            self._terminal_while_idle()

    # For StreamIO, as are the public methods without a place in asyncio's transports.

    def read_raised(self, exc: BaseException, mask: int) -> None:
        """Take what receiving raised (`StreamOwner`)."""
        if isinstance(exc, RETRY):
            self._would_block(mask, "Fatal read error on socket transport")
        else:
            self._fatal_error(exc, "Fatal read error on socket transport")

    def received_raised(self, exc: BaseException) -> None:
        """Take what the protocol raised (`StreamOwner`)."""
        self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    def goes_on(self) -> bool:
        """Return whether there is more to be read right now (`StreamOwner`)."""
        vpoll = self._sock.vpoll
        file = vpoll.file
        if file is None:
            return False
        return (file.mask if file.pending is None else vpoll.peek()) & IN != 0

    def _read_into_buffer(self, mask: int) -> None:
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return
        try:
            count = self._sock.do_recv_into(memoryview(buffer).cast("B"), 0)
        except RETRY:
            self._would_block(mask, "Fatal read error on socket transport")
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return
        if not count:
            self.read_eof()
            return
        try:
            self._protocol.buffer_updated(count)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")

    def read_eof(self) -> None:
        """Take the end of the stream (`StreamOwner`)."""
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        self._ended = True
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            self._refresh()
        else:
            self.close()

    # Writing.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send `data`, buffering what cannot be sent at once.

        Raises TypeError for what is not bytes-like, and RuntimeError after `write_eof` and
        while a file is being sent.
        """
        self._io.write(data)

    def write_other(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Do what `write` does, in every case (`StreamOwner`)."""
        immutable = type(data) is bytes
        if not immutable and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if self._guarded:
            self._check_writer("write")
        if not data:
            return
        if self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        rest: bytes | memoryview = data if immutable else memoryview(data).cast("B")  # type: ignore[assignment]
        io = self._io
        if not io.buffer and not io.full:
            try:
                sent = self._sock.do_send(rest, 0, None)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self.write_raised(rest, exc)
                return
            if sent == len(rest):
                return
            if sent:
                rest = memoryview(rest)[sent:]
        io.keep(rest if immutable else bytes(rest))

    def write_raised(self, data: bytes | memoryview, exc: BaseException) -> None:
        """Take what sending raised (`StreamOwner`)."""
        if isinstance(exc, RETRY):
            self._io.keep(data if type(data) is bytes else bytes(data))
        else:
            self._fatal_error(exc, "Fatal write error on socket transport")

    def _refresh(self) -> None:
        super()._refresh()
        self._io.reading = self._interest & IN != 0 and not self._buffered
        self._allow_direct()

    def _allow_direct(self) -> None:
        io = self._io
        io.open = not (self._conn_lost or self._guarded)
        io.direct = io.open and not (io.buffer or io.full)

    def _check_writer(self, caller: str) -> None:
        if self._eof:
            raise RuntimeError(f"Cannot call {caller}() after write_eof()")
        # The task that sends the file does nothing else meanwhile.
        if self._file_sender is not asyncio.current_task(self._loop):
            raise RuntimeError(f"unable to {caller}; sendfile is in progress")

    @contextlib.contextmanager
    def sending_file(self) -> Iterator[None]:
        """Refuse writes of all but the running task meanwhile.

        Raises RuntimeError when that is so already.
        """
        if self._file_sender is not None:
            raise RuntimeError("sendfile is already in progress")
        self._file_sender = asyncio.current_task(self._loop)
        self._guarded = True
        self._allow_direct()
        try:
            yield
        finally:
            self._file_sender = None
            self._guarded = self._eof
            self._allow_direct()

    def waits(self) -> None:
        """Wait until the socket takes more (`StreamOwner`)."""
        if not self._interest & OUT:
            self._refresh()

    def too_much(self) -> None:
        """Have the protocol pause (`StreamOwner`)."""
        self._maybe_pause_protocol()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set from when on the protocol pauses, and goes on, as `asyncio.WriteTransport`."""
        super().set_write_buffer_limits(high, low)
        self._io.high = int(min(self._high_water, sys.maxsize))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Send the concatenation of `list_of_data`, as `write` does."""
        if self._guarded:
            self._check_writer("writelines")
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Shut down the sending direction once all that is buffered has been sent."""
        if self._closing or self._eof:
            return
        self._eof = self._guarded = True
        self._allow_direct()
        if not self._io.buffer:
            self._shut_down_writing()

    def can_write_eof(self) -> bool:
        """Return True: a stream can be half-closed."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent."""
        return self._io.size

    def _pending_writes(self) -> bool:
        return bool(self._io.buffer)

    def _discard_writes(self) -> None:
        io = self._io
        if io.buffer:
            io.buffer.clear()
            io.size = 0

    def is_full(self) -> bool:
        """Return whether the socket would take nothing now (`StreamOwner`)."""
        return not self._sock.vpoll.peek() & OUT

    def join_waiting(self) -> bytes | memoryview:
        """Join short pieces at the head of what waits; return the head (`StreamOwner`)."""
        buffer = self._io.buffer
        assert buffer
        parts = []
        size = 0
        while buffer and size + len(buffer[0]) <= _JOINED:
            part = buffer.popleft()
            parts.append(part)
            size += len(part)
        joined = b"".join(parts)
        buffer.appendleft(joined)
        return joined

    def flush_raised(self, exc: BaseException, mask: int) -> None:
        """Take what sending raised (`StreamOwner`)."""
        if not isinstance(exc, RETRY):
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        self._would_block(mask, "Fatal write error on socket transport")
        if not self._conn_lost:
            self.flushed()

    def flushed(self) -> None:
        """Do what may be done now that less waits (`StreamOwner`)."""
        io = self._io
        self._allow_direct()
        if self._protocol_paused:
            self._maybe_resume_protocol()
        # resume_writing may have written, closed or aborted.
        if io.buffer or self._conn_lost:
            return
        if self._closing:
            self._conn_lost += 1
            self._refresh()
            self._call_connection_lost(None)
            return
        if self._eof:
            self._shut_down_writing()
        self._refresh()

    def _shut_down_writing(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            # The peer reset the connection meanwhile.
            self._fatal_error(exc, "Fatal write error on socket transport")

    def _give_back(self) -> None:
        # asyncio's transports let go of it too: it is freed without the cycle collector.
        self._io.protocol = None
        super()._give_back()
