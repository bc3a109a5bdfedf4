"""One way to make and to look at sockets of the kernel and of the memory stack."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from fcntl import ioctl
from typing import Any

import pytest

from vpoll_asyncio.events import EventMask
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.base import Stack

BOUND = 10.0
"""Seconds after which a state that should come has not come."""

ALL_BITS = sum(EventMask) & ~EventMask.NVAL

R = EventMask.IN | EventMask.RDNORM
W = EventMask.OUT | EventMask.WRNORM
WRBAND = EventMask.WRBAND
PRI = EventMask.PRI
ERR = EventMask.ERR
HUP = EventMask.HUP
RDHUP = EventMask.RDHUP
DEAD = R | W | HUP | RDHUP

FIONREAD = 0x541B
SIOCATMARK = 0x8905


def until(condition: Callable[[], object], what: str = "", bound: float = BOUND) -> None:
    """Return once `condition` holds; fail the test after `bound` seconds."""
    deadline = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < deadline, what or "the expected state did not come"
        # Hands the processor to the kernel's and other threads' work.
        select.select([], [], [], 0.0005)


def mask_of(sock: socket.socket) -> EventMask:
    """Every event that is pending on `sock`."""
    if isinstance(sock, UserSocket):
        return sock.vpoll.events
    with select.epoll() as epoll:
        epoll.register(sock.fileno(), int(ALL_BITS))
        for _, events in epoll.poll(0):
            return EventMask(events)
    return EventMask(0)


def settles(sock: socket.socket, mask: int) -> None:
    """Wait until the events of `sock` are exactly `mask`."""
    try:
        until(lambda: mask_of(sock) == mask)
    except AssertionError:
        raise AssertionError(f"{mask_of(sock)!r} instead of {EventMask(mask)!r}") from None


def ask(sock: socket.socket, request: int) -> int:
    """What the ioctl `request` answers."""
    if isinstance(sock, UserSocket):
        return int(sock.ioctl(request))
    return int(struct.unpack("i", ioctl(sock.fileno(), request, bytes(4)))[0])


def error_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def failure(call: Callable[..., Any], *args: Any) -> int:
    """The errno that `call` raises; fails the test when it raises none."""
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno or 0


class Lab:
    """Sockets of one stack, all non-blocking, all closed at the end."""

    def __init__(self, stack: Stack, address: str = "127.0.0.1") -> None:
        self.stack = stack
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._opened: list[socket.socket] = []

    @property
    def kernel(self) -> bool:
        return self.stack.kernel

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        self._opened.append(sock)
        return sock

    def stream(self) -> socket.socket:
        return self.keep(self.stack.socket(self.family, socket.SOCK_STREAM))

    def datagram(self) -> socket.socket:
        return self.keep(self.stack.socket(self.family, socket.SOCK_DGRAM))

    def bound(self, sock: socket.socket) -> socket.socket:
        sock.bind((self.address, 0))
        return sock

    def listener(self, backlog: int = 16) -> socket.socket:
        sock = self.bound(self.stream())
        sock.listen(backlog)
        return sock

    def stream_to(self, address: Any) -> socket.socket:
        """A socket that has begun to connect to `address`."""
        sock = self.stream()
        assert sock.connect_ex(address) == errno.EINPROGRESS
        return sock

    def connecting(self, to: socket.socket) -> socket.socket:
        return self.stream_to(to.getsockname())

    def pair(
        self, prepare: Callable[[socket.socket], object] = lambda sock: None
    ) -> tuple[socket.socket, socket.socket]:
        """A connected client and the server's end; `prepare` is applied before connecting."""
        listener = self.bound(self.stream())
        prepare(listener)
        listener.listen(1)
        client = self.stream()
        prepare(client)
        client.connect_ex(listener.getsockname())
        settles(listener, R)
        server = self.keep(listener.accept()[0])
        settles(client, W)
        assert error_of(client) == 0
        listener.close()
        return client, server

    def refusing_address(self) -> Any:
        """An address that nobody listens at and nobody else is given."""
        return self.bound(self.stream()).getsockname()

    def close(self) -> None:
        for sock in self._opened:
            sock.close()


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken and it stays so; return the count of bytes."""
    total = 0

    def full() -> bool:
        nonlocal total
        try:
            while True:
                total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return not mask_of(sock) & EventMask.OUT

    until(full, "the send buffer does not fill up")
    return total


def linger_zero(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def small_buffers(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
