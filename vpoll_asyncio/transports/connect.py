"""Making stream connections over a stack's sockets."""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import socket
import ssl
import types
from asyncio import staggered
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar

from ..advice import copy_notes, explain_bind, explain_connect
from ..events import ERR, HUP, OUT
from ..stacks.base import AddrInfo, Stack
from ..stacks.host import meaning_host
from .alive import attach
from .base import logger
from .errors import user_socket
from .kernel import carry_connection
from .names import resolve
from .sockops import finish_connect
from .stream import StreamTransport
from .tls import check_ssl_arguments, make_stream

__all__ = ["connect_accepted_socket", "create_connection"]

_INET: Final = int(socket.AF_INET)
_ENDED: Final = OUT | ERR | HUP

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


def _interleave(infos: Sequence[AddrInfo], first: int) -> list[AddrInfo]:
    """Alternate between address families, after `first` of the preferred one (RFC 8305)."""
    families: dict[int, list[AddrInfo]] = collections.OrderedDict()
    for info in infos:
        families.setdefault(info[0], []).append(info)
    groups = list(families.values())
    head = groups[0][: first - 1] if first > 1 else []
    if head:
        groups[0] = groups[0][first - 1 :]
    rounds = itertools.zip_longest(*groups)
    return head + [info for infos in rounds for info in infos if info is not None]


def _bind_local(
    stack: Stack, sock: socket.socket, infos: Sequence[AddrInfo], errors: list[OSError]
) -> None:
    """Bind `sock` to the first of `infos` that works; collect the errors of others."""
    failed = []
    for family, _, _, _, address in infos:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as exc:
            text = f"error while attempting to bind on address {address!r}: {str(exc).lower()}"
            failed.append(explain_bind(OSError(exc.errno, text), stack, address))
    if not failed:
        raise OSError(f"no matching local address with family={sock.family!r} found")
    errors += failed[:-1]
    raise failed[-1]


async def _connect_one(
    loop: asyncio.AbstractEventLoop,
    stack: Stack,
    errors: list[list[OSError]],
    info: AddrInfo,
    local_infos: Sequence[AddrInfo] | None,
) -> socket.socket:
    """Return a socket connected to the address of `info`; append to `errors` and raise."""
    own: list[OSError] = []
    errors.append(own)
    family, kind, proto, _, address = info
    sock: socket.socket | None = None
    try:
        sock = stack.socket(family, kind, proto)
        sock.setblocking(False)
        if local_infos is not None:
            _bind_local(stack, sock, local_infos, own)
        if stack.kernel:
            with meaning_host():
                await loop.sock_connect(sock, address)
            return sock
        sock = user_socket(sock)
        # The stack's own answer is numeric, and an IPv4 one as sockets take it.
        target: Any = address
        if family != _INET:
            target = sock.resolve_address(address, "connect")
        # As `sockops.begin_connect`.
        if not sock.begin_connect(target) and sock.vpoll.peek() & _ENDED != OUT:
            await finish_connect(loop, sock, address)
        return sock
    except OSError as exc:
        explain_connect(exc, stack, address)
        own.append(exc)
        if sock is not None:
            sock.close()
        raise
    except BaseException:
        if sock is not None:
            sock.close()
        raise


def _combined(errors: list[OSError], all_errors: bool) -> BaseException:
    """Return the error that stands for `errors`, as asyncio's create_connection does."""
    if all_errors:
        return ExceptionGroup("create_connection failed", errors)
    text = str(errors[0])
    if all(str(error) == text for error in errors):
        return errors[0]
    several = OSError("Multiple exceptions: {}".format(", ".join(map(str, errors))))
    for error in errors:
        copy_notes(error, several)
    return several


async def _connect(
    loop: asyncio.AbstractEventLoop,
    stack: Stack,
    infos: list[AddrInfo],
    local_infos: list[AddrInfo] | None,
    delay: float | None,
    all_errors: bool,
) -> socket.socket:
    """Return a socket connected to the first of `infos` that answers."""
    if delay is None and local_infos is None and len(infos) == 1:
        # One attempt, one error.
        try:
            return await _connect_one(loop, stack, [], infos[0], None)
        except OSError as exc:
            if all_errors:
                raise _combined([exc], True) from None
            raise
    errors: list[list[OSError]] = []
    if delay is None:
        for info in infos:
            try:
                return await _connect_one(loop, stack, errors, info, local_infos)
            except OSError:
                continue
    else:
        attempts = [
            functools.partial(_connect_one, loop, stack, errors, info, local_infos)
            for info in infos
        ]
        won: socket.socket | None
        won, _, _ = await staggered.staggered_race(attempts, delay, loop=loop)
        if won is not None:
            return won
    try:
        raise _combined([error for group in errors for error in group], all_errors)
    finally:
        # The errors' tracebacks hold this frame.
        errors = []


@types.coroutine
def _one_turn() -> Generator[None, None, None]:
    """Let the loop run what it has been asked to run: `asyncio.sleep(0)` in fewer calls."""
    yield


async def create_connection(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _Protocol],
    host: str | bytes | None = None,
    port: int | str | None = None,
    *,
    stack: Stack | None = None,
    ssl: ssl.SSLContext | bool | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int] | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connect through `stack`, or use the connected `sock`; return (transport, protocol).

    As `asyncio.loop.create_connection`; names are the stack's, and the stack is
    attached to `loop`.  Raises what that raises: OSError (ECONNREFUSED …, one for all
    addresses, or an ExceptionGroup with `all_errors`), `socket.gaierror`, ValueError
    for arguments that exclude each other; OSError (ENETDOWN) when the stack is closed,
    TypeError for a kernel socket.
    """
    if server_hostname is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if server_hostname is None and ssl:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        server_hostname = host.decode("idna") if isinstance(host, bytes) else host
    if ssl_handshake_timeout is not None or ssl_shutdown_timeout is not None:
        check_ssl_arguments(
            ssl,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
    if happy_eyeballs_delay is not None and interleave is None:
        interleave = 1
    if host is not None or port is not None:
        if sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        if stack is None:
            raise ValueError("a host needs a stack to reach it through: give stack=")
        infos = await resolve(stack, (host, port), family, socket.SOCK_STREAM, proto, flags)
        local_infos = None
        if local_addr is not None:
            local_infos = await resolve(stack, local_addr, family, socket.SOCK_STREAM, proto, flags)
        if interleave:
            infos = _interleave(infos, interleave)
        attach(loop, stack)
        made = await _connect(loop, stack, infos, local_infos, happy_eyeballs_delay, all_errors)
        if stack.kernel:
            return await carry_connection(
                loop,
                protocol_factory,
                made,
                ssl=ssl,
                server_hostname=server_hostname if ssl else None,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        connected = user_socket(made)
    else:
        if sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        connected = user_socket(sock, socket.SOCK_STREAM)
        attach(loop, connected.stack)
    try:
        protocol = protocol_factory()
    except BaseException:
        if sock is None:
            connected.close()
        raise
    transport: asyncio.Transport
    if ssl:
        transport = await make_stream(
            loop,
            connected,
            protocol,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
    else:
        connected.setblocking(False)
        transport = StreamTransport(loop, connected, protocol)
        try:
            # The loop runs in order what it was asked to run: first `connection_made`.
            await _one_turn()
        except BaseException:
            transport.close()
            raise
    if loop.get_debug():
        logger.debug("%r connected to %s:%r: (%r, %r)", connected, host, port, transport, protocol)
    return transport, protocol


async def connect_accepted_socket(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _Protocol],
    sock: socket.socket,
    *,
    ssl: ssl.SSLContext | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> tuple[asyncio.Transport, _Protocol]:
    """Make a transport, on the server's side, for a connection accepted elsewhere.

    As `asyncio.loop.connect_accepted_socket`.  Raises as `create_connection` does.
    """
    accepted = user_socket(sock, socket.SOCK_STREAM)
    check_ssl_arguments(
        ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    attach(loop, accepted.stack)
    protocol = protocol_factory()
    transport = await make_stream(
        loop,
        accepted,
        protocol,
        ssl,
        "",
        server_side=True,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    if loop.get_debug():
        logger.debug("%r handled: (%r, %r)", accepted, transport, protocol)
    return transport, protocol
