"""The stream transport: protocols over a connected user socket, on any loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import socket
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

# One turn of writing: pieces shorter than this are joined, up to the second number.
_LARGE: Final = 16 * 1024
_JOINED: Final = 64 * 1024
# Sends in one turn, so that a stack that takes everything does not keep the loop.
_SENDS: Final = 16

# Stands for the buffer until something has to wait: empty for ever.
_NOTHING: Final[collections.deque[bytes | memoryview]] = collections.deque(maxlen=0)


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
        self._buffer = _NOTHING
        self._buffer_size = 0
        self._eof = False
        # The socket was last seen without OUT: it would take nothing, at the cost of an
        # exception.  Its watch tells when it does again.
        self._full = False
        # Not everybody may write: `write_eof` was called, or a file is being sent.
        self._guarded = False
        receive, send, sockname, peername = sock.begin_stream(peername)
        self._io = io = StreamIO(self, send, receive, self.max_size)
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
            if self._buffer and not self._conn_lost:
                self._write_ready(mask)
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
        return not vpoll.closed and bool(vpoll.peek() & IN)

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
        if not self._buffer and not self._full:
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
        self._keep(rest if immutable else bytes(rest))

    def write_rest(self, data: bytes, sent: int) -> None:
        """Keep what the socket did not take (`StreamOwner`)."""
        self._keep(memoryview(data)[sent:])

    def write_raised(self, data: bytes | memoryview, exc: BaseException) -> None:
        """Take what sending raised (`StreamOwner`)."""
        if isinstance(exc, RETRY):
            self._keep(data if type(data) is bytes else bytes(data))
        else:
            self._fatal_error(exc, "Fatal write error on socket transport")

    def _refresh(self) -> None:
        super()._refresh()
        self._io.reading = self._interest & IN != 0 and not self._buffered
        self._allow_direct()

    def _allow_direct(self) -> None:
        self._io.direct = not (self._buffer or self._full or self._conn_lost or self._guarded)

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

    def _keep(self, data: bytes | memoryview) -> None:
        if self._buffer is _NOTHING:
            self._buffer = collections.deque()
        self._buffer.append(data)
        self._buffer_size += len(data)
        self._refresh()
        self._maybe_pause_protocol()

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
        if not self._buffer:
            self._shut_down_writing()

    def can_write_eof(self) -> bool:
        """Return True: a stream can be half-closed."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent."""
        return self._buffer_size

    def _pending_writes(self) -> bool:
        return bool(self._buffer)

    def _discard_writes(self) -> None:
        self._buffer.clear()
        self._buffer_size = 0

    def _write_ready(self, mask: int) -> None:
        buffer = self._buffer
        try:
            for _ in range(_SENDS):
                piece = self._next_piece()
                sent = self._sock.do_send(piece, 0, None)
                self._buffer_size -= sent
                if sent == len(piece):
                    buffer.popleft()
                else:
                    buffer[0] = memoryview(piece)[sent:]
                self._full = not self._sock.vpoll.peek() & OUT
                if self._full or not buffer:
                    break
        except RETRY:
            self._would_block(mask, "Fatal write error on socket transport")
            if self._conn_lost:
                return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        self._allow_direct()
        self._maybe_resume_protocol()
        # resume_writing may have written, closed or aborted.
        if buffer or self._conn_lost:
            return
        if self._closing:
            self._conn_lost += 1
            self._refresh()
            self._call_connection_lost(None)
            return
        if self._eof:
            self._shut_down_writing()
        self._refresh()

    def _next_piece(self) -> bytes | memoryview:
        """Return the head of the buffer, short pieces joined there into one."""
        buffer = self._buffer
        head = buffer[0]
        if len(head) >= _LARGE or len(buffer) == 1:
            return head
        parts = []
        size = 0
        while buffer and size + len(buffer[0]) <= _JOINED:
            part = buffer.popleft()
            parts.append(part)
            size += len(part)
        joined = b"".join(parts)
        buffer.appendleft(joined)
        return joined

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
