"""UserSocket: what `socket.socket` does, over any protocol object.

A stack's author writes the few hooks called ``do_*``, all of them non-blocking; the
class derives the rest from them and from the vpoll: blocking mode with timeouts, the
``recv*`` and ``send*`` families, `makefile`, address parsing.  It is a subclass of
`socket.socket` whose C part holds no descriptor, so ``isinstance`` checks hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import operator
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import signalling
from ._asyncio import (
    CHILD_CALLER,
    READ_PIPE_CALLER,
    SENDFILE_CALLER,
    SSL_CALLER,
    WRITE_PIPE_CALLER,
)
from .advice import explain_bind, explain_connect
from .delegated import SHARED, DelegatedHooks, Description
from .ending import ending, unclosed
from .events import ERR, HUP, IN, OUT, RDHUP, RDNORM, WRNORM
from .lookups import protocol_for
from .relay import is_uvloop
from .sockaddr import Address
from .sockettransfer import SocketTransfers, check_c_int
from .sockhooks import Data, would_block
from .vpoll import VPoll

if TYPE_CHECKING:
    from .stacks.base import Stack

__all__ = ["Address", "Data", "SharedSocket", "UserSocket", "observe_sockets", "would_block"]

_TYPE_FLAGS: Final = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
# The enumerations' own look-up by value takes longer than all else in the constructor.
_FAMILIES: Final = {int(family): family for family in socket.AddressFamily}
_KINDS: Final = {int(kind): kind for kind in socket.SocketKind}
_SO_PROTOCOL: Final = 38
_SO_DOMAIN: Final = 39
_DEAD: Final = IN | OUT | HUP | RDHUP | RDNORM | WRNORM


# Who would read or write what fileno() returns, and what to do instead.
_REFUSED: Final = {
    id(SSL_CALLER): "wrap_socket() needs a kernel descriptor, which a user socket does not have: "
    "call it under vpoll_asyncio.install(), or use ssl.SSLContext.wrap_bio, or "
    "vpoll_asyncio.open_connection(ssl=...)",
    id(CHILD_CALLER): "a child process cannot have a user socket as its standard input or output, "
    "since its descriptor only signals events: give it a pipe (subprocess.PIPE)",
    id(READ_PIPE_CALLER): "connect_read_pipe() would read the descriptor, which only signals "
    "events: use create_connection(sock=...)",
    id(WRITE_PIPE_CALLER): "connect_write_pipe() would write to the descriptor, which only signals "
    "events: use create_connection(sock=...)",
}


# PyTime_t counts nanoseconds in 63 bits.
_LONGEST_TIMEOUT: Final = (1 << 63) / 1e9


_observers: tuple[Callable[[UserSocket], object], ...] = ()


@contextlib.contextmanager
def observe_sockets(observer: Callable[[UserSocket], object]) -> Iterator[None]:
    """Call `observer` with every user socket that is made meanwhile, in the maker's thread.

    The socket has its vpoll, for `VPoll.add_waiter`, but may not be ready for calls.
    """
    global _observers
    _observers = (*_observers, observer)
    try:
        yield
    finally:
        left = list(_observers)
        left.remove(observer)
        _observers = tuple(left)


class UserSocket(SocketTransfers):
    """A socket of a user-space stack.

    Parameters:
    stack -- the stack that it belongs to
    family, type, proto -- as for `socket.socket`; SOCK_NONBLOCK in `type` counts
    events -- the first event mask of `vpoll`
    vpoll -- the vpoll of a socket that is another's handle; by default a new one

    The stack keeps `vpoll` at the mask that the kernel's socket would have
    (``tcp_poll``, ``datagram_poll``).  Methods raise what `socket.socket` raises.
    They may be called from any thread; of two threads in the same direction each
    gets its own part of the data, in no fixed order.  Closing a socket wakes threads
    that are blocked in it with EBADF.
    """

    __slots__ = ()

    def __init__(
        self,
        stack: Stack,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        events: int = 0,
        vpoll: VPoll | None = None,
    ) -> None:
        # socket.socket.__init__ would make a kernel socket; its slots are set here.
        self._io_refs = 0
        self._closed = False
        self._gone = False
        self.stack = stack
        self._family = _FAMILIES.get(family) or socket.AddressFamily(family)
        kind = type & ~_TYPE_FLAGS
        self._type = _KINDS.get(kind) or socket.SocketKind(kind)
        self._proto = proto
        self._timeout = 0.0 if type & socket.SOCK_NONBLOCK else socket.getdefaulttimeout()
        self.vpoll = VPoll(events) if vpoll is None else vpoll
        for observer in _observers:
            observer(self)

    # What the socket is.

    @property
    def family(self) -> socket.AddressFamily:
        """The address family."""
        return self._family

    @property
    def type(self) -> socket.SocketKind:
        """The socket type, without flags."""
        return self._type

    @property
    def proto(self) -> int:
        """The protocol number as it was asked for.

        Raises OSError (ENOTSUP) where a stock asyncio loop's ``sock_connect`` asks, without
        `install`, and would look a name up on the host instead of on the socket's stack.
        """
        return protocol_for(sys._getframe(1), self._proto, self.stack)

    @property
    def timeout(self) -> float | None:
        """The timeout in seconds; None in blocking mode, 0.0 in non-blocking mode."""
        return self._timeout

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds; None in blocking mode, 0.0 in non-blocking mode."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set the timeout in seconds.

        Raises ValueError when it is negative or NaN, OverflowError beyond 292 years, OSError
        (EBADF) when the socket is closed.
        """
        if value is not None:
            value = float(value)
            if value != value:
                raise ValueError("Invalid value NaN (not a number)")
            if value > _LONGEST_TIMEOUT:
                raise OverflowError("timestamp too large to convert to C PyTime_t")
            if value < 0:
                raise ValueError("Timeout value out of range")
        self._check_open()
        self._timeout = value

    def setblocking(self, flag: bool) -> None:
        """Set blocking mode, or non-blocking mode when `flag` is false.

        Raises OSError (EBADF) when the socket is closed.
        """
        self._check_open()
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Return whether calls may block, be it with a timeout."""
        return self._timeout != 0.0

    def fileno(self) -> int:
        """Return a descriptor that the kernel's pollers see the socket's events on.

        It only signals: reading and writing it is not the socket (docs/reference/blocking.md).
        Returns -1 once closed.  Raises OSError (ENOTSUP) where the caller is known to read
        or write it: under stock uvloop, from `ssl.SSLContext.wrap_socket` without
        `install`, `subprocess.Popen` and the loops' ``connect_read_pipe`` and
        ``connect_write_pipe``; else as `VPoll.fileno` does.
        """
        if self._gone:
            return -1
        caller = sys._getframe(1).f_code
        if caller is SENDFILE_CALLER:
            # os.sendfile answers EBADF, and the loop falls back to send().
            return -1
        if (refusal := _REFUSED.get(id(caller))) is not None:
            raise OSError(errno.ENOTSUP, refusal)
        loop = asyncio._get_running_loop()
        if loop is None or not is_uvloop(loop):
            number = self.vpoll.fileno()
            if signalling.noted(number) is not self:
                signalling.note(number, self)
            return number
        raise OSError(
            errno.ENOTSUP,
            "uvloop's transports would read and write the descriptor, and close it: use "
            "vpoll_asyncio.open_connection, start_server and their like, or "
            "vpoll_asyncio.UvloopEventLoop; to poll for events, give it the socket's vpoll",
        )

    # Connections.

    def bind(self, address: Any) -> None:
        """Bind to `address`; a host name is resolved by the stack."""
        self._check_open()
        target = self.resolve_address(address, "bind")
        try:
            self.do_bind(target)
        except OSError as exc:
            explain_bind(exc, self.stack, target)
            raise

    def listen(self, backlog: int = min(socket.SOMAXCONN, 128)) -> None:
        """Accept connections, at most `backlog` + 1 waiting at a time, as listen(2)."""
        self._check_open()
        backlog = operator.index(backlog)
        check_c_int(0, backlog)
        self.do_listen(max(0, backlog))

    def accept(self) -> tuple[UserSocket, Any]:
        """Return the next connection and its peer's address, as `socket.accept`."""
        connection, address = self._retry(IN, self.do_accept)
        if socket.getdefaulttimeout() is None and self._timeout:
            connection.setblocking(True)
        return connection, address

    def connect(self, address: Any) -> None:
        """Connect to `address`; a host name is resolved by the stack."""
        self._check_open()
        target = self.resolve_address(address, "connect")
        try:
            self.do_connect(target)
            return
        except BlockingIOError:
            if self._timeout == 0.0:
                raise
        except OSError as exc:
            explain_connect(exc, self.stack, target)
            raise
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self.vpoll.peek() & (OUT | ERR | HUP):
            self._wait_until(OUT, deadline)
        if number := self.do_finish_connect():
            raise explain_connect(OSError(number, os.strerror(number)), self.stack, target)

    def connect_ex(self, address: Any) -> int:
        """Connect and return an errno instead of raising it, as `socket.connect_ex`."""
        try:
            UserSocket.connect(self, address)
        except TimeoutError as exc:
            return exc.errno or errno.EAGAIN
        except socket.gaierror:
            raise
        except OSError as exc:
            if exc.errno is None:
                raise
            return exc.errno
        return 0

    def shutdown(self, how: int) -> None:
        """Shut down one or both directions, as shutdown(2)."""
        self._check_open()
        how = operator.index(how)
        check_c_int(0, how)
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.do_shutdown(how)

    def getsockname(self) -> Any:
        """Return the local address."""
        self._check_open()
        return self.do_getsockname()

    def getpeername(self) -> Any:
        """Return the peer's address."""
        self._check_open()
        return self.do_getpeername()

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """Return an option: an int, or bytes when `buflen` is given, as getsockopt(2)."""
        self._check_open()
        value: int | bytes
        if level == socket.SOL_SOCKET and optname == socket.SO_TYPE:
            value = int(self._type)
        elif level == socket.SOL_SOCKET and optname == _SO_DOMAIN:
            value = int(self._family)
        elif level == socket.SOL_SOCKET and optname == _SO_PROTOCOL:
            value = self._protocol()
        else:
            value = self.do_getsockopt(level, optname)
        if buflen is None or buflen == 0:
            return value if isinstance(value, int) else int.from_bytes(value[:4], sys.byteorder)
        if not 0 < buflen <= 1024:
            raise OSError("getsockopt buflen out of range")
        return (struct.pack("i", value) if isinstance(value, int) else value)[:buflen]

    def _protocol(self) -> int:
        if self._proto:
            return self._proto
        kinds = {
            socket.SOCK_STREAM: socket.IPPROTO_TCP,
            socket.SOCK_DGRAM: socket.IPPROTO_UDP,
        }
        return int(kinds.get(self._type, 0))

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option to an int or to bytes, as setsockopt(2)."""
        self._check_open()
        if value is None:
            if optlen is None:
                raise TypeError("setsockopt() with None needs optlen")
            value = bytes(optlen)
        elif isinstance(value, int):
            if not -(1 << 31) <= value < 1 << 31:
                raise TypeError(f"{value} does not fit into a C int")
        else:
            value = bytes(value)
        self.do_setsockopt(level, optname, value)

    def ioctl(self, control: int, option: Any = 0) -> Any:
        """Carry out an ioctl(2) that the stack knows.  Raises OSError (ENOTTY)."""
        self._check_open()
        return self.do_ioctl(control, option)

    # The object.

    def dup(self) -> UserSocket:
        """Return another socket for the same connection, as dup(2); its timeout is the same.

        Both share the connection, its options and its events, and it ends when the last of
        them is closed.  Until then closing this one gives back its descriptor alone.
        """
        self._check_open()
        return SharedSocket(self)

    def share(self) -> Description:
        """Return what other handles of the connection share with this one."""
        return Description.of(self)

    def hand_over(self) -> Description:
        """Close this handle in favour of another, which gets the vpoll; return what they share."""
        self._check_open()
        description = self.share()
        self._gone = self._closed = True
        return description

    def detach(self) -> NoReturn:
        """Raise OSError (ENOTSUP): no descriptor holds the connection, only the object."""
        # uvloop detaches what it has failed to take over, and its caller sees this error
        # instead of that of `fileno`.
        raise OSError(
            errno.ENOTSUP,
            "a user socket cannot be detached, since its descriptor only signals events: "
            "where a loop would take it over, use vpoll_asyncio.open_connection, start_server "
            "and their like",
        )

    def get_inheritable(self) -> bool:
        """Return False: a user socket does not survive exec(2)."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Raise OSError (ENOTSUP) when `inheritable` is true."""
        if inheritable:
            raise OSError(errno.ENOTSUP, "a user socket does not survive exec(2)")

    def close_handle(self) -> None:
        """Close at once, as close(2) of the descriptor does: files of `makefile` do not hold it.

        Other handles of the connection (`dup`) are not concerned.  Closing twice is allowed.
        """
        self._closed = True
        self._real_close()

    def __getstate__(self) -> NoReturn:
        """Raise TypeError: a user socket cannot be pickled, by `multiprocessing` neither."""
        raise TypeError(
            f"cannot pickle {type(self).__name__!r} object: a user socket cannot leave its "
            "process, since its stack is in there: pass data on instead"
        )

    def _real_close(self, _ss: Any = None) -> None:
        # What socket.close() calls once the last file object is closed too.
        if self._gone:
            return
        self._gone = True
        if SHARED and (description := SHARED.get(self)) and not description.leave():
            self.vpoll.close_descriptor()
            return
        self.end()

    def end(self) -> None:
        """End the connection, as its last handle is closed.  Not for programs: `close` is."""
        vpoll = self.vpoll
        try:
            self.do_close()
        finally:
            # Threads blocked in here look again and find the socket closed.  A vpoll that
            # was collected together with its socket may be closed already.
            file = vpoll.file
            if file is not None and file.pending is None and not file.waiters:
                # What `set_events` does where nobody has to be told.
                file.mask = _DEAD
                vpoll.close()
            elif file is not None:
                try:
                    if vpoll.failure is None:
                        vpoll.set_events(_DEAD)
                except OSError:
                    if vpoll.failure is None:
                        raise
                finally:
                    vpoll.close()

    def __repr__(self) -> str:
        state = " [closed]" if self._gone else ""
        return (
            f"<{type(self).__module__}.{type(self).__name__}{state} stack={self.stack.name}, "
            f"family={self._family!s}, type={self._type!s}, proto={self._proto}>"
        )

    def __del__(
        self,
        _ending: Callable[[], bool] = ending,
        _unclosed: Callable[..., None] = unclosed,
    ) -> None:
        # At the end a transport's, or a wrapper's, would be told of a second time.
        if not getattr(self, "_gone", True) and not _ending():
            _unclosed(self, self._real_close)


class SharedSocket(DelegatedHooks, UserSocket):
    """Another handle of a user socket's connection, as `UserSocket.dup` returns it.

    Parameters:
    sock -- an open or closed handle of a connection that is open
    fd -- a duplicate of the connection's descriptor which becomes this handle's
    """

    __slots__ = ("description",)

    def __init__(self, sock: UserSocket, fd: int = -1) -> None:
        description = sock.share()
        vpoll = sock.vpoll.dup()
        try:
            if fd >= 0:
                vpoll.adopt_descriptor(fd)
        except BaseException:
            vpoll.close()
            raise
        description.enter()
        self.join(sock, description, vpoll)

    def join(self, sock: UserSocket, description: Description, vpoll: VPoll) -> None:
        """Be a handle of `description`, counted already, that is as `sock` and has `vpoll`."""
        self.description = description
        UserSocket.__init__(self, sock.stack, sock.family, sock.type, sock.proto, vpoll=vpoll)
        self._timeout = sock.gettimeout()

    def share(self) -> Description:
        return self.description

    def _real_close(self, _ss: Any = None) -> None:
        if self._gone:
            return
        self._gone = True
        origin = self.description.origin
        own = self.vpoll is not origin.vpoll
        try:
            if self.description.leave():
                origin.end()
            elif not own:
                self.vpoll.close_descriptor()
        finally:
            if own:
                self.vpoll.close()
