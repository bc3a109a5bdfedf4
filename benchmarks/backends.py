"""What set -> wait -> clear costs on each backend, beside the same system calls by hand.

    python benchmarks/backends.py [--rounds N] [--unpinned]

Every round runs each contender once and shortly, so that all meet the same weather.  Prints
the best time of each and two ratios, to an eventfd and, for the pairs, to two sockets of
the same kind: that of the best times, which other programs on the machine disturb the
least, and the median of those within a round.  All runs on one CPU, the daemons of `fuse`
too, unless told otherwise: waking a process on another CPU costs more than the operation
itself, and whether the scheduler does that depends on what else the machine is doing.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from vpoll_asyncio import EventMask, VPoll, backends
from vpoll_asyncio.backends.fuse import CHOICE

IN = int(EventMask.IN)

BY_HAND = {
    "VPoll on unixpair": "socketpair by hand",
    "VPoll on tcppair": "TCP pair by hand",
}
"""Who makes the same system calls."""


class Contender(NamedTuple):
    name: str
    set_events: Callable[[], object]
    wait: Callable[[], object]
    clear_events: Callable[[], object]
    turns: int = 100


def by_eventfd(stack: ExitStack) -> Contender:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    stack.callback(os.close, fd)
    epoll = stack.enter_context(select.epoll())
    epoll.register(fd, IN)
    return Contender(
        "eventfd by hand",
        lambda: os.eventfd_write(fd, 1),
        lambda: epoll.poll(0),
        lambda: os.eventfd_read(fd),
    )


def by_socketpair(stack: ExitStack) -> Contender:
    return by_sockets(stack, "socketpair by hand", *socket.socketpair())


def by_tcp(stack: ExitStack) -> Contender:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = socket.create_connection(listener.getsockname())
        back, _ = listener.accept()
    for end in (front, back):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return by_sockets(stack, "TCP pair by hand", front, back)


def by_sockets(stack: ExitStack, name: str, front: socket.socket, back: socket.socket) -> Contender:
    stack.enter_context(front)
    stack.enter_context(back)
    front.setblocking(False)
    back.setblocking(False)
    epoll = stack.enter_context(select.epoll())
    epoll.register(front, IN)
    buffer = bytearray(1 << 16)
    return Contender(
        name,
        lambda: back.send(b"!"),
        lambda: epoll.poll(0),
        lambda: front.recv_into(buffer),
    )


def by_vpoll(stack: ExitStack, backend: str, kind: str = "") -> Contender:
    if kind:
        os.environ[CHOICE] = kind
    vpoll = stack.enter_context(VPoll(backend=backend))
    epoll = stack.enter_context(select.epoll())
    epoll.register(vpoll, IN)
    return Contender(
        f"VPoll on {backend} {kind}".rstrip(),
        lambda: vpoll.add_events(IN),
        lambda: epoll.poll(0),
        lambda: vpoll.del_events(IN),
        20 if backend == "fuse" else 100,
    )


def contenders(stack: ExitStack) -> Iterator[Contender]:
    yield by_eventfd(stack)
    yield by_socketpair(stack)
    yield by_tcp(stack)
    for info in backends():
        if info.name == "fuse":
            for kind in ("compiled", "python"):
                os.environ[CHOICE] = kind
                if any(each.name == "fuse" and each.available for each in backends()):
                    yield by_vpoll(stack, "fuse", kind)
        elif info.available and info.name != "virtual":
            yield by_vpoll(stack, info.name)


def seconds(contender: Contender) -> float:
    set_events, wait, clear_events = contender[1:4]
    turns = range(contender.turns)
    start = time.perf_counter()
    for _ in turns:
        set_events()
        wait()
        clear_events()
    return (time.perf_counter() - start) / contender.turns


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of set -> wait -> clear")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--unpinned", action="store_true")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    if not arguments.unpinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        entered = list(contenders(stack))
        for contender in entered:
            contender.set_events()
            assert contender.wait(), f"{contender.name} shows nothing"
            contender.clear_events()
            assert not contender.wait(), f"{contender.name} shows what was cleared"
        costs: dict[str, list[float]] = {contender.name: [] for contender in entered}
        for _ in range(rounds):
            for contender in entered:
                costs[contender.name].append(seconds(contender))
    for name, each in costs.items():
        print(f"{name:24} {min(each) * 1e6:8.2f} us", end="")
        print(f"  {ratios(each, costs['eventfd by hand'])} x eventfd", end="")
        if name in BY_HAND:
            print(f"  {ratios(each, costs[BY_HAND[name]])} x {BY_HAND[name]}", end="")
        print()


def ratios(costs: list[float], base: list[float]) -> str:
    """The ratio of the best and, in brackets, the median of the ratios within a round."""
    median = statistics.median(one / other for one, other in zip(costs, base, strict=True))
    return f"{min(costs) / min(base):6.2f} ({median:.2f})"


if __name__ == "__main__":
    main()
