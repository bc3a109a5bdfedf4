"""Two hosts under test, their sockets, and one way to look at sockets of any stack."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from typing import Any, Final

import pytest

from ...events import EventMask
from ...sockets import UserSocket
from ...stacks.base import Stack
from ...vpoll import VPoll
from ..bytestreams import ByteStream

__all__ = [
    "ALL_BITS",
    "BOUND",
    "DEAD",
    "ERR",
    "FIONREAD",
    "HUP",
    "PRI",
    "RDHUP",
    "SIOCATMARK",
    "WRBAND",
    "Hosts",
    "Lab",
    "R",
    "W",
    "ask",
    "error_of",
    "failure",
    "fill",
    "linger_zero",
    "mask_of",
    "nothing",
    "settles",
    "small_buffers",
    "until",
]

BOUND: Final = 10.0
"""Seconds after which a state that should come has not come."""

ALL_BITS: Final = sum(EventMask) & ~EventMask.NVAL
"""Every event with a name that a socket can have."""

R: Final = EventMask.IN | EventMask.RDNORM
W: Final = EventMask.OUT | EventMask.WRNORM
WRBAND: Final = EventMask.WRBAND
PRI: Final = EventMask.PRI
ERR: Final = EventMask.ERR
HUP: Final = EventMask.HUP
RDHUP: Final = EventMask.RDHUP
DEAD: Final = R | W | HUP | RDHUP

FIONREAD: Final = 0x541B
SIOCATMARK: Final = 0x8905

# Looks at a state before the protocol's timers are hurried: what needs no timer comes first.
_PATIENCE: Final = 40
_HURRY: Final = 0.5
_PAUSE: Final = 0.0005
# So many looks find no room: acknowledgements that are under way make some.
_FULL: Final = 10


@dataclass(frozen=True)
class Hosts:
    """Two hosts that reach each other; they may be one and the same.

    server, client -- the stacks
    server_address, client_address -- an address of each, of one family
    drive -- lets both hosts handle what is under way; by default each stack waits for a
        moment (`Stack.wait`), which drives a stack that nobody else does
    skip_time -- lets the timers of both see so many seconds pass at once; without it the
        suite waits for them
    """

    server: Stack
    client: Stack
    server_address: str
    client_address: str
    drive: Callable[[], object] | None = None
    skip_time: Callable[[float], object] | None = None


def nothing() -> None:
    """Drive nothing."""


def until(
    condition: Callable[[], object],
    what: str = "",
    bound: float = BOUND,
    drive: Callable[[], object] = nothing,
) -> None:
    """Return once `condition` holds; raise AssertionError with `what` after `bound` seconds.

    drive -- called between two looks
    """
    deadline = time.monotonic() + bound
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(what or "the expected state did not come")
        drive()
        # Hands the processor to the kernel's and other threads' work.
        select.select([], [], [], _PAUSE)


def mask_of(sock: socket.socket) -> EventMask:
    """Return every event that is pending on `sock`, a user socket or the kernel's."""
    if isinstance(sock, UserSocket):
        return sock.vpoll.events
    with select.epoll() as epoll:
        epoll.register(sock.fileno(), int(ALL_BITS))
        for _, events in epoll.poll(0):
            return EventMask(events)
    return EventMask(0)


def ask(sock: socket.socket, request: int) -> int:
    """Return what the ioctl `request` answers."""
    if isinstance(sock, UserSocket):
        return int(sock.ioctl(request))
    return int(struct.unpack("i", ioctl(sock.fileno(), request, bytes(4)))[0])


def error_of(sock: socket.socket) -> int:
    """Return and take the pending error (SO_ERROR)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def failure(call: Callable[..., Any], *args: Any) -> int:
    """Return the errno that `call` raises; fail the test when it raises none."""
    try:
        result = call(*args)
    except OSError as exc:
        return exc.errno or 0
    pytest.fail(f"{getattr(call, '__name__', call)}{args} returned {result!r}")


def linger_zero(sock: socket.socket) -> None:
    """Let close(2) reset the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def small_buffers(sock: socket.socket) -> None:
    """Ask for buffers that a few kilobytes fill."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)


def _as_it_is(sock: socket.socket) -> None:
    """Change nothing."""


def settles(
    sock: socket.socket, mask: int, wait: Callable[[Callable[[], object]], object] = until
) -> None:
    """Wait until the events of `sock` are exactly `mask`.

    wait -- waits for a condition, as `until` does
    """
    try:
        wait(lambda: mask_of(sock) == mask)
    except AssertionError:
        raise AssertionError(f"{mask_of(sock)!r} instead of {EventMask(mask)!r}") from None


def fill(
    sock: socket.socket,
    wait: Callable[[Callable[[], object], str], object] = until,
    drive: Callable[[], object] = nothing,
) -> int:
    """Send until nothing more is taken and it stays so; return the count of bytes.

    wait -- waits for a condition, as `until` does
    drive -- called whenever nothing more is taken
    """
    total = 0
    looks = 0

    def full() -> bool:
        nonlocal total, looks
        try:
            while True:
                total += sock.send(b"x" * 65536)
                looks = 0
        except BlockingIOError:
            drive()
            looks = 0 if mask_of(sock) & EventMask.OUT else looks + 1
            return looks == _FULL

    wait(full, "the send buffer does not fill up")
    return total


class Lab:
    """Sockets of two hosts, non-blocking unless told, all closed at the end.

    `stream` and `datagram` are the client host's, `listener` and `receiver` the server
    host's.  `bound` binds a socket to its own host's address.
    """

    def __init__(self, hosts: Hosts, bound: float = BOUND) -> None:
        self.hosts = hosts
        self.patience = bound
        """Seconds after which a state that should come has not come."""
        self.address = hosts.server_address
        """The server host's address."""
        self.family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        """The address family of both hosts' addresses."""
        self._opened: list[socket.socket] = []
        self._homes: dict[socket.socket, str] = {}

    @property
    def stack(self) -> Stack:
        """The server host's stack."""
        return self.hosts.server

    @property
    def kernel(self) -> bool:
        """Whether the sockets are the kernel's own."""
        return self.stack.kernel

    # Waiting.

    def drive(self) -> None:
        """Let both hosts handle what is under way."""
        if self.hosts.drive is not None:
            self.hosts.drive()
            return
        with VPoll() as idle:
            for stack in {self.hosts.server, self.hosts.client}:
                if not stack.kernel and not stack.closed:
                    stack.wait(idle, 0, _PAUSE)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Return once `condition` holds; fail the test when it does not come to that."""
        looks = 0

        def drive() -> None:
            nonlocal looks
            looks += 1
            self.drive()
            if looks > _PATIENCE and self.hosts.skip_time is not None:
                self.hosts.skip_time(_HURRY)

        until(condition, what, self.patience, drive)

    def settles(self, sock: socket.socket, mask: int) -> None:
        """Wait until the events of `sock` are exactly `mask`."""
        settles(sock, mask, self.until)

    def readable(self, sock: socket.socket) -> socket.socket:
        """Wait until `sock` is readable; return it."""
        self.until(lambda: mask_of(sock) & EventMask.IN, "nothing to read came")
        return sock

    def error(self, sock: socket.socket) -> int:
        """Wait until ERR or HUP is pending on `sock`; return and take its error."""
        self.until(lambda: mask_of(sock) & (ERR | HUP), "no error came")
        return error_of(sock)

    # Sockets.

    def keep(self, sock: socket.socket) -> socket.socket:
        """Make `sock` non-blocking and close it at the end."""
        sock.setblocking(False)
        self._opened.append(sock)
        return sock

    def make(self, kind: int, family: int = 0) -> socket.socket:
        """Return a socket of the server host, of the addresses' family unless told."""
        sock = self.keep(self.hosts.server.socket(family or self.family, kind))
        self._homes[sock] = self.hosts.server_address
        return sock

    def make_client(self, kind: int, family: int = 0) -> socket.socket:
        """Return a socket of the client host, of the addresses' family unless told."""
        sock = self.keep(self.hosts.client.socket(family or self.family, kind))
        self._homes[sock] = self.hosts.client_address
        return sock

    def stream(self) -> socket.socket:
        """Return a stream socket of the client host."""
        return self.make_client(socket.SOCK_STREAM)

    def datagram(self) -> socket.socket:
        """Return a datagram socket of the client host."""
        return self.make_client(socket.SOCK_DGRAM)

    def receiver(self) -> socket.socket:
        """Return a bound datagram socket of the server host."""
        return self.bound(self.make(socket.SOCK_DGRAM))

    def bound(self, sock: socket.socket) -> socket.socket:
        """Bind `sock` to its host's address and a free port; return it."""
        sock.bind((self._homes.get(sock, self.address), 0))
        return sock

    def listener(self, backlog: int = 16) -> socket.socket:
        """Return a listening socket of the server host."""
        sock = self.bound(self.make(socket.SOCK_STREAM))
        sock.listen(backlog)
        return sock

    def stream_to(self, address: Any) -> socket.socket:
        """Return a socket of the client host that has begun to connect to `address`."""
        sock = self.stream()
        number = sock.connect_ex(address)
        if number != errno.EINPROGRESS:
            raise AssertionError(f"connect() gave {errno.errorcode.get(number, number)}")
        return sock

    def connecting(self, to: socket.socket) -> socket.socket:
        """Return a socket of the client host that has begun to connect to `to`."""
        return self.stream_to(to.getsockname())

    def accepted(self, listener: socket.socket) -> socket.socket:
        """Wait for a connection of `listener` and return it."""
        return self.keep(self.readable(listener).accept()[0])

    def pair(
        self, prepare: Callable[[socket.socket], object] = _as_it_is
    ) -> tuple[socket.socket, socket.socket]:
        """Return a connected client and the server's end.

        prepare -- applied to the listener and the client before they connect
        """
        listener = self.bound(self.make(socket.SOCK_STREAM))
        prepare(listener)
        listener.listen(1)
        client = self.stream()
        prepare(client)
        client.connect_ex(listener.getsockname())
        self._shows("the listener", listener, R)
        server = self.keep(listener.accept()[0])
        self._shows("the client", client, W)
        if number := error_of(client):
            raise AssertionError(f"connecting gave {errno.errorcode.get(number, number)}")
        listener.close()
        return client, server

    def _shows(self, who: str, sock: socket.socket, mask: int) -> None:
        try:
            self.settles(sock, mask)
        except AssertionError as exc:
            raise AssertionError(f"{who} shows {exc}") from None

    def refusing_address(self) -> Any:
        """Return an address at the server host that nobody listens at."""
        return self.bound(self.make(socket.SOCK_STREAM)).getsockname()

    def carry(self, stream: ByteStream, sender: socket.socket, receiver: socket.socket) -> bytes:
        """Send and receive in the pieces of `stream`; return what has come once that is as much.

        Returns what has come until then when the receiver finds the end.
        """
        left = [memoryview(piece) for piece in reversed(stream.pieces())]
        sizes = stream.sizes()
        got = bytearray()

        def over() -> bool:
            try:
                while left:
                    if sent := sender.send(left[-1]):
                        left[-1] = left[-1][sent:]
                    if not left[-1]:
                        left.pop()
            except BlockingIOError:
                pass
            try:
                while part := receiver.recv(next(sizes)):
                    got.extend(part)
            except BlockingIOError:
                return not left and len(got) >= len(stream.payload)
            return True

        self.until(over, "a stream does not come to its end")
        return bytes(got)

    def fill(self, sock: socket.socket) -> int:
        """Send until nothing more is taken and it stays so; return the count of bytes."""
        return fill(sock, self.until, self.drive)

    def close(self) -> None:
        """Close every socket."""
        for sock in self._opened:
            sock.close()
        self._opened.clear()
        self._homes.clear()
