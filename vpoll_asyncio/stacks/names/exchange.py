"""Questions to one server and its answers, by UDP and TCP sockets of the stack.

Against forged answers (RFC 5452): identifier and port are by chance, the socket is
connected, so that only the server's address and port get through to it, and the
question is compared.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...events import ERR, HUP, IN, OUT
from .config import split_server
from .messages import Query, Reply, read_reply
from .waits import Waits

if TYPE_CHECKING:
    from ..base import Stack

__all__ = ["exchange"]

_Result = TypeVar("_Result")

_LONGEST: Final = 65535
# RFC 6335: dynamic ports.  Stacks hand them out in order, which can be guessed.
_PORTS: Final = range(49152, 65536)
_PORT_TRIES: Final = 8
# RFC 8085, 3.1.1.  Sooner than resolv.conf(5)'s time-out: a stack that asks for the
# server's hardware address keeps few of the datagrams that wait for it.
_AGAIN: Final = 1.0


async def exchange(
    stack: Stack,
    waits: Waits,
    server: str,
    queries: Sequence[Query],
    timeout: float,
    *,
    use_tcp: bool = False,
) -> dict[Query, Reply]:
    """Ask `server` all of `queries` at once; return what it has answered.

    server -- as `split_server` takes it
    timeout -- seconds for all answers; those to be had by TCP have as long again

    By UDP a question is sent a second time when a second has passed.

    Raises OSError when the server cannot be asked at all: ECONNREFUSED, ENETUNREACH …
    """
    found: dict[Query, Reply] = {}
    if not use_tcp:
        found = await _by_udp(stack, waits, server, queries, time.monotonic() + timeout)
    deadline = time.monotonic() + timeout
    for query in queries:
        if use_tcp or (query in found and found[query].truncated):
            found.pop(query, None)
            try:
                reply = await _by_tcp(stack, waits, server, query, deadline)
            except OSError:
                # What the other question has for an answer is good.
                if not found:
                    raise
                continue
            if reply is not None:
                found[query] = reply
    return found


def _address(stack: Stack, server: str, kind: int) -> tuple[int, Any]:
    host, port = split_server(server)
    if "%" in host:
        # Of the names of a stack's interfaces numeric look-ups know nothing.
        host = next(iter(stack.lookup_hosts(host, 0) or (host,)))
    infos = stack.getaddrinfo(host, port, 0, kind, 0, socket.AI_NUMERICHOST)
    family, _, _, _, address = infos[0]
    return family, address


async def _attempt(
    waits: Waits, sock: socket.socket, mask: int, deadline: float, call: Callable[[], _Result]
) -> _Result:
    """Return what `call` returns as soon as it need not wait.  Raises TimeoutError."""
    seen = 0
    while True:
        try:
            return call()
        except (BlockingIOError, InterruptedError):
            if seen & (ERR | HUP):
                # Nothing to do and nothing raised: never spin.
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from None
        seen = await waits.ready(sock, mask, deadline)


def _bind(sock: socket.socket, family: int) -> None:
    """Bind to a port by chance, or leave that to the stack where those tried are taken."""
    for _ in range(_PORT_TRIES):
        try:
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", secrets.choice(_PORTS)))
            return
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise


async def _send(
    waits: Waits, sock: socket.socket, queries: Sequence[Query], deadline: float
) -> None:
    for query in queries:
        await _attempt(waits, sock, OUT, deadline, functools.partial(sock.send, query.wire))


async def _by_udp(
    stack: Stack, waits: Waits, server: str, queries: Sequence[Query], deadline: float
) -> dict[Query, Reply]:
    family, address = _address(stack, server, socket.SOCK_DGRAM)
    found: dict[Query, Reply] = {}
    with stack.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        _bind(sock, family)
        sock.connect(address)
        try:
            again = min(deadline, time.monotonic() + _AGAIN)
            await _send(waits, sock, queries, deadline)
            while len(found) < len(queries):
                # Whatever arrives, loops get their turn and the time ends.
                try:
                    await waits.ready(sock, IN, again)
                except TimeoutError:
                    if again == deadline:
                        raise
                    again = deadline
                    left = [query for query in queries if query not in found]
                    await _send(waits, sock, left, deadline)
                    continue
                wire = await _attempt(waits, sock, IN, deadline, lambda: sock.recv(_LONGEST))
                for query in queries:
                    if query not in found and (reply := read_reply(query, wire)) is not None:
                        found[query] = reply
                        break
        except TimeoutError:
            pass
        except OSError:
            if not found:
                raise
    return found


async def _by_tcp(
    stack: Stack, waits: Waits, server: str, query: Query, deadline: float
) -> Reply | None:
    family, address = _address(stack, server, socket.SOCK_STREAM)
    with stack.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            number = sock.connect_ex(address)
            if number == errno.EINPROGRESS:
                await waits.ready(sock, OUT, deadline)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            rest = struct.pack("!H", len(query.wire)) + query.wire
            while rest:
                send = functools.partial(sock.send, rest)
                sent = await _attempt(waits, sock, OUT, deadline, send)
                rest = rest[sent:]
            head = await _receive(waits, sock, 2, deadline)
            wire = await _receive(waits, sock, int.from_bytes(head, "big"), deadline)
        except TimeoutError:
            return None
    return read_reply(query, wire)


async def _receive(waits: Waits, sock: socket.socket, count: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        left = count - len(parts)
        receive = functools.partial(sock.recv, left)
        data = await _attempt(waits, sock, IN, deadline, receive)
        if not data:
            raise OSError(errno.ECONNRESET, "the name server has closed the connection")
        parts += data
    return bytes(parts)
