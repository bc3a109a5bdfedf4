"""What `ssl.SSLContext.wrap_socket` gives, over a user socket: a peer in a thread.

The standard library's wants a descriptor to read and write, which a user socket does
not have, so that `fileno` refuses it; `SSLObject` does the same over two buffers.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from vpoll_asyncio.events import IN, OUT
from vpoll_asyncio.sockets import Address, Data, UserSocket

_Result = TypeVar("_Result")

_BLOCK: Final = 64 * 1024

_kernel_wrap_socket = ssl.SSLContext.wrap_socket


def _slots(sock: UserSocket) -> list[str]:
    return [name for kind in type(sock).__mro__ for name in kind.__dict__.get("__slots__", ())]


def _take_over(sock: UserSocket) -> UserSocket:
    """Return another handle of the connection; `sock` is closed then, as after detach()."""
    other = type(sock).__new__(type(sock))
    for name in _slots(sock):
        if not name.startswith("__") and hasattr(sock, name):
            setattr(other, name, getattr(sock, name))
    # Not close(): the vpoll and what the stack keeps are the other's now.
    sock._gone = sock._closed = True
    return other


class TlsSocket(UserSocket):
    """A user socket under TLS, for blocking callers.

    Parameters:
    sock -- the socket underneath, connected or not; it is closed and taken over
    context, server_side, server_hostname -- as for `ssl.SSLContext.wrap_socket`
    greet -- whether a handshake follows the connection without being asked for
    """

    __slots__ = ("_greet", "_incoming", "_lock", "_outgoing", "_raw", "_tls", "_unsent")

    def __init__(
        self,
        sock: UserSocket,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None,
        greet: bool,
    ) -> None:
        super().__init__(sock.stack, sock.family, sock.type, sock.proto)
        self.settimeout(sock.gettimeout())
        self.vpoll.close()
        self._raw = _take_over(sock)
        self.vpoll = self._raw.vpoll
        self._greet = greet
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent = b""
        self._lock = threading.RLock()
        self._tls: ssl.SSLObject | None = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname
        )

    # Between the buffers and the socket.

    def _flush(self) -> None:
        with self._lock:
            while data := self._unsent or self._outgoing.read():
                self._unsent = data
                self._unsent = data[self._raw.do_send(data, 0, None) :]

    def _step(self, operation: Callable[..., _Result], *args: Any) -> _Result:
        """Return what `operation` of the SSLObject returns; BlockingIOError when it must wait."""
        with self._lock:
            while True:
                try:
                    result = operation(*args)
                except ssl.SSLWantReadError:
                    self._flush()
                    if data := self._raw.do_recv(_BLOCK, 0):
                        self._incoming.write(data)
                    else:
                        self._incoming.write_eof()
                except ssl.SSLError:
                    with contextlib.suppress(OSError):
                        self._flush()
                    raise
                else:
                    self._flush()
                    return result

    def do_handshake(self) -> None:
        """Shake hands.  Raises `ssl.SSLError`, TimeoutError, ConnectionError."""
        assert self._tls is not None
        self._retry(IN, lambda: self._step(self._tls.do_handshake))  # type: ignore[union-attr]

    def unwrap(self) -> TlsSocket:
        """Exchange close notices; the socket carries plain bytes afterwards."""
        assert self._tls is not None
        self._retry(IN, lambda: self._step(self._tls.unwrap))  # type: ignore[union-attr]
        self._tls = None
        return self

    # What UserSocket derives everything else from.

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        if self._tls is None:
            return self._raw.do_recv(bufsize, flags)
        try:
            return self._step(self._tls.read, bufsize)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        self._flush()
        if self._tls is None:
            return self._raw.do_send(data, flags, address)
        # All of it, as without SSL_MODE_ENABLE_PARTIAL_WRITE: the caller flushes.
        return self._tls.write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data, flags)
        self._retry(OUT, self._flush)
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        super().sendall(data, flags)
        self._retry(OUT, self._flush)

    def connect(self, address: Any) -> None:
        super().connect(address)
        if self._greet:
            self.do_handshake()

    def do_connect(self, address: Address) -> None:
        self._raw.do_connect(address)

    def do_shutdown(self, how: int) -> None:
        self._tls = None
        self._raw.do_shutdown(how)

    def do_close(self) -> None:
        self._raw.close()

    def do_getsockname(self) -> Address:
        return self._raw.do_getsockname()

    def do_getpeername(self) -> Address:
        return self._raw.do_getpeername()

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        return self._raw.do_getsockopt(level, optname)

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        self._raw.do_setsockopt(level, optname, value)


def _wrap_socket(
    self: ssl.SSLContext,
    sock: Any,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: Any = None,
) -> Any:
    # The suite wraps sockets in an object that hands their methods through.
    behind = getattr(sock.fileno, "__self__", None)
    if not isinstance(behind, UserSocket):
        return _kernel_wrap_socket(
            self,
            sock,
            server_side,
            do_handshake_on_connect,
            suppress_ragged_eofs,
            server_hostname,
            session,
        )
    try:
        sock.getpeername()
    except OSError:
        connected = False
    else:
        connected = True
    wrapped = TlsSocket(behind, self, server_side, server_hostname, do_handshake_on_connect)
    if connected and do_handshake_on_connect:
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
    return wrapped


@contextlib.contextmanager
def wrapping_user_sockets() -> Iterator[None]:
    """Let `ssl.SSLContext.wrap_socket` take user sockets, too."""
    ssl.SSLContext.wrap_socket = _wrap_socket  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ssl.SSLContext.wrap_socket = _kernel_wrap_socket  # type: ignore[method-assign]
