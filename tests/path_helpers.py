"""Two hosts of a memory network whose clock the test moves."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from collections.abc import Iterator
from typing import Any

from vpoll_asyncio.events import EventMask
from vpoll_asyncio.stacks.memory import ManualClock, MemoryNetwork, MemoryStack
from vpoll_asyncio.testing.stack_suite import mask_of

__all__ = ["PORT", "Ends", "ends", "hosts", "transfer"]

PORT = 80

_numbers = itertools.count()


@contextlib.contextmanager
def hosts(**words: Any) -> Iterator[tuple[MemoryStack, MemoryStack]]:
    """A server and a client; `words` are the conditions between them."""
    name = f"mem://paths-{next(_numbers)}"
    with (
        MemoryStack(vnl=name, ip=["10.0.0.1/24", "fd00::1/64"], hostname="server") as server,
        MemoryStack(vnl=name, ip=["10.0.0.2/24", "fd00::2/64"], hostname="client") as client,
    ):
        server.network.seed = 1
        if words:
            server.network.set_path(server, client, **words)
        yield server, client


class Ends:
    """A listener of the server's, and sockets, all non-blocking, under a clock that stands."""

    def __init__(self, server: MemoryStack, client: MemoryStack, six: bool) -> None:
        self.clock = ManualClock()
        self.server, self.client = server, client
        self.network: MemoryNetwork = server.network
        self.network.clock = self.clock
        self.family = socket.AF_INET6 if six else socket.AF_INET
        self.address = ("fd00::1" if six else "10.0.0.1", PORT)
        self.opened: list[socket.socket] = []
        self.listener = self.make(server, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self.address)
        self.listener.listen()

    def make(self, stack: MemoryStack, kind: int) -> socket.socket:
        sock = stack.socket(self.family, kind)
        sock.setblocking(False)
        self.opened.append(sock)
        return sock

    def stream(self) -> socket.socket:
        return self.make(self.client, socket.SOCK_STREAM)

    def receiver(self) -> socket.socket:
        sock = self.make(self.server, socket.SOCK_DGRAM)
        sock.bind(self.address)
        return sock

    def datagram(self) -> socket.socket:
        return self.make(self.client, socket.SOCK_DGRAM)

    def knocking(self) -> socket.socket:
        """A socket of the client's that has begun to connect."""
        sock = self.stream()
        assert sock.connect_ex(self.address) == errno.EINPROGRESS
        return sock

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.opened.append(sock)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connected client and the server's end; what is under way has arrived."""
        client = self.knocking()
        while not mask_of(self.listener) & EventMask.IN:
            assert self.clock.step(), "the connection did not come"
        server = self.accept()
        self.settle()
        return client, server

    def settle(self, most: int = 100_000) -> None:
        """Move on until nothing waits."""
        for _ in range(most):
            if not self.clock.step():
                return
        raise AssertionError("something happens without end")

    def after(self, sock: socket.socket, mask: int) -> float:
        """Seconds until all events of `mask` are pending on `sock`."""
        start = self.clock.time()
        while mask_of(sock) & mask != mask:
            assert self.clock.step(), f"{mask_of(sock)} for ever"
        return round(self.clock.time() - start, 6)


@contextlib.contextmanager
def ends(six: bool = False, **words: Any) -> Iterator[Ends]:
    """Two hosts under a clock that stands; `words` are the conditions between them."""
    with hosts(**words) as (server, client):
        made = Ends(server, client, six)
        try:
            yield made
        finally:
            for sock in made.opened:
                sock.close()


def transfer(made: Ends, source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """Send `data`, close that direction, and return what came, whatever time it takes."""
    sent, got = 0, b""
    while True:
        if sent < len(data):
            try:
                sent += source.send(data[sent : sent + 50_000])
            except BlockingIOError:
                pass
            else:
                if sent == len(data):
                    source.shutdown(socket.SHUT_WR)
        try:
            chunk = sink.recv(65536)
        except BlockingIOError:
            assert made.clock.step(), f"{sent} sent, {len(got)} came, and nothing waits"
        else:
            if not chunk:
                return got
            got += chunk
