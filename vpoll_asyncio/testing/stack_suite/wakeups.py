"""Whoever waits is told: no event changes a mask without a wake-up."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from ...events import EventMask
from ...sockets import UserSocket
from .base import SuiteBase
from .lab import DEAD, ERR, PRI, RDHUP, WRBAND, Lab, R, W, error_of, linger_zero, small_buffers


class Awaited(NamedTuple):
    """A socket on which nothing happens until `trigger` is called."""

    sock: socket.socket
    trigger: Callable[[], object]


@contextlib.contextmanager
def wakeups(sock: socket.socket) -> Iterator[Callable[[], int]]:
    """Listen to `sock` as an edge-triggered epoll does.

    Yields a function that returns all events of which a wake-up has told since.
    """
    told = 0

    def wake(mask: int) -> None:
        nonlocal told
        told |= mask

    if isinstance(sock, UserSocket):
        sock.vpoll.add_waiter(wake)
        try:
            yield lambda: told
        finally:
            sock.vpoll.remove_waiter(wake)
        return
    with select.epoll() as epoll:
        epoll.register(sock.fileno(), int(sum(EventMask) & ~EventMask.NVAL) | select.EPOLLET)
        # What is pending already is told of once.
        epoll.poll(0)

        def look() -> int:
            for _, mask in epoll.poll(0):
                wake(mask)
            return told

        yield look


def _data(lab: Lab) -> Awaited:
    client, server = lab.pair()
    return Awaited(server, lambda: client.send(b"data"))


def _more_data(lab: Lab) -> Awaited:
    client, server = lab.pair()
    client.send(b"some")
    lab.settles(server, R | W)
    return Awaited(server, lambda: client.send(b"more"))


def _end(lab: Lab) -> Awaited:
    client, server = lab.pair()
    return Awaited(server, lambda: client.shutdown(socket.SHUT_WR))


def _end_of_both(lab: Lab) -> Awaited:
    client, server = lab.pair()
    client.shutdown(socket.SHUT_WR)
    lab.settles(server, R | W | RDHUP)
    return Awaited(client, lambda: server.shutdown(socket.SHUT_WR))


def _reset(lab: Lab) -> Awaited:
    client, server = lab.pair()
    linger_zero(client)
    return Awaited(server, client.close)


def _urgent(lab: Lab) -> Awaited:
    client, server = lab.pair()
    return Awaited(server, lambda: client.send(b"!", socket.MSG_OOB))


def _room(lab: Lab) -> Awaited:
    client, server = lab.pair(small_buffers)
    left = lab.fill(client)

    def drain() -> None:
        nonlocal left
        while left:
            left -= len(lab.readable(server).recv(1 << 20))

    return Awaited(client, drain)


def _connection(lab: Lab) -> Awaited:
    listener = lab.listener()
    return Awaited(listener, lambda: lab.connecting(listener))


def _another_connection(lab: Lab) -> Awaited:
    listener = lab.listener()
    lab.connecting(listener)
    lab.readable(listener)
    return Awaited(listener, lambda: lab.connecting(listener))


def _established(lab: Lab) -> Awaited:
    listener, client = lab.listener(), lab.stream()
    return Awaited(client, lambda: client.connect_ex(listener.getsockname()))


def _refused(lab: Lab) -> Awaited:
    address, client = lab.refusing_address(), lab.stream()
    return Awaited(client, lambda: client.connect_ex(address))


def _backlog(lab: Lab) -> Awaited:
    listener = lab.listener(0)
    lab.settles(lab.connecting(listener), W)
    lab.settles(listener, R)
    second = lab.connecting(listener)
    return Awaited(second, lambda: lab.keep(listener.accept()[0]))


def _listener_gone(lab: Lab) -> Awaited:
    listener = lab.listener()
    client = lab.connecting(listener)
    lab.settles(client, W)
    return Awaited(client, listener.close)


def _own_shutdown(lab: Lab) -> Awaited:
    client, _ = lab.pair()
    return Awaited(client, lambda: client.shutdown(socket.SHUT_RDWR))


def _datagram(lab: Lab) -> Awaited:
    receiver, sender = lab.receiver(), lab.datagram()
    return Awaited(receiver, lambda: sender.sendto(b"data", receiver.getsockname()))


def _another_datagram(lab: Lab) -> Awaited:
    receiver, sender = lab.receiver(), lab.datagram()
    sender.sendto(b"one", receiver.getsockname())
    lab.readable(receiver)
    return Awaited(receiver, lambda: sender.sendto(b"two", receiver.getsockname()))


def _datagram_refused(lab: Lab) -> Awaited:
    receiver, sender = lab.receiver(), lab.datagram()
    sender.connect(receiver.getsockname())
    receiver.close()
    return Awaited(sender, lambda: sender.send(b"to nobody"))


def _datagram_shutdown(lab: Lab) -> Awaited:
    receiver, sender = lab.receiver(), lab.datagram()
    sender.connect(receiver.getsockname())
    return Awaited(sender, lambda: sender.shutdown(socket.SHUT_RDWR))


EVENTS: dict[str, tuple[Callable[[Lab], Awaited], int]] = {
    "data": (_data, R),
    "more data": (_more_data, R),
    "end": (_end, RDHUP),
    "end of both": (_end_of_both, DEAD),
    "reset": (_reset, DEAD | ERR),
    "urgent byte": (_urgent, PRI),
    "room": (_room, W),
    "connection": (_connection, R),
    "another connection": (_another_connection, R),
    "established": (_established, W),
    "refused": (_refused, DEAD | ERR),
    "place in the backlog": (_backlog, W),
    "listener gone": (_listener_gone, DEAD | ERR),
    "own shutdown": (_own_shutdown, DEAD),
    "datagram": (_datagram, R | WRBAND),
    "another datagram": (_another_datagram, R | WRBAND),
    "datagram refused": (_datagram_refused, ERR),
    "datagram socket shut down": (_datagram_shutdown, DEAD),
}
"""What brings it about, and of which events a wake-up then tells."""


class WakeupTests(SuiteBase):
    """A mask that is right is of no use to who sleeps: each event wakes, too."""

    @pytest.mark.parametrize("event", EVENTS)
    def test_event_wakes_whoever_waits(self, lab: Lab, event: str) -> None:
        prepare, mask = EVENTS[event]
        sock, trigger = prepare(lab)
        with wakeups(sock) as told:
            trigger()
            lab.until(
                lambda: told() & mask == mask,
                f"no wake-up told of {EventMask(mask)!r}",
            )

    def test_error_that_is_taken_wakes_nobody_for_it_again(self, lab: Lab) -> None:
        client, server = lab.pair()
        linger_zero(server)
        server.close()
        lab.settles(client, DEAD | ERR)
        with wakeups(client) as told:
            error_of(client)
            assert not told() & ERR
