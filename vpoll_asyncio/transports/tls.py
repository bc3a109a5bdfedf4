"""TLS over our transports, by asyncio's own protocol, on every loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ssl
from asyncio import sslproto
from typing import IO, TYPE_CHECKING, Any

from .._asyncio import can_send_files, can_start_tls, send_file_by_writing, ssl_transport
from ..sockets import UserSocket
from .sockops import check_file
from .stream import StreamTransport

if TYPE_CHECKING:
    from .server import Server

__all__ = ["check_ssl_arguments", "make_stream", "make_tls", "sendfile", "start_tls"]


def check_ssl_arguments(ssl: object, **others: object) -> None:
    """Raise ValueError for an argument among `others` that needs `ssl`."""
    for name, value in others.items():
        if value is not None and not ssl:
            raise ValueError(f"{name} is only meaningful with ssl")


def make_tls(
    loop: asyncio.AbstractEventLoop,
    sock: UserSocket,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext | None,
    waiter: asyncio.Future[None] | None = None,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    peername: Any = None,
    server: Server | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    context: contextvars.Context | None = None,
) -> asyncio.Transport:
    """Return a transport that speaks TLS over `sock`; `waiter` learns of the handshake."""
    tls = sslproto.SSLProtocol(
        loop,
        protocol,
        sslcontext,  # type: ignore[arg-type]
        waiter,  # type: ignore[arg-type]
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    StreamTransport(loop, sock, tls, peername=peername, server=server, context=context)
    return ssl_transport(tls)


async def make_stream(
    loop: asyncio.AbstractEventLoop,
    sock: UserSocket,
    protocol: Any,
    ssl: ssl.SSLContext | bool | None,
    server_hostname: str | None,
    *,
    server_side: bool = False,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> asyncio.Transport:
    """Return a transport for the connected `sock` once `connection_made` was called.

    With `ssl`, once the handshake is done.  Raises what that ends with.
    """
    sock.setblocking(False)
    transport: asyncio.Transport
    if ssl:
        waiter: asyncio.Future[None] = loop.create_future()
        transport = make_tls(
            loop,
            sock,
            protocol,
            None if isinstance(ssl, bool) else ssl,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
    else:
        transport = StreamTransport(loop, sock, protocol)
    try:
        if ssl:
            await waiter
        else:
            # The loop runs in order what it was asked to run: first `connection_made`.
            await asyncio.sleep(0)
    except BaseException:
        transport.close()
        raise
    return transport


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.WriteTransport,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> asyncio.Transport:
    """Lay TLS over `transport`; return the transport that `protocol` uses from now on.

    As `asyncio.loop.start_tls`.  Raises TypeError for a transport or a context that
    cannot do it, and what the handshake ends with; the connection is closed then.
    """
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(
            f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
        )
    if not can_start_tls(transport) or not isinstance(transport, asyncio.Transport):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter: asyncio.Future[None] = loop.create_future()
    tls = sslproto.SSLProtocol(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        call_connection_made=False,
    )
    # Nothing may be received before the protocol knows its transport.
    transport.pause_reading()
    transport.set_protocol(tls)
    made = loop.call_soon(tls.connection_made, transport)
    resumed = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException:
        transport.close()
        made.cancel()
        resumed.cancel()
        raise
    return ssl_transport(tls)


async def sendfile(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.WriteTransport,
    file: IO[bytes],
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """Send `file` through `transport`, block by block under flow control; return the count.

    As `asyncio.loop.sendfile`; what others write to a `StreamTransport` meanwhile is
    refused.  Raises RuntimeError when the transport is closing, is none of a stream, or
    sends another file, and `asyncio.SendfileNotAvailableError` when `fallback` is false:
    no system call can write to a user socket.
    """
    if transport.is_closing():
        raise RuntimeError("Transport is closing")
    if not can_send_files(transport):
        raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
    check_file(file, offset, count)
    if not fallback:
        raise asyncio.SendfileNotAvailableError(
            f"fallback is disabled and native sendfile is not supported for transport {transport!r}"
        )
    with contextlib.ExitStack() as guards:
        if isinstance(transport, StreamTransport):
            guards.enter_context(transport.sending_file())
        return await send_file_by_writing(loop, transport, file, offset, count)
