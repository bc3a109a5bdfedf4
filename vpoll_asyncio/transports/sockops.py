"""The loop's ``sock_*`` methods for user sockets, on any loop.

A coroutine waits until the socket is ready and then acts, without a suspension between
the act and its return.  So cancelling it anywhere loses no byte and no connection, and
leaves no waiter: what was not returned is still in the socket.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from collections.abc import Callable
from typing import IO, Any, Final, TypeVar

from ..advice import explain_connect, explain_send
from ..events import ERR, HUP, IN, OUT, RDHUP
from ..sockaddr import Address
from ..sockets import UserSocket
from ..stacks.base import Stack
from ..watch import Watch
from .alive import attach, drop, hold
from .errors import RETRY, closed_error, pending_error
from .names import resolve_address

__all__ = [
    "begin_connect",
    "finish_connect",
    "set_reuse_port",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "wait_ready",
]

_Result = TypeVar("_Result")

_READ: Final = IN | RDHUP
_TERMINAL: Final = ERR | HUP
_FILE_BLOCK: Final = 256 * 1024


def _check(loop: asyncio.AbstractEventLoop, sock: UserSocket) -> None:
    if loop.get_debug() and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")
    if sock.vpoll.closed:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def set_reuse_port(sock: socket.socket, stack: Stack) -> None:
    """Set SO_REUSEPORT.  Raises ValueError, as asyncio does, where there is no such option."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as exc:
        if exc.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            raise
        raise ValueError(
            f"reuse_port is not supported by the {stack.name} stack: leave it out"
        ) from exc


class _Waiting:
    """A wait for events of a socket; whoever waits for `future` may be held by nothing else."""

    __slots__ = ("_watch", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: UserSocket) -> None:
        self.future: asyncio.Future[int] = loop.create_future()
        self._watch = Watch(loop, sock.vpoll, 0, self._ready, owner=self)

    def begin(self, mask: int) -> None:
        self._watch.set_interest(mask)

    def unwatch(self) -> None:
        self._watch.cancel()

    def _ready(self, seen: int) -> None:
        self._watch.cancel()
        if not self.future.done():
            self.future.set_result(seen)

    def vpoll_closed(self) -> None:
        if not self.future.done():
            self.future.set_exception(closed_error())


async def wait_ready(loop: asyncio.AbstractEventLoop, sock: UserSocket, mask: int) -> int:
    """Wait until an event of `mask`, ERR or HUP is pending on `sock`; return what is.

    Attaches the socket's stack to `loop`, which a waiting caller needs driven.  Raises
    OSError (EBADF) when the socket is or gets closed.
    """
    attach(loop, sock.stack)
    waiting = _Waiting(loop, sock)
    hold(loop, waiting)
    try:
        waiting.begin(mask)
        return await waiting.future
    finally:
        waiting.unwatch()
        drop(loop, waiting)


async def _when_ready(
    loop: asyncio.AbstractEventLoop,
    sock: UserSocket,
    mask: int,
    attempt: Callable[[], _Result],
) -> _Result:
    """Return what `attempt` returns as soon as it need not wait."""
    _check(loop, sock)
    seen = 0
    while True:
        try:
            return attempt()
        except RETRY:
            if seen & _TERMINAL:
                # ERR or HUP, and yet nothing to do and nothing raised: never spin.
                raise pending_error(sock) or OSError(
                    errno.ENOTCONN, os.strerror(errno.ENOTCONN)
                ) from None
        seen = await wait_ready(loop, sock, mask)
        if sock.vpoll.closed:
            raise closed_error()


async def sock_recv(loop: asyncio.AbstractEventLoop, sock: UserSocket, n: int) -> bytes:
    """Return up to `n` bytes, ``b""`` at the end, as `asyncio.loop.sock_recv`."""
    if n < 0:
        raise ValueError("negative buffersize in recv")
    return await _when_ready(loop, sock, _READ, lambda: sock.do_recv(n, 0))


async def sock_recv_into(loop: asyncio.AbstractEventLoop, sock: UserSocket, buf: Any) -> int:
    """Read into `buf`; return the count."""
    view = memoryview(buf).cast("B")
    return await _when_ready(loop, sock, _READ, lambda: sock.do_recv_into(view, 0))


async def sock_recvfrom(
    loop: asyncio.AbstractEventLoop, sock: UserSocket, bufsize: int
) -> tuple[bytes, Any]:
    """Return (datagram, sender)."""
    if bufsize < 0:
        raise ValueError("negative buffersize in recvfrom")
    data, _, address = await _when_ready(loop, sock, _READ, lambda: sock.do_recvfrom(bufsize, 0))
    return data, address


async def sock_recvfrom_into(
    loop: asyncio.AbstractEventLoop, sock: UserSocket, buf: Any, nbytes: int = 0
) -> tuple[int, Any]:
    """Read a datagram into `buf`, at most `nbytes` bytes (0: all of it); return (count, sender)."""
    view = memoryview(buf).cast("B")
    if nbytes < 0:
        raise ValueError("negative buffersize in recvfrom_into")
    if nbytes > len(view):
        raise ValueError("nbytes is greater than the length of the buffer")
    size = nbytes or len(view)
    data, address = await sock_recvfrom(loop, sock, size)
    view[: len(data)] = data
    return len(data), address


async def sock_sendall(loop: asyncio.AbstractEventLoop, sock: UserSocket, data: Any) -> None:
    """Send all of `data`.

    When it is cancelled or raises, a prefix of unknown length has been sent.
    """
    rest = data if type(data) is bytes else memoryview(data).cast("B")
    _check(loop, sock)
    while rest:
        send = functools.partial(sock.do_send, rest, 0, None)
        sent = await _when_ready(loop, sock, OUT, send)
        if sent == len(rest):
            return
        rest = memoryview(rest)[sent:]


async def sock_sendto(
    loop: asyncio.AbstractEventLoop, sock: UserSocket, data: Any, address: Any
) -> int:
    """Send the datagram `data` to `address`; return its length."""
    flat = data if type(data) is bytes else memoryview(data).cast("B")
    _check(loop, sock)
    target = await resolve_address(sock, address, "sendto")
    try:
        return await _when_ready(loop, sock, OUT, lambda: sock.do_send(flat, 0, target))
    except OSError as exc:
        explain_send(exc, sock.stack, target)
        raise


async def sock_connect(loop: asyncio.AbstractEventLoop, sock: UserSocket, address: Any) -> None:
    """Connect to `address`; a host name is resolved by the socket's stack.

    Raises what the connection ends with: ConnectionRefusedError, TimeoutError …  When
    it is cancelled the socket goes on connecting: close it.
    """
    _check(loop, sock)
    attach(loop, sock.stack)
    target = await resolve_address(sock, address, "connect")
    # It may have been closed while a name was looked up.
    _check(loop, sock)
    try:
        if not begin_connect(sock, target):
            await finish_connect(loop, sock, address)
    except OSError as exc:
        explain_connect(exc, sock.stack, target)
        raise


def begin_connect(sock: UserSocket, address: Address) -> bool:
    """Begin to connect to the numeric `address`; return whether the connection is made already.

    If not, `finish_connect` is to be awaited.  Raises as `sock_connect` does.
    """
    if sock.begin_connect(address):
        return True
    # Where the stack has the answer at once, the kernel's connect(2) would wait for nothing.
    # Neither ERR nor HUP: SO_ERROR has nothing to tell.
    return sock.vpoll.peek() & (OUT | _TERMINAL) == OUT


async def finish_connect(loop: asyncio.AbstractEventLoop, sock: UserSocket, address: Any) -> None:
    """Wait for the end of what `begin_connect` has begun.  Raises what it ends with."""
    seen = sock.vpoll.peek() & (OUT | _TERMINAL)
    if not seen:
        seen = await wait_ready(loop, sock, OUT)
        if sock.vpoll.closed:
            raise closed_error()
    if seen == OUT:
        return
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, f"Connect call failed {address}")


async def sock_accept(loop: asyncio.AbstractEventLoop, sock: UserSocket) -> tuple[UserSocket, Any]:
    """Return the next connection, non-blocking, and its peer's address."""
    connection, address = await _when_ready(loop, sock, IN, sock.do_accept)
    connection.setblocking(False)
    return connection, address


async def sock_sendfile(
    loop: asyncio.AbstractEventLoop,
    sock: UserSocket,
    file: IO[bytes],
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """Send `file` from `offset`, read block by block in the executor; return the count.

    count -- bytes to send; None for all up to the end of the file

    Raises `asyncio.SendfileNotAvailableError` when `fallback` is false: the system call
    cannot write to a user socket.  The file's position is behind what was sent then.
    """
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    check_file(file, offset, count)
    _check(loop, sock)
    if not fallback:
        raise asyncio.SendfileNotAvailableError(f"os.sendfile cannot write to {sock!r}")
    if offset:
        file.seek(offset)
    total = 0
    try:
        while count is None or total < count:
            size = _FILE_BLOCK if count is None else min(count - total, _FILE_BLOCK)
            block = await loop.run_in_executor(None, file.read, size)
            if not block:
                break
            await sock_sendall(loop, sock, block)
            total += len(block)
        return total
    finally:
        if total and hasattr(file, "seek"):
            file.seek(offset + total)


def check_file(file: IO[bytes], offset: int, count: int | None) -> None:
    """Raise ValueError or TypeError for what `asyncio.loop.sendfile` refuses."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")
