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
import functools
import operator
import os
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from . import signalling
from ._asyncio import (
    CHILD_CALLER,
    READ_PIPE_CALLER,
    SENDFILE_CALLER,
    SSL_CALLER,
    WRITE_PIPE_CALLER,
)
from .delegated import SHARED, DelegatedHooks, Description
from .events import ERR, HUP, IN, OUT, RDHUP, RDNORM, WRNORM
from .relay import is_uvloop
from .sockaddr import Address, numeric_address
from .sockhooks import Data, SocketHooks, would_block
from .vpoll import VPoll

if TYPE_CHECKING:
    from .stacks.base import Stack

__all__ = ["Address", "Data", "SharedSocket", "UserSocket", "observe_sockets", "would_block"]

_Result = TypeVar("_Result")

_TYPE_FLAGS: Final = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
# The enumerations' own look-up by value takes longer than all else in the constructor.
_FAMILIES: Final = {int(family): family for family in socket.AddressFamily}
_KINDS: Final = {int(kind): kind for kind in socket.SocketKind}
# Plain ints: combining the enumeration's members costs more than a whole call here.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_WAITALL: Final = int(socket.MSG_WAITALL)
_PEEK: Final = int(socket.MSG_PEEK)
_SO_PROTOCOL: Final = 38
_SO_DOMAIN: Final = 39
_READ: Final = IN | RDHUP
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


def _fits(size: int, number: int) -> None:
    """Raise OverflowError for what the C code of `socket.socket` could not hold."""
    if size > sys.maxsize:
        raise OverflowError("Python int too large to convert to C ssize_t")
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"{number} does not fit into a C int")


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


class UserSocket(SocketHooks, socket.socket):
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

    __slots__ = ("_family", "_gone", "_proto", "_timeout", "_type", "stack", "vpoll")

    stack: Stack
    """The stack that made the socket."""
    vpoll: VPoll
    """The socket's event mask and wait queue."""

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
        """The protocol number as it was asked for."""
        return self._proto

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

        It only signals: reading and writing it is not the socket (docs/blocking.md).
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

    # Waiting.

    def _check_open(self) -> None:
        if self._gone:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _retry(self, mask: int, attempt: Callable[[], _Result], flags: int = 0) -> _Result:
        """Return what `attempt` returns, waiting for `mask` as the timeout allows."""
        self._check_open()
        timeout = self._timeout
        if timeout == 0.0 or flags & _DONTWAIT:
            return attempt()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return attempt()
            except BlockingIOError:
                self._wait_until(mask, deadline)

    def _wait_until(self, mask: int, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        seen = self.stack.wait(self.vpoll, mask, left)
        self._check_open()
        if seen and (failure := self.vpoll.failure) is not None:
            # ERR stays, and with it no wait would ever be one.
            raise failure
        if not seen and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("timed out")

    # Receiving.

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return up to `bufsize` bytes, as recv(2)."""
        if type(bufsize) is not int:
            bufsize = operator.index(bufsize)
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if bufsize > sys.maxsize or flags:
            _fits(bufsize, flags)
        if not bufsize:
            return b""
        if self._timeout == 0.0 and not flags:
            self._check_open()
            return self.do_recv(bufsize, 0)
        wanted = flags & ~(_DONTWAIT | _WAITALL)
        data = self._retry(_READ, lambda: self.do_recv(bufsize, wanted), flags)
        if flags & _WAITALL and self._type == socket.SOCK_STREAM:
            return self._recv_rest(data, bufsize, flags)
        return data

    def _recv_rest(self, data: bytes, bufsize: int, flags: int) -> bytes:
        """MSG_WAITALL: go on until `bufsize` bytes, the end, an error or the timeout."""
        if flags & _PEEK:
            return data
        wanted = flags & ~(_DONTWAIT | _WAITALL)
        parts = [data]
        count = len(data)
        while data and count < bufsize:
            try:
                left = bufsize - count
                data = self._retry(_READ, functools.partial(self.do_recv, left, wanted), flags)
            except OSError:
                break
            parts.append(data)
            count += len(data)
        return b"".join(parts)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read into `buffer`, at most `nbytes` bytes (0: all of it); return the count."""
        view = self._writable(buffer, nbytes, "recv_into")
        if not view:
            return 0
        if flags & _WAITALL:
            data = self.recv(len(view), flags)
            view[: len(data)] = data
            return len(data)
        wanted = flags & ~_DONTWAIT
        return self._retry(_READ, lambda: self.do_recv_into(view, wanted), flags)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Return (data, sender), as recvfrom(2)."""
        bufsize = operator.index(bufsize)
        _fits(bufsize, flags)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        wanted = flags & ~_DONTWAIT
        data, _, address = self._retry(_READ, lambda: self.do_recvfrom(bufsize, wanted), flags)
        return data, address

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Read into `buffer`; return (count, sender)."""
        view = self._writable(buffer, nbytes, "recvfrom_into")
        data, address = self.recvfrom(len(view), flags)
        view[: len(data)] = data
        return len(data), address

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Return (data, ancdata, msg_flags, sender), as recvmsg(2); ancdata is empty."""
        bufsize = operator.index(bufsize)
        _fits(bufsize, flags)
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        wanted = flags & ~_DONTWAIT
        data, msg_flags, address = self._retry(
            _READ, lambda: self.do_recvfrom(bufsize, wanted), flags
        )
        return data, [], msg_flags, address

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """Read into `buffers` one after the other, as recvmsg(2) with several iovecs."""
        views = [self._writable(buffer, 0, "recvmsg_into") for buffer in buffers]
        total = sum(map(len, views))
        data, ancdata, msg_flags, address = self.recvmsg(total, ancbufsize, flags)
        rest = memoryview(data)
        for view in views:
            part = rest[: len(view)]
            view[: len(part)] = part
            rest = rest[len(part) :]
        return len(data), ancdata, msg_flags, address

    @staticmethod
    def _writable(buffer: Any, nbytes: int, caller: str) -> memoryview:
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError(f"{caller}() argument must be read-write bytes-like object")
        view = view.cast("B")
        if nbytes < 0:
            raise ValueError(f"negative buffersize in {caller}")
        if nbytes > len(view):
            raise ValueError("buffer too small for requested bytes")
        return view[:nbytes] if nbytes else view

    # Sending.

    @staticmethod
    def _flat(data: Any) -> Data:
        return data if type(data) is bytes else memoryview(data).cast("B")

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a prefix of `data` and return its length, as send(2)."""
        flat = self._flat(data)
        if self._timeout == 0.0 and not flags:
            self._check_open()
            return self.do_send(flat, 0, None)
        wanted = flags & ~_DONTWAIT
        return self._retry(OUT, lambda: self.do_send(flat, wanted, None), flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of `data`; the timeout is for the whole.

        After an error it is unknown how much was sent.
        """
        self._check_open()
        flat = self._flat(data)
        wanted = flags & ~_DONTWAIT
        timeout = self._timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                sent = self.do_send(flat, wanted, None)
            except BlockingIOError:
                if timeout == 0.0 or flags & _DONTWAIT:
                    raise
                self._wait_until(OUT, deadline)
                continue
            if sent >= len(flat):
                return
            flat = memoryview(flat)[sent:]

    def sendto(self, data: Any, *args: Any) -> int:
        """``sendto(data[, flags], address)``: send a datagram, as sendto(2)."""
        if len(args) == 1:
            flags, address = 0, args[0]
        elif len(args) == 2:
            flags, address = args
        else:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        flat = self._flat(data)
        target = self.resolve_address(address, "sendto")
        wanted = flags & ~_DONTWAIT
        return self._retry(OUT, lambda: self.do_send(flat, wanted, target), flags)

    def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
    ) -> int:
        """Send the concatenation of `buffers`, as sendmsg(2).

        Raises OSError (EINVAL) for ancillary data, which no stack carries.
        """
        if list(ancdata):
            raise OSError(errno.EINVAL, "user sockets carry no ancillary data")
        parts = [self._flat(buffer) for buffer in buffers]
        flat = parts[0] if len(parts) == 1 else b"".join(parts)
        target = None if address is None else self.resolve_address(address, "sendmsg")
        wanted = flags & ~_DONTWAIT
        return self._retry(OUT, lambda: self.do_send(flat, wanted, target), flags)

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:  # type: ignore[override]
        """Send `file` from `offset` with `send`; return the count, as `socket.sendfile`."""
        if self._type != socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if self._timeout == 0.0:
            raise ValueError("non-blocking sockets are not supported")
        if count is not None and count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
        if offset:
            file.seek(offset)
        total = 0
        try:
            while count is None or total < count:
                blocksize = 65536 if count is None else min(count - total, 65536)
                block = file.read(blocksize)
                if not block:
                    break
                self.sendall(block)
                total += len(block)
            return total
        finally:
            if total and hasattr(file, "seek"):
                file.seek(offset + total)

    # Connections.

    def bind(self, address: Any) -> None:
        """Bind to `address`; a host name is resolved by the stack."""
        self._check_open()
        self.do_bind(self.resolve_address(address, "bind"))

    def listen(self, backlog: int = min(socket.SOMAXCONN, 128)) -> None:
        """Accept connections, at most `backlog` + 1 waiting at a time, as listen(2)."""
        self._check_open()
        backlog = operator.index(backlog)
        _fits(0, backlog)
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
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self.vpoll.peek() & (OUT | ERR | HUP):
            self._wait_until(OUT, deadline)
        if number := self.do_finish_connect():
            raise OSError(number, os.strerror(number))

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

    def resolve_address(self, address: Any, caller: str) -> Address:
        """Return `address` with a numeric host, as the hooks take it.

        Raises TypeError and OverflowError as `socket.socket` does for what is no
        address of the family, `socket.gaierror` for a name that the stack does not know.
        """
        return numeric_address(address, self._family, self._lookup, caller)

    def _lookup(self, host: str) -> tuple[Any, ...]:
        return self.stack.getaddrinfo(host, None, self._family, self._type)[0][4]

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

    def __del__(self) -> None:
        if not getattr(self, "_gone", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._real_close()


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
