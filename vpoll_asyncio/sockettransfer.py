"""How a user socket waits, receives and sends: the calls that move data."""

from __future__ import annotations

import errno
import functools
import operator
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from .advice import explain_send
from .events import IN, OUT, RDHUP
from .sockaddr import Address, numeric_address
from .sockhooks import Data, SocketHooks
from .vpoll import VPoll

if TYPE_CHECKING:
    from .stacks.base import Stack

__all__ = ["SocketTransfers", "check_c_int"]

_Result = TypeVar("_Result")

# Plain ints: combining the enumeration's members costs more than a whole call here.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_WAITALL: Final = int(socket.MSG_WAITALL)
_PEEK: Final = int(socket.MSG_PEEK)
_READ: Final = IN | RDHUP


def check_c_int(size: int, number: int) -> None:
    """Raise OverflowError for what the C code of `socket.socket` could not hold."""
    if size > sys.maxsize:
        raise OverflowError("Python int too large to convert to C ssize_t")
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"{number} does not fit into a C int")


def _control_message(item: Any) -> tuple[Any, Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 3:
        raise TypeError("sendmsg() argument 2 must be an iterable of 3-item sequences")
    level, kind, data = item
    return level, kind, data


class SocketTransfers(SocketHooks, socket.socket):
    """The part of `UserSocket` that moves data: ``recv*``, ``send*``, `sendfile`.

    Blocking mode and timeouts are made of the hooks, which never block, and
    `Stack.wait`.
    """

    __slots__ = ("_family", "_gone", "_proto", "_timeout", "_type", "stack", "vpoll")

    stack: Stack
    """The stack that made the socket."""
    vpoll: VPoll
    """The socket's event mask and wait queue."""
    _family: socket.AddressFamily
    _type: socket.SocketKind
    _timeout: float | None
    _gone: bool

    def resolve_address(self, address: Any, caller: str) -> Address:
        """Return `address` with a numeric host, as the hooks take it.

        Raises TypeError and OverflowError as `socket.socket` does for what is no
        address of the family, `socket.gaierror` for a name that the stack does not know.
        """
        return numeric_address(address, self._family, self._lookup, caller)

    def _lookup(self, host: str) -> tuple[Any, ...]:
        return self.stack.getaddrinfo(host, None, self._family, self._type)[0][4]

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
        try:
            seen = self.stack.wait(self.vpoll, mask, left)
        except OSError:
            # Closed by another thread: as the socket's error, not the vpoll's.
            if not self._gone:
                raise
            seen = 0
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
            check_c_int(bufsize, flags)
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
        check_c_int(bufsize, flags)
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
        check_c_int(bufsize, flags)
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
        if type(data) is bytes:
            return data
        try:
            return memoryview(data).cast("B")
        except TypeError:
            if isinstance(data, (bytearray, memoryview)):
                raise
            kind = type(data).__name__
            raise TypeError(f"a bytes-like object is required, not {kind!r}") from None

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
        try:
            return self._retry(OUT, lambda: self.do_send(flat, wanted, target), flags)
        except OSError as exc:
            explain_send(exc, self.stack, target)
            raise

    def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
    ) -> int:
        """Send the concatenation of `buffers`, as sendmsg(2).

        Raises OSError (EINVAL) for ancillary data, which no stack carries, and TypeError
        for what is none.
        """
        if messages := list(ancdata):
            for level, kind, data in map(_control_message, messages):
                operator.index(level)
                operator.index(kind)
                memoryview(data)
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
