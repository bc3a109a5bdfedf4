"""The datagram transport: protocols over a user socket of datagrams, on any loop."""

from __future__ import annotations

import asyncio
import collections
import socket
from asyncio import constants
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ..events import RDHUP
from ..sockets import UserSocket
from ..stacks.base import Stack
from ..stacks.host import meaning_host
from .alive import attach
from .base import SocketTransport, logger
from .errors import RETRY, stack_down, user_socket
from .kernel import carry_endpoint
from .names import resolve
from .sockops import set_reuse_port, sock_connect

__all__ = ["DatagramTransport", "create_datagram_endpoint"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

# Datagrams that one turn receives or sends at most.
_BATCH: Final = 16
# What a buffered datagram counts for beyond its data, so that empty ones count too.
_HEADER: Final = 8


class DatagramTransport(SocketTransport, asyncio.DatagramTransport):
    """A `asyncio.DatagramTransport` over a user socket.

    Parameters beyond those of `SocketTransport`:
    address -- where `sendto` sends by default, on a socket that is not connected

    Behaves as asyncio's own for a kernel socket: an OSError of a send or a receive
    goes to the protocol's `error_received`, and the transport stays open.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: UserSocket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
    ) -> None:
        self._address = address
        self._buffer: collections.deque[tuple[bytes, Any]] = collections.deque()
        self._buffer_size = 0
        self._reader = self._receive
        super().__init__(loop, sock, protocol, waiter, sock.names())
        self._connected = bool(self.get_extra_info("peername"))

    def _receive(self, mask: int) -> None:
        for _ in range(_BATCH):
            if not self.is_reading() or self._ended:
                return
            try:
                data, _, address = self._sock.do_recvfrom(self.max_size, 0)
            except RETRY:
                self._would_block(mask, "Fatal read error on datagram transport")
                return
            except OSError as exc:
                if self._is_fatal(exc):
                    return
                # What may follow is looked at in the next turn: an error has no end to wait for.
                self._protocol.error_received(exc)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal read error on datagram transport")
                return
            if not data and mask & RDHUP and self._sock.vpoll.peek() & RDHUP:
                # Shut down for receiving: from now on every receive is empty.
                self._ended = True
                self._refresh()
                return
            self._protocol.datagram_received(data, address)

    def _is_fatal(self, exc: OSError) -> bool:
        """End the transport when its socket or stack is gone, and tell whether that is so."""
        if self._sock.vpoll.closed or stack_down(self._sock) is not None:
            self._fatal_error(exc, "Fatal error on datagram transport")
            return True
        return False

    def sendto(self, data: bytes | bytearray | memoryview[Any], addr: Any = None) -> None:
        """Send the datagram `data`, an empty one too, to `addr` or the transport's peer.

        A name in `addr` is looked up by the socket's stack, and as with asyncio's own
        transport the loop waits for that; what fails is told to `error_received`.  Raises
        TypeError for what is not bytes-like and ValueError for an address other than the
        transport's own.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            try:
                self._send(data, addr)
                return
            except RETRY:
                pass
            except OSError as exc:
                if not self._is_fatal(exc):
                    self._protocol.error_received(exc)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        self._buffer.append((bytes(data), addr))
        self._buffer_size += len(self._buffer[-1][0]) + _HEADER
        self._refresh()
        self._maybe_pause_protocol()

    def _send(self, data: Any, addr: Any) -> None:
        if self._connected:
            self._sock.send(data)
        else:
            self._sock.sendto(data, addr)

    def _write_ready(self, mask: int) -> None:
        buffer = self._buffer
        for _ in range(_BATCH):
            if not buffer:
                break
            data, addr = buffer.popleft()
            self._buffer_size -= len(data) + _HEADER
            try:
                self._send(data, addr)
            except RETRY:
                buffer.appendleft((data, addr))
                self._buffer_size += len(data) + _HEADER
                self._would_block(mask, "Fatal write error on datagram transport")
                break
            except OSError as exc:
                if self._is_fatal(exc):
                    return
                # That datagram is lost, the others are not.
                self._protocol.error_received(exc)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        if self._conn_lost:
            return
        self._maybe_resume_protocol()
        if buffer or self._conn_lost:
            return
        if self._closing:
            self._conn_lost += 1
            self._refresh()
            self._call_connection_lost(None)
            return
        self._refresh()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent, with 8 for each datagram."""
        return self._buffer_size

    def _pending_writes(self) -> bool:
        return bool(self._buffer)

    def _discard_writes(self) -> None:
        self._buffer.clear()
        self._buffer_size = 0


async def _address_pairs(
    stack: Stack, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
) -> Sequence[tuple[int, int, Any, Any]]:
    """Return (family, proto, local, remote) for each combination that both ends have."""
    if not (local_addr or remote_addr):
        if family == 0:
            raise ValueError("unexpected address family")
        return [(family, proto, None, None)]
    pairs: dict[tuple[int, int], list[Any]] = {}
    for index, addr in enumerate((local_addr, remote_addr)):
        if addr is None:
            continue
        if not (isinstance(addr, tuple) and len(addr) in (2, 4)):
            raise TypeError("2-tuple is expected")
        for info in await resolve(stack, addr, family, socket.SOCK_DGRAM, proto, flags):
            pairs.setdefault((info[0], info[2]), [None, None])[index] = info[4]
    complete = [
        (key[0], key[1], local, remote)
        for key, (local, remote) in pairs.items()
        if not ((local_addr and local is None) or (remote_addr and remote is None))
    ]
    if not complete:
        raise ValueError("can not get address information")
    return complete


async def _endpoint_socket(
    loop: asyncio.AbstractEventLoop,
    stack: Stack,
    pair: tuple[int, int, Any, Any],
    reuse_port: bool | None,
    allow_broadcast: bool | None,
) -> socket.socket:
    family, proto, local, remote = pair
    sock = stack.socket(family, socket.SOCK_DGRAM, proto)
    try:
        sock.setblocking(False)
        if reuse_port:
            set_reuse_port(sock, stack)
        if allow_broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if local is not None:
            sock.bind(local)
        if remote is not None and not allow_broadcast:
            if stack.kernel:
                with meaning_host():
                    await loop.sock_connect(sock, remote)
            else:
                await sock_connect(loop, user_socket(sock), remote)
    except BaseException:
        sock.close()
        raise
    return sock


async def create_datagram_endpoint(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _Protocol],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    stack: Stack | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
) -> tuple[asyncio.DatagramTransport, _Protocol]:
    """Make a datagram socket on `stack`, or use `sock`; return (transport, protocol).

    As `asyncio.loop.create_datagram_endpoint`.  Raises OSError (EADDRINUSE …),
    `socket.gaierror`, ValueError for arguments that exclude each other, and for
    `reuse_port` on a stack that has none; OSError (ENETDOWN) when the stack is closed,
    TypeError for a kernel socket.
    """
    remote = None
    if sock is not None:
        endpoint = user_socket(sock)
        if endpoint.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
        given = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        problems = ", ".join(f"{name}={value}" for name, value in given.items() if value)
        if problems:
            raise ValueError(
                "socket modifier keyword arguments can not be used when sock is specified. "
                f"({problems})"
            )
        attach(loop, endpoint.stack)
        endpoint.setblocking(False)
    else:
        if stack is None:
            raise ValueError("an address needs a stack that has it: give stack=")
        stack.refuse_closed()
        pairs = await _address_pairs(stack, local_addr, remote_addr, family, proto, flags)
        attach(loop, stack)
        first: OSError | None = None
        for pair in pairs:
            try:
                made = await _endpoint_socket(loop, stack, pair, reuse_port, allow_broadcast)
                remote = pair[3]
                break
            except OSError as exc:
                first = first or exc
        else:
            assert first is not None
            raise first
        if stack.kernel:
            default = remote if allow_broadcast else None
            return await carry_endpoint(loop, protocol_factory, made, default)
        endpoint = user_socket(made)
    try:
        protocol = protocol_factory()
    except BaseException:
        if sock is None:
            endpoint.close()
        raise
    waiter: asyncio.Future[None] = loop.create_future()
    transport = DatagramTransport(loop, endpoint, protocol, remote, waiter)  # type: ignore[arg-type]
    if loop.get_debug():
        logger.debug(
            "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
            local_addr,
            remote_addr,
            transport,
            protocol,
        )
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol
