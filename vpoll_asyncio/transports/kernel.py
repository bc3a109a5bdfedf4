"""Connections, servers and endpoints over sockets that a stack makes in the kernel.

Such a stack (`Stack.kernel`) only makes sockets, in a network of its own.  The running
loop, whichever it is, carries them with its own transports: it gets each one as its
``sock=``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ..stacks.base import Stack
from ..stacks.host import meaning_host

__all__ = ["ServerGroup", "carry_connection", "carry_endpoint", "serve"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


async def carry_connection(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _Protocol],
    sock: socket.socket,
    **options: Any,
) -> tuple[asyncio.Transport, _Protocol]:
    """Return (transport, protocol) over `sock`, which is connected and is closed on failure.

    options -- ``ssl`` and what belongs to it, as `asyncio.loop.create_connection` has them
    """
    create: Any = loop.create_connection
    try:
        with meaning_host():
            transport, protocol = await create(protocol_factory, sock=sock, **options)
    except BaseException:
        sock.close()
        raise
    return transport, protocol


class ServerGroup(asyncio.AbstractServer):
    """Servers of one loop, one for each socket, that begin and end together.

    It has the methods of `asyncio.Server`, to be called in the loop's thread.
    """

    def __init__(self, servers: Sequence[Any]) -> None:
        self._servers = tuple(servers)
        self._awaited = False

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets; none when the server is closed."""
        return tuple(sock for server in self._servers for sock in server.sockets or ())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that serves."""
        return cast(asyncio.AbstractEventLoop, self._servers[0].get_loop())

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return any(server.is_serving() for server in self._servers)

    async def start_serving(self) -> None:
        """Begin to accept connections.  Raises RuntimeError when closed."""
        for server in self._servers:
            await server.start_serving()

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; then close the server.

        Raises RuntimeError when it is closed, or awaited in this way already.
        """
        if self._awaited:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._awaited = True
        try:
            await asyncio.gather(*(server.serve_forever() for server in self._servers))
        finally:
            self._awaited = False

    def close(self) -> None:
        """Stop listening; connections that are open go on."""
        for server in self._servers:
            server.close()

    def close_clients(self) -> None:
        """Close the connections that were accepted, where the loop's servers can do that."""
        for server in self._servers:
            server.close_clients()

    def abort_clients(self) -> None:
        """Abort the connections that were accepted, where the loop's servers can do that."""
        for server in self._servers:
            server.abort_clients()

    async def wait_closed(self) -> None:
        """Wait as each of the servers does."""
        for server in self._servers:
            await server.wait_closed()

    def __repr__(self) -> str:
        return f"<ServerGroup sockets={self.sockets}>"


async def serve(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    sockets: Sequence[socket.socket],
    stack: Stack,
    **options: Any,
) -> asyncio.AbstractServer:
    """Return a server that listens on all of `sockets`, which are bound; closed on failure.

    The connections' protocols are made and called with `stack` as the current one.

    options -- as `asyncio.loop.create_server` has them, besides those for addresses
    """
    create: Any = loop.create_server
    servers: list[asyncio.AbstractServer] = []
    try:
        with stack.activate():
            for sock in sockets:
                servers.append(await create(protocol_factory, sock=sock, **options))
    except BaseException:
        for server in servers:
            server.close()
        for sock in sockets:
            sock.close()
        raise
    return servers[0] if len(servers) == 1 else ServerGroup(servers)


class _AddressedTransport(asyncio.DatagramTransport):
    """A loop's own transport that sends to `address` unless told otherwise."""

    def __init__(self, transport: Any, address: Any) -> None:
        super().__init__()
        self._transport = transport
        self._address = address

    def sendto(self, data: Any, addr: Any = None) -> None:
        if addr not in (None, self._address):
            raise ValueError(f"Invalid address: must be None or {self._address}")
        self._transport.sendto(data, self._address)

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._transport.get_protocol())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Introduction(asyncio.DatagramProtocol):
    """Meets the loop's transport in place of `protocol`, which gets an addressed one."""

    def __init__(self, protocol: Any, address: Any) -> None:
        self.protocol = protocol
        self._address = address
        self.transport: _AddressedTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = _AddressedTransport(transport, self._address)
        transport.set_protocol(self.protocol)
        self.protocol.connection_made(self.transport)


async def carry_endpoint(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _Protocol],
    sock: socket.socket,
    address: Any = None,
) -> tuple[asyncio.DatagramTransport, _Protocol]:
    """Return (transport, protocol) over the datagram socket `sock`, closed on failure.

    address -- where datagrams go by default on a socket that is not connected
    """
    create: Any = loop.create_datagram_endpoint
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(sock.close)
        if address is None:
            with meaning_host():
                transport, protocol = await create(protocol_factory, sock=sock)
        else:
            introduction = _Introduction(protocol_factory(), address)
            with meaning_host():
                await create(lambda: introduction, sock=sock)
            transport, protocol = introduction.transport, introduction.protocol
        on_failure.pop_all()
    return transport, protocol
