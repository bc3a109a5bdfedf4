"""TLS for blocking programs: what `ssl.SSLContext.wrap_socket` gives, over a user socket.

`ssl.SSLSocket` is two things: methods in Python over ``super()``, a `socket.socket`, and
an object of OpenSSL that reads and writes a descriptor.  Here the first is kept as it
is, with a user socket behind ``super()``, and the second is a `TlsChannel`: OpenSSL over
two buffers, which are filled from and emptied into the user socket's hooks.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

from ._asyncio import encode_hostname
from .sockets import SharedSocket, UserSocket
from .tlschannel import TlsChannel

if TYPE_CHECKING:
    from .sockhooks import Data, StreamStart

__all__ = ["UserSSLSocket", "wrap_user_socket"]


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
        self = cls.__new__(cls)
        vpoll = sock.vpoll
        self.join(sock, sock.hand_over(), vpoll)
        try:
            self._context = context
            self._session = session
            self._sslobj = None
            self.server_side = server_side
            self.server_hostname = encode_hostname(context, server_hostname)
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
    for arguments that do not go together, NotImplementedError for a datagram socket,
    UnicodeError for what is no host's name, and, where the socket is connected, what the
    handshake raises; the connection is closed in the last two cases only.
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
