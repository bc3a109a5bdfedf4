"""Making servers over a stack's sockets."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..advice import explain_bind
from ..stacks.base import AddrInfo, Stack
from .alive import attach
from .base import logger
from .errors import user_socket
from .kernel import serve
from .names import resolve
from .server import Server
from .sockops import set_reuse_port
from .tls import check_ssl_arguments

__all__ = ["create_kernel_server", "create_server"]


def _set_if_known(sock: socket.socket, level: int, option: int) -> None:
    """Set an option that only matters on stacks that have it."""
    try:
        sock.setsockopt(level, option, 1)
    except OSError as exc:
        if exc.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            raise


def _bound_socket(
    stack: Stack,
    info: AddrInfo,
    reuse_address: bool | None,
    reuse_port: bool | None,
    keep_alive: bool | None,
) -> socket.socket:
    """Return a socket bound as `info` says.  Raises OSError."""
    family, kind, proto, _, address = info
    sock = stack.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        if reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif reuse_address is None:
            _set_if_known(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if reuse_port:
            set_reuse_port(sock, stack)
        if keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            # Each family gets a socket of its own; a dual one would take the other's port.
            _set_if_known(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _bound_sockets(
    stack: Stack, infos: Sequence[AddrInfo], debug: bool, **options: bool | None
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for info in infos:
            try:
                sockets.append(_bound_socket(stack, info, **options))
            except OSError as exc:
                message = (
                    f"error while attempting to bind on address {info[4]!r}: {str(exc).lower()}"
                )
                # The family is there, but not this address of it (gh-75125).
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise explain_bind(OSError(exc.errno, message), stack, info[4]) from None
                if debug:
                    logger.warning(message)
        if not sockets:
            raise functools.reduce(
                lambda error, info: explain_bind(error, stack, info[4]),
                infos,
                OSError(
                    errno.EADDRNOTAVAIL,
                    f"could not bind on any address out of {[info[4] for info in infos]!r}",
                ),
            )
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def _listening_sockets(
    loop: asyncio.AbstractEventLoop,
    stack: Stack,
    host: Any,
    port: int | str | None,
    family: int,
    flags: int,
    reuse_address: bool | None,
    reuse_port: bool | None,
    keep_alive: bool | None,
) -> list[socket.socket]:
    """Return a bound socket for each address that `create_server`'s arguments mean."""
    hosts: list[Any]
    if host == "":
        hosts = [None]
    elif host is None or isinstance(host, (str, bytes)):
        hosts = [host]
    else:
        hosts = list(host)
    answers = [
        info
        for name in hosts
        for info in await resolve(stack, (name, port), family, socket.SOCK_STREAM, flags=flags)
    ]
    attach(loop, stack)
    return _bound_sockets(
        stack,
        list(dict.fromkeys(answers)),
        loop.get_debug(),
        reuse_address=reuse_address,
        reuse_port=reuse_port,
        keep_alive=keep_alive,
    )


async def create_kernel_server(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | bytes | Iterable[str | bytes | None] | None = None,
    port: int | str | None = None,
    *,
    stack: Stack,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    **options: Any,
) -> asyncio.AbstractServer:
    """Listen on `stack`, whose sockets are the kernel's; return the loop's own server.

    For several addresses it is a `ServerGroup`.  Arguments and errors are those of
    `create_server`.
    """
    if host is None and port is None:
        raise ValueError("Neither host/port nor sock were specified")
    if isinstance(options.get("ssl"), bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    sockets = await _listening_sockets(
        loop, stack, host, port, family, flags, reuse_address, reuse_port, keep_alive
    )
    return await serve(loop, protocol_factory, sockets, stack, **options)


async def create_server(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | bytes | Iterable[str | bytes | None] | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    backlog: int = 100,
    ssl: ssl.SSLContext | None = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> Server:
    """Listen on `stack`, or on the bound `sock`; return the `Server`.

    As `asyncio.loop.create_server`: `host` may be several, or None or "" for all
    addresses of every family that the stack supports; names are the stack's.  Raises
    OSError (EADDRINUSE, EADDRNOTAVAIL …), `socket.gaierror`, ValueError for arguments
    that exclude each other, and for `reuse_port` on a stack that has none; OSError
    (ENETDOWN) when the stack is closed, TypeError for a kernel socket.
    """
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    check_ssl_arguments(
        ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    if host is not None or port is not None:
        if sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        if stack is None:
            raise ValueError("a host needs a stack to listen on: give stack=")
        sockets = [
            user_socket(sock)
            for sock in await _listening_sockets(
                loop, stack, host, port, family, flags, reuse_address, reuse_port, keep_alive
            )
        ]
    else:
        if sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        bound = user_socket(sock, socket.SOCK_STREAM)
        attach(loop, bound.stack)
        bound.setblocking(False)
        sockets = [bound]
    server = Server(
        loop,
        sockets,
        protocol_factory,
        ssl,
        backlog,
        ssl_handshake_timeout,
        ssl_shutdown_timeout,
    )
    if start_serving:
        try:
            server.begin()
        except BaseException:
            server.close()
            raise
        await asyncio.sleep(0)
    if loop.get_debug():
        logger.info("%r is serving", server)
    return server
