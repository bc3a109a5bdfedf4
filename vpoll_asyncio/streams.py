"""Connections, servers and endpoints on a stack, on whichever loop is running.

These are the loop's methods and asyncio's stream functions with one argument more.
`stack` names the stack; without it the current one is meant (`current_stack`).  On
the host's stack the running loop does what it always does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

from . import transports
from .relay import is_uvloop
from .sockets import UserSocket
from .stacks.base import Stack
from .stacks.current import current_stack
from .stacks.host import is_host
from .stacks.kernelsocket import stack_of_socket

__all__ = [
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "open_connection",
    "start_server",
]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


class _TlsOnAnyTransport:
    """A loop of uvloop's own, whose `start_tls` takes no transports but uvloop's.

    `asyncio.StreamWriter` asks its loop to start TLS.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._own = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    async def start_tls(
        self, transport: Any, protocol: asyncio.BaseProtocol, sslcontext: Any, **options: Any
    ) -> Any:
        start: Any = self._own.start_tls
        if isinstance(transport.get_extra_info("socket"), transports.SocketView):
            start = functools.partial(transports.start_tls, self._own)
        return await start(transport, protocol, sslcontext, **options)


def _loop_for_streams(loop: asyncio.AbstractEventLoop) -> Any:
    """Return `loop` as streams are to have it."""
    # Loops of this package take our transports.
    own = hasattr(loop, "attach_stack")
    return _TlsOnAnyTransport(loop) if is_uvloop(loop) and not own else loop


# asyncio's own limit of what a StreamReader buffers.
_LIMIT: Final = 2**16


def _stack_for(stack: Stack | None, sock: socket.socket | None) -> Stack | None:
    """Return the stack that a call is for, None when the loop itself is to do it."""
    if sock is not None:
        user = isinstance(sock, UserSocket)
        own = sock.stack if isinstance(sock, UserSocket) else stack_of_socket(sock)
        fits = stack is None or stack is own or (own is None and is_host(stack))
        if not fits:
            raise ValueError(f"sock= is not a socket of the stack that stack= names: {sock!r}")
        return own if user else None
    chosen = current_stack(stack)
    return None if is_host(chosen) else chosen


@contextlib.contextmanager
def _on_host(stack: Stack | None) -> Iterator[None]:
    """Have the running loop, which may have a stack of its own, mean the host's."""
    if stack is None or current_stack() is stack:
        yield
    else:
        with stack.activate():
            yield


async def create_connection(
    protocol_factory: Callable[[], _Protocol],
    host: str | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    sock: socket.socket | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connect to a port through `stack`; return (transport, protocol).

    `stack` None means the current one (`current_stack`), which may be the host.  As
    `asyncio.loop.create_connection`, which says what `options` may be.  Raises what
    that raises, ValueError when `sock` is not of `stack`, and OSError (ENETDOWN) when
    the stack is closed.
    """
    loop = asyncio.get_running_loop()
    user = _stack_for(stack, sock)
    if user is None:
        with _on_host(stack):
            own: Any = loop.create_connection
            transport, protocol = await own(protocol_factory, host, port, sock=sock, **options)
        return transport, protocol
    return await transports.create_connection(
        loop, protocol_factory, host, port, stack=user, sock=sock, **options
    )


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Any = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    sock: socket.socket | None = None,
    **options: Any,
) -> asyncio.AbstractServer:
    """Listen on a port of `stack`; return the server.

    `stack` None means the current one (`current_stack`).
    As `asyncio.loop.create_server`, which says what `options` may be.  The connections'
    protocols run with `stack` as the current one.  Raises as `create_connection` does.
    """
    loop = asyncio.get_running_loop()
    user = _stack_for(stack, sock)
    if user is None:
        with _on_host(stack):
            own: Any = loop.create_server
            server: asyncio.AbstractServer = await own(
                protocol_factory, host, port, sock=sock, **options
            )
        return server
    if user.kernel:
        return await transports.create_kernel_server(
            loop, protocol_factory, host, port, stack=user, **options
        )
    return await transports.create_server(
        loop, protocol_factory, host, port, stack=user, sock=sock, **options
    )


async def create_datagram_endpoint(
    protocol_factory: Callable[[], _Protocol],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    stack: Stack | None = None,
    sock: socket.socket | None = None,
    **options: Any,
) -> tuple[asyncio.DatagramTransport, _Protocol]:
    """Make a datagram endpoint on `stack`; return (transport, protocol).

    `stack` None means the current one (`current_stack`).
    As `asyncio.loop.create_datagram_endpoint`, which says what `options` may be.
    Raises as `create_connection` does.
    """
    loop = asyncio.get_running_loop()
    user = _stack_for(stack, sock)
    if user is None:
        with _on_host(stack):
            own: Any = loop.create_datagram_endpoint
            transport, protocol = await own(
                protocol_factory, local_addr, remote_addr, sock=sock, **options
            )
        return transport, protocol
    return await transports.create_datagram_endpoint(
        loop, protocol_factory, local_addr, remote_addr, stack=user, sock=sock, **options
    )


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    limit: int = _LIMIT,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port through `stack`; return (reader, writer).

    `stack` None means the current one (`current_stack`).
    As `asyncio.open_connection`.  Raises as `create_connection` does.

    limit -- bytes that the reader buffers before it stops the sender
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    streams_loop = _loop_for_streams(loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=streams_loop)
    transport, _ = await create_connection(lambda: protocol, host, port, stack=stack, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, streams_loop)


async def start_server(
    client_connected_cb: _Connected,
    host: Any = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    limit: int = _LIMIT,
    **options: Any,
) -> asyncio.AbstractServer:
    """Listen on a port of `stack`, call `client_connected_cb(reader, writer)` for each connection.

    `stack` None means the current one (`current_stack`).
    As `asyncio.start_server`: the callback may be a coroutine function.  It runs with
    `stack` as the current one.  Raises as `create_server` does.

    limit -- bytes that each reader buffers before it stops the sender
    """
    loop = asyncio.get_running_loop()
    streams_loop = _loop_for_streams(loop)

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=streams_loop)

    return await create_server(factory, host, port, stack=stack, **options)
