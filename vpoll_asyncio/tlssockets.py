"""TLS for blocking programs: what `ssl.SSLContext.wrap_socket` gives, over a user socket.

`ssl.SSLSocket` is two things: methods in Python over ``super()``, a `socket.socket`, and
an object of OpenSSL that reads and writes a descriptor.  Here the first is kept as it
is, with a user socket behind ``super()``, and the second is a `TlsChannel`: OpenSSL over
two buffers, which are filled from and emptied into the user socket's hooks.

The channel takes from the socket what one record needs and no byte more, as OpenSSL does
over a descriptor.  So what waits in the socket is what pollers see, and plain data
behind a close notice are still there when `SSLSocket.unwrap` returns.
"""

from __future__ import annotations

import errno
import functools
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ._asyncio import encode_hostname, tls_over_buffers
from .events import IN, OUT, RDHUP
from .sockets import SharedSocket, UserSocket

if TYPE_CHECKING:
    from .sockhooks import Data, SocketHooks, StreamStart

__all__ = ["TlsChannel", "UserSSLSocket", "wrap_user_socket"]

_Result = TypeVar("_Result")

# RFC 8446, 5.1: type (1 byte), version (2), length (2); most bytes of plain text.
_HEADER: Final = 5
_RECORD: Final = 1 << 14


def _want_write() -> ssl.SSLWantWriteError:
    return ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")


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
        owner: _OverUserSocket,
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
            except OSError:
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
        return self._run("read", functools.partial(self._tls.read, *arguments), complete=False)

    def write(self, data: Any) -> int:
        """Send all of `data`; return its length.

        After SSLWantWriteError or TimeoutError a part of it may be sent.  The next write
        must be of the same data again, which may be elsewhere and longer, and goes on with
        what is left: as OpenSSL has it.  Raises as `do_handshake`.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            (done, least), self._begun = self._begun, (0, 0)
            if len(view) < least:
                self._begun = done, least
                error = ssl.SSLError(
                    ssl.SSL_ERROR_SSL,
                    f"bad length: a write of {least} bytes was begun, "
                    "and is to be repeated with the same data",
                )
                error.library, error.reason = "SSL", "BAD_LENGTH"
                raise error

        def encrypt() -> int:
            nonlocal done
            while self._flush():
                if done and done >= len(view):
                    return done
                if self._tls.version() is None:
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
        except ssl.SSLError:
            raise
        except OSError:
            if done:
                self._begun = 0, len(view)
            raise

    def shutdown(self) -> ssl.SSLSocket | None:
        """Exchange close notices; return the owner, which is plain then.

        Raises as `do_handshake`.
        """
        self._run("read", self._tls.shutdown)
        return self._owner()


class _OverUserSocket(ssl.SSLSocket, SharedSocket):  # type: ignore[misc]
    """What is a user socket's in a `UserSSLSocket`, before whatever class the context wants."""

    _sslobj: TlsChannel | None
    _context: ssl.SSLContext
    _session: ssl.SSLSession | None
    _connected: bool
    do_handshake_on_connect: bool
    suppress_ragged_eofs: bool

    @classmethod
    def over(
        cls,
        sock: UserSocket,
        context: ssl.SSLContext,
        server_side: bool,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
        server_hostname: str | None,
        session: ssl.SSLSession | None,
    ) -> Self:
        """Return `sock` under TLS: see `wrap_user_socket`."""
        _check_arguments(sock, server_side, server_hostname, context, session)
        hostname = encode_hostname(context, server_hostname)
        self = cls.__new__(cls)
        vpoll = sock.vpoll
        self.join(sock, sock.hand_over(), vpoll)
        try:
            self._context = context
            self._session = session
            self._sslobj = None
            self.server_side = server_side
            self.server_hostname = hostname
            self.do_handshake_on_connect = do_handshake_on_connect
            self.suppress_ragged_eofs = suppress_ragged_eofs
            self._connected = self._is_connected()
            if self._connected:
                self._sslobj = self._channel(server_side)
                if do_handshake_on_connect:
                    if self.gettimeout() == 0.0:
                        raise ValueError(
                            "do_handshake_on_connect should not be specified "
                            "for non-blocking sockets"
                        )
                    self.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    def _channel(self, server_side: bool) -> TlsChannel:
        return TlsChannel(
            self,
            self.description.origin,
            self._context,
            server_side,
            self.server_hostname,
            self._session,
        )

    def _is_connected(self) -> bool:
        try:
            self.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        else:
            return True
        # What came before the connection ended did not come through TLS, and must not be
        # taken for it.
        try:
            early = self.do_recv(1, 0)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EINVAL):
                raise
            return False
        if early:
            refusal = ssl.SSLError(
                errno.ENOTCONN, "Closed before TLS handshake with data in recv buffer."
            )
            refusal.reason = str(refusal.args[1])
            refusal.library = None  # type: ignore[assignment]
            raise refusal
        return False

    def _real_connect(self, addr: Any, connect_ex: bool) -> int | None:
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        if self._connected or self._sslobj is not None:
            raise ValueError("attempt to connect already-connected SSLSocket!")
        self._sslobj = self._channel(False)
        try:
            failure = None
            if connect_ex:
                failure = UserSocket.connect_ex(self, addr)
            else:
                UserSocket.connect(self, addr)
            if not failure:
                self._connected = True
                if self.do_handshake_on_connect:
                    self.do_handshake()
        except (OSError, ValueError):
            self._sslobj = None
            raise
        return failure

    def accept(self) -> tuple[ssl.SSLSocket, Any]:  # type: ignore[override]
        """Return the next connection under TLS, and its peer's address.

        Where `do_handshake_on_connect` says so, it has shaken hands.
        """
        connection, address = UserSocket.accept(self)
        wrapped = wrap_user_socket(
            self.context,
            connection,
            server_side=True,
            do_handshake_on_connect=self.do_handshake_on_connect,
            suppress_ragged_eofs=self.suppress_ragged_eofs,
        )
        return wrapped, address

    def require_open(self) -> None:
        """Raise OSError (EBADF) when the socket is closed."""
        self._check_open()

    def wait_until(self, mask: int, deadline: float | None) -> None:
        """Wait for an event of `mask`, at most until `deadline`, of `time.monotonic`.

        Raises TimeoutError, and OSError (EBADF) when the socket is closed meanwhile.
        """
        self._wait_until(mask, deadline)

    # Whoever asks the hooks, a transport say, must not get what is encrypted.

    def _plain(self) -> None:
        if self._sslobj is not None:
            raise TypeError("Socket cannot be of type SSLSocket")

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        self._plain()
        return super().do_recv(bufsize, flags)

    def do_recv_some(self, bufsize: int) -> bytes:
        self._plain()
        return super().do_recv_some(bufsize)

    def stream_calls(self) -> tuple[Callable[[int], bytes], Callable[[Data, int, None], int]]:
        self._plain()
        return super().stream_calls()

    def begin_stream(self, peername: Any) -> StreamStart:
        self._plain()
        return super().begin_stream(peername)

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Any]:
        self._plain()
        return super().do_recvfrom(bufsize, flags)

    def do_recv_into(self, buffer: memoryview, flags: int) -> int:
        self._plain()
        return super().do_recv_into(buffer, flags)

    def do_send(self, data: Data, flags: int, address: Any) -> int:
        self._plain()
        return super().do_send(data, flags, address)


class UserSSLSocket(_OverUserSocket):
    """An `ssl.SSLSocket` over a user socket, made by `wrap_user_socket`.

    What it does is the standard library's, except that `sendfile` never hands the file
    to the kernel.  Its descriptor, as the user socket's, only signals: what waits in the
    socket is encrypted, and `pending` tells of what is decrypted.
    """


def _check_arguments(
    sock: UserSocket,
    server_side: bool,
    server_hostname: str | None,
    context: ssl.SSLContext,
    session: ssl.SSLSession | None,
) -> None:
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        raise NotImplementedError("only stream sockets are supported")
    if server_side and server_hostname:
        raise ValueError("server_hostname can only be specified in client mode")
    if server_side and session is not None:
        raise ValueError("session can only be specified in client mode")
    if context.check_hostname and not server_hostname:
        raise ValueError("check_hostname requires server_hostname")


_classes: Final[dict[type[ssl.SSLSocket], type[_OverUserSocket]]] = {ssl.SSLSocket: UserSSLSocket}


def _class_over_user_sockets(kind: type[ssl.SSLSocket]) -> type[_OverUserSocket]:
    found = _classes.get(kind)
    if found is None:
        body = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        made = type(kind.__name__, (_OverUserSocket, kind), body)
        found = _classes[kind] = made
    return found


def wrap_user_socket(
    context: ssl.SSLContext,
    sock: UserSocket,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """Return `sock` under TLS, as `ssl.SSLContext.wrap_socket` does; `sock` is closed then.

    It works whether `install` is in force or not.  The class derives from that which
    the context says (`ssl.SSLContext.sslsocket_class`).  Raises as `wrap_socket`: ValueError
    for arguments that do not go together, NotImplementedError for a datagram socket, and,
    where the socket is connected, what the handshake raises; the connection is closed in
    this last case only.
    """
    kind = _class_over_user_sockets(context.sslsocket_class)
    return kind.over(
        sock,
        context,
        server_side,
        do_handshake_on_connect,
        suppress_ragged_eofs,
        server_hostname,
        session,
    )
