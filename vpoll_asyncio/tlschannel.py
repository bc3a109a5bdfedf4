"""OpenSSL between two buffers, which are filled from and emptied into a stack's socket.

It takes from the socket what one record needs and no byte more, as OpenSSL does over a
descriptor.  So what waits in the socket is what pollers see, and plain data behind a close
notice are still there when `ssl.SSLSocket.unwrap` returns.
"""

from __future__ import annotations

import functools
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ._asyncio import tls_over_buffers
from .events import IN, OUT, RDHUP

if TYPE_CHECKING:
    from .sockhooks import SocketHooks

__all__ = ["TlsChannel", "TlsOwner"]

_Result = TypeVar("_Result")

# RFC 8446, 5.1: type (1 byte), version (2), length (2); most bytes of plain text.
_HEADER: Final = 5
_RECORD: Final = 1 << 14


# After all others OpenSSL refuses whatever it is asked.
_GOES_ON: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLZeroReturnError)


class TlsOwner(Protocol):
    """What a `TlsChannel` asks of its socket."""

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds; None in blocking mode, 0.0 in non-blocking mode."""

    def require_open(self) -> None:
        """Raise OSError (EBADF) when the socket is closed."""

    def wait_until(self, mask: int, deadline: float | None) -> None:
        """Wait for an event of `mask`, at most until `deadline`, of `time.monotonic`.

        Raises TimeoutError, and OSError (EBADF) when the socket is closed meanwhile.
        """


_Error = TypeVar("_Error", bound=ssl.SSLError)


def _error(kind: type[_Error], number: int, text: str) -> _Error:
    """Return an error with the attributes of those that `ssl` makes itself."""
    error = kind(number, text)
    error.library = error.reason = None  # type: ignore[assignment]
    return error


def _refusal(reason: str, text: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
    error.library, error.reason = "SSL", reason
    return error


def _end_of_file() -> ssl.SSLError:
    return _error(ssl.SSLEOFError, ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")


def _zero_return() -> ssl.SSLError:
    return _error(
        ssl.SSLZeroReturnError,
        ssl.SSL_ERROR_ZERO_RETURN,
        "TLS/SSL connection has been closed (EOF)",
    )


def _want_write() -> ssl.SSLError:
    return _error(
        ssl.SSLWantWriteError, ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)"
    )


class TlsChannel:
    """OpenSSL's side of one `UserSSLSocket`: what that calls its ``_sslobj``.

    Parameters:
    owner -- the socket, which is waited for and whose timeout counts
    hooks -- where encrypted bytes come from and go to

    Any number of threads may use one at a time.  The timeout is for a whole call, and
    what is asked of the connection besides (`ssl.SSLSocket.cipher` and its like) is
    OpenSSL's to answer.
    """

    def __init__(
        self,
        owner: TlsOwner,
        hooks: SocketHooks,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None,
        session: ssl.SSLSession | None,
    ) -> None:
        # The owner has the channel, and is to be collected as soon as nobody has it.
        self._owner = weakref.ref(owner)
        self._hooks = hooks
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # OpenSSL calls back (SNI), and the callback may ask the socket anything.
        self._lock = threading.RLock()
        # Encrypted bytes that the socket has not taken yet.
        self._unsent: memoryview = memoryview(b"")
        # What has come of a record's header, and what is still to come of its body.
        self._header = bytearray()
        self._body = 0
        # Of a write that could not be completed: how much of it is encrypted, and how much
        # the next one must bring.
        self._begun = (0, 0)
        # The peer's close notice has come; OpenSSL can do nothing more; a record of data could
        # not be sent, which it would try again before any other.
        self._ended = self._broken = self._stuck = False
        # Our own close notice has been written, or could not be: no data may follow.
        self._notified = self._silenced = False
        self._tls = tls_over_buffers(
            context, self._incoming, self._outgoing, server_side, server_hostname, owner, session
        )

    @property
    def context(self) -> ssl.SSLContext:
        """The context; a callback of SNI may set another."""
        context: ssl.SSLContext = self._tls.context
        return context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._tls.context = context

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session, to be resumed by another client."""
        session: ssl.SSLSession | None = self._tls.session
        return session

    @session.setter
    def session(self, session: ssl.SSLSession) -> None:
        self._tls.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    # Between the buffers and the socket; under the lock.

    def _flush(self) -> bool:
        """Send what is encrypted; return whether all of it is sent."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self._hooks.do_send(self._unsent, 0, None)
            except BlockingIOError:
                return False
            except OSError:
                # Nothing will ever be sent again, but OpenSSL has its say first.
                self._unsent = memoryview(b"")
                self._outgoing.read()
                if self._ended:
                    # SSL_get_error(3) looks for the notice before it looks at errno.
                    raise _zero_return() from None
                raise
            self._unsent = self._unsent[sent:]

    def _fill(self) -> bool:
        """Hand over what waits of the next record; return whether there was anything."""
        filled = False
        while True:
            body = self._body
            try:
                data = self._hooks.do_recv(body or _HEADER - len(self._header), 0)
            except BlockingIOError:
                return filled
            if not data:
                self._incoming.write_eof()
                return True
            self._incoming.write(data)
            filled = True
            if body:
                self._body -= len(data)
                if not self._body:
                    return True
            else:
                self._header += data
                if len(self._header) == _HEADER:
                    self._body = self._length(self._header)
                    self._header.clear()
                    if not self._body:
                        return True

    @staticmethod
    def _length(header: bytearray) -> int:
        if header[0] & 0x80:
            # A ClientHello in the format of SSL 2.0: two bytes of length, without these.
            return max(0, (int.from_bytes(header[:2]) & 0x7FFF) + 2 - _HEADER)
        return int.from_bytes(header[3:])

    def _step(self, operation: Callable[[], _Result], complete: bool) -> _Result:
        """Return what `operation` returns; SSLWantReadError and SSLWantWriteError to wait.

        complete -- whether what it has encrypted must be sent before it counts
        """
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise
            except OSError as error:
                if isinstance(error, ssl.SSLError) and not isinstance(error, _GOES_ON):
                    self._broken = True
                # Perhaps with an alert that tells the peer why.
                try:
                    self._flush()
                except OSError:
                    pass
                raise
            else:
                if complete:
                    if not self._flush():
                        raise _want_write()
                elif self._unsent or self._outgoing.pending:
                    try:
                        self._flush()
                    except OSError:
                        # Whoever writes next is told; what was read is not lost for it.
                        pass
                return result

    # What waits.

    def _run(self, what: str, operation: Callable[[], _Result], complete: bool = True) -> _Result:
        owner = self._owner()
        assert owner is not None, "its methods are called by those of the owner"
        owner.require_open()
        timeout = owner.gettimeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                with self._lock:
                    return self._step(operation, complete)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wanted:
                if timeout == 0.0:
                    raise
                mask = OUT if isinstance(wanted, ssl.SSLWantWriteError) else IN | RDHUP
            if self._unsent:
                mask |= OUT
            try:
                owner.wait_until(mask, deadline)
            except TimeoutError:
                raise TimeoutError(f"The {what} operation timed out") from None

    def do_handshake(self) -> None:
        """Shake hands.

        Raises `ssl.SSLError`, TimeoutError, other OSErrors of the socket, and in
        non-blocking mode SSLWantReadError or SSLWantWriteError.
        """
        # One that is over sends nothing, whatever a write has left.
        self._run("handshake", self._tls.do_handshake, complete=self._tls.version() is None)

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        """Return up to `size` bytes, or read them into `buffer` and return the count.

        Raises as `do_handshake`.
        """
        arguments = (size,) if buffer is None else (size, buffer)
        result = self._run("read", functools.partial(self._tls.read, *arguments), complete=False)
        if not result and (size if buffer is None else memoryview(buffer).nbytes):
            self._ended = True
        return result

    def write(self, data: Any) -> int:
        """Send all of `data`; return its length.

        After SSLWantWriteError or TimeoutError a part of it may be sent.  The next write
        must be of the same data again, which may be elsewhere and longer, and goes on with
        what is left: as OpenSSL has it.  Raises as `do_handshake`.
        """
        view = memoryview(data).cast("B")
        if self._silenced:
            raise _refusal("PROTOCOL_IS_SHUTDOWN", "protocol is shutdown")
        with self._lock:
            (done, least), self._begun = self._begun, (0, 0)
            if len(view) < least:
                self._begun = done, least
                raise _refusal(
                    "BAD_LENGTH",
                    f"bad length: a write of {least} bytes was begun, "
                    "and is to be repeated with the same data",
                )

        def encrypt() -> int:
            nonlocal done
            while self._flush():
                if done and done >= len(view):
                    return done
                if self._tls.version() is None and not self._broken:
                    # What ends the handshake goes out first: a peer that has gone answers it
                    # with a reset, and the data are known to be lost.
                    self._tls.do_handshake()
                    continue
                done += self._tls.write(view[done : done + _RECORD])
                if not view:
                    return 0
            raise _want_write()

        try:
            return self._run("write", encrypt)
        except (ssl.SSLWantWriteError, TimeoutError):
            self._begun = done, len(view)
            raise
        except OSError as error:
            if done and (not isinstance(error, ssl.SSLError) or self._ended):
                self._begun = 0, len(view)
                self._stuck = True
            raise

    def shutdown(self) -> Any:
        """Exchange close notices; return the owner, which is plain then.

        Raises as `do_handshake`.
        """
        self._run("read", self._notify)
        return self._owner()

    def _notify(self) -> Any:
        # Over a descriptor a notice that cannot be sent ends it, before anything is read.
        if not self._notified and self._tls.version() is not None:
            if self._stuck and self._silenced:
                raise _refusal("BAD_WRITE_RETRY", "bad write retry")
            if self._stuck:
                self._silenced = True
                raise _zero_return() if self._ended else _end_of_file()
            try:
                self._hooks.do_send(b"", 0, None)
            except BlockingIOError:
                pass
            except ConnectionError:
                self._silenced = True
                if self._ended:
                    raise _zero_return() from None
                raise
            self._notified = True
        return self._tls.shutdown()
