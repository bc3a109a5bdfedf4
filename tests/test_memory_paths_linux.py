"""The times of a memory network's paths are those of Linux over a link with the same delay.

Two Linux hosts are joined by a wire through `NetemLink`, two memory hosts by a path.  What
is compared is whole delays and whole seconds, the least of a few tries.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from vpoll_asyncio.events import EventMask
from vpoll_asyncio.links import NetemLink, wire_pair
from vpoll_asyncio.links.base import Link
from vpoll_asyncio.links.wrapper import LinkWrapper
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.testing.stack_suite import (
    ERR,
    RDHUP,
    Hosts,
    Lab,
    R,
    W,
    linger_zero,
    mask_of,
)

DELAY = 0.1
TRIES = 5

_numbers = itertools.count()


class Switch(LinkWrapper):
    """A link that can be cut."""

    def __init__(self, inner: Link) -> None:
        super().__init__(inner)
        self.cut = False

    def recv_batch(self, limit: int = 64) -> list[bytes]:
        frames = self.inner.recv_batch(limit)
        return [] if self.cut else list(frames)

    def send_batch(self, frames: Sequence[bytes]) -> int:
        return len(frames) if self.cut else self.inner.send_batch(frames)


@dataclass
class Far:
    """Two hosts with a delay between them, and what cuts the way."""

    lab: Lab
    cut: Callable[[bool], None]


@contextlib.contextmanager
def memory() -> Iterator[Far]:
    name = f"mem://as-linux-{next(_numbers)}"
    with (
        MemoryStack(vnl=name, ip="10.0.0.1/24") as server,
        MemoryStack(vnl=name, ip="10.0.0.2/24") as client,
    ):
        server.network.set_path(delay=DELAY)

        def cut(yes: bool) -> None:
            if yes:
                server.network.partition([server], [client])
            else:
                server.network.heal()

        yield Far(Lab(Hosts(server, client, "10.0.0.1", "10.0.0.2")), cut)


@contextlib.contextmanager
def linux() -> Iterator[Far]:
    near, far = wire_pair()
    switch = Switch(near)
    with (
        open_stack("vdestack", link=NetemLink(switch, delay=DELAY), ip="10.0.0.1/24") as server,
        open_stack("vdestack", link=far, ip="10.0.0.2/24") as client,
    ):

        def cut(yes: bool) -> None:
            switch.cut = yes

        yield Far(Lab(Hosts(server, client, "10.0.0.1", "10.0.0.2")), cut)


@pytest.fixture(
    scope="module",
    params=[memory, pytest.param(linux, marks=pytest.mark.needs("vdestack"))],
    ids=["memory", "Linux"],
)
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    with request.param() as made:
        # Linux learns the hardware addresses, which takes a round trip, and not again.
        made.lab.pair()
        yield made
        made.lab.close()


def takes(far: Far, scenario: Callable[[Far], float], unit: float = DELAY) -> int:
    """How many whole units pass: the least of a few tries, as the machine may be busy.

    A link looks at the clock before it looks for frames, so a delay may be shorter by a bit.
    """
    least = float("inf")
    for _ in range(TRIES):
        least = min(least, scenario(far) / unit + 0.1)
        far.cut(False)
        if least % 1 < 0.5:
            break
    return int(least)


def since(far: Far, start: float, sock: socket.socket, mask: int) -> float:
    """Seconds from `start` until all of `mask` is pending on `sock`."""
    far.lab.until(lambda: mask_of(sock) & mask == mask, f"{EventMask(mask)!r} never came")
    return time.monotonic() - start


def connects(far: Far) -> float:
    listener, start = far.lab.listener(), time.monotonic()
    return since(far, start, far.lab.connecting(listener), W)


def is_accepted(far: Far) -> float:
    listener, start = far.lab.listener(), time.monotonic()
    far.lab.connecting(listener)
    return since(far, start, listener, R)


def is_refused(far: Far) -> float:
    address, start = far.lab.refusing_address(), time.monotonic()
    return since(far, start, far.lab.stream_to(address), ERR)


def data_come(far: Far) -> float:
    client, server = far.lab.pair()
    start = time.monotonic()
    client.send(b"x")
    return since(far, start, server, R)


def the_end_comes(far: Far) -> float:
    client, server = far.lab.pair()
    start = time.monotonic()
    client.shutdown(socket.SHUT_WR)
    return since(far, start, server, RDHUP)


def a_reset_comes(far: Far) -> float:
    client, server = far.lab.pair()
    linger_zero(client)
    start = time.monotonic()
    client.close()
    return since(far, start, server, ERR)


def nobody_reads(far: Far) -> float:
    client, server = far.lab.pair()
    server.close()
    far.lab.settles(client, R | W | RDHUP)
    start = time.monotonic()
    client.send(b"x")
    return since(far, start, client, ERR)


def a_datagram_comes(far: Far) -> float:
    receiver, sender = far.lab.receiver(), far.lab.datagram()
    start = time.monotonic()
    sender.sendto(b"x", receiver.getsockname())
    return since(far, start, receiver, R)


def no_port_is_there(far: Far) -> float:
    receiver, sender = far.lab.receiver(), far.lab.datagram()
    sender.connect(receiver.getsockname())
    receiver.close()
    start = time.monotonic()
    sender.send(b"x")
    return since(far, start, sender, ERR)


def a_segment_is_missing(far: Far) -> float:
    client, server = far.lab.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    far.cut(True)
    client.send(b"1")
    # Longer than the delay: it has got lost by now, in whichever part of the way.
    start = time.monotonic()
    far.lab.until(lambda: time.monotonic() > start + 1.2 * DELAY)
    far.cut(False)
    for byte in b"23456":
        client.send(bytes([byte]))
    start = time.monotonic()
    return since(far, start, server, R)


@pytest.mark.parametrize(
    ("scenario", "delays"),
    [
        (connects, 2),
        (is_accepted, 3),
        (is_refused, 2),
        (data_come, 1),
        (the_end_comes, 1),
        (a_reset_comes, 1),
        (nobody_reads, 2),
        (a_datagram_comes, 1),
        (no_port_is_there, 2),
        (a_segment_is_missing, 3),
    ],
)
def test_it_takes_so_many_delays(far: Far, scenario: Callable[[Far], float], delays: int) -> None:
    assert takes(far, scenario) == delays


def the_syn_is_lost(far: Far) -> float:
    listener, start = far.lab.listener(), time.monotonic()
    far.cut(True)
    client = far.lab.connecting(listener)
    far.lab.until(lambda: time.monotonic() > start + 5 * DELAY)
    far.cut(False)
    return since(far, start, client, W)


def nobody_answers(far: Far) -> float:
    address, client, start = far.lab.refusing_address(), far.lab.stream(), time.monotonic()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
    far.cut(True)
    client.connect_ex(address)
    return since(far, start, client, ERR)


@pytest.mark.parametrize("scenario", [the_syn_is_lost, nobody_answers])
def test_it_takes_a_second(far: Far, scenario: Callable[[Far], float]) -> None:
    assert takes(far, scenario, 1.0) == 1
