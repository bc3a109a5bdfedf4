"""Protocols that keep to flow control, and how two of them get connected."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
_CERTIFICATE = Path(__file__).parents[2] / "tests" / "tls" / "localhost.pem"


class Paced(asyncio.Protocol):
    """Writes nothing between `pause_writing` and `resume_writing`; `closed` tells of the end."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.writable = True
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports derive from no class of asyncio's.
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True


class EchoServer(Paced):
    """Sends back what it receives, and stops reading while it may not write."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self.writable:
            self.transport.write(data)
        else:
            self._kept.append(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        while self._kept and self.writable:
            self.transport.write(self._kept.pop(0))
        if self.writable:
            self.transport.resume_reading()


class EchoClient(Paced):
    """Sends a message, waits for all of it to come back, sends the next."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self._message = message
        self._size = len(message)
        self._received = 0
        self._left = 0
        self._done: Callable[[], None]

    def start(self, count: int, done: Callable[[], None]) -> None:
        """Exchange `count` messages from now on, then call `done`."""
        self._left = count
        self._done = done
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= self._size:
            self._received -= self._size
            self._left -= 1
            if self._left:
                self._send()
            else:
                self._done()

    def _send(self) -> None:
        if self.writable:
            self.transport.write(self._message)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._left and not self._received:
            self._send()


def raise_descriptor_limit(wanted: int) -> None:
    """Allow this process `wanted` descriptors.  Raises ValueError above its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(_CERTIFICATE))
    # The certificate is checked; its name is that of a host, not this address.
    context.check_hostname = False
    return context


async def connect_pair(
    via: str,
    server_side: Callable[[], asyncio.Protocol],
    client_side: Callable[[], asyncio.Protocol],
    tls: bool = False,
) -> None:
    """Connect two protocols in the running loop.

    `via` is ``"socketpair"``, or else a TCP connection of the kernel or of the loop's own
    stack, through a server that is closed again.
    """
    loop: Any = asyncio.get_running_loop()
    client_ssl = {"ssl": client_context(), "server_hostname": "localhost"} if tls else {}
    server_ssl = {"ssl": server_context()} if tls else {}
    if via == "socketpair":
        front, back = socket.socketpair()
        await asyncio.gather(
            loop.create_connection(server_side, sock=back),
            loop.create_connection(client_side, sock=front),
        )
        return
    accepted = loop.create_future()

    def accept() -> asyncio.Protocol:
        protocol = server_side()
        accepted.set_result(None)
        return protocol

    server = await loop.create_server(accept, HOST, 0, **server_ssl)
    port = server.sockets[0].getsockname()[1]
    await loop.create_connection(client_side, HOST, port, **client_ssl)
    await accepted
    server.close()
