"""What blocking pollers see of a user socket in every state of a socket, on each backend.

The same states are made on the kernel's loopback, which says what is to be seen.  A backend
that shows every event shows the same; of what a pair cannot show it shows the nearest wake-up.
"""

from __future__ import annotations

import contextlib
import functools
import select
import selectors
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from blocking_helpers import Background
from memory_helpers import (
    BOUND,
    DEAD,
    ERR,
    HUP,
    PRI,
    RDHUP,
    WRBAND,
    Lab,
    R,
    W,
    error_of,
    linger_zero,
    mask_of,
    small_buffers,
)
from vpoll_asyncio import EventMask, UserSocket
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_helpers import KERNEL_BACKENDS

IN, OUT = EventMask.IN, EventMask.OUT

ASKED = IN | PRI | OUT | RDHUP
"""What the pollers ask for; ERR and HUP are always told."""


class Polled(Lab):
    """Sockets of which each shows its events from the beginning, so that its descriptor changes."""

    def keep(self, sock: socket.socket) -> socket.socket:
        super().keep(sock)
        assert sock.fileno() >= 0
        return sock


@pytest.fixture(params=["kernel", *KERNEL_BACKENDS])
def backend(
    request: pytest.FixtureRequest, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setenv("VPOLL_BACKEND", "" if request.param == "kernel" else request.param)
    return str(request.param)


@contextlib.contextmanager
def lab_of(backend: str, kind: type[Lab]) -> Iterator[Lab]:
    stack = host_stack() if backend == "kernel" else va.open_stack("memory")
    with stack:
        lab = kind(stack)
        yield lab
        lab.close()


# The states of DESIGN's two tables.


def fresh(lab: Lab) -> socket.socket:
    return lab.stream()


def bound(lab: Lab) -> socket.socket:
    return lab.bound(lab.stream())


def listening(lab: Lab) -> socket.socket:
    return lab.listener()


def listening_and_a_connection_waits(lab: Lab) -> socket.socket:
    listener = lab.listener()
    lab.connecting(listener)
    return listener


def connecting(lab: Lab) -> socket.socket:
    listener = lab.listener(0)
    lab.settles(lab.connecting(listener), W)
    return lab.connecting(listener)


def connected(lab: Lab) -> socket.socket:
    return lab.pair()[0]


def data_wait(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.send(b"data")
    return client


def data_are_read(lab: Lab) -> socket.socket:
    client = data_wait(lab)
    assert lab.readable(client).recv(10) == b"data"
    return client


def send_buffer_full(lab: Lab) -> socket.socket:
    client, _ = lab.pair(small_buffers)
    lab.fill(client)
    return client


def full_and_shut_for_writing(lab: Lab) -> socket.socket:
    client = send_buffer_full(lab)
    client.shutdown(socket.SHUT_WR)
    return client


def peer_has_ended(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.shutdown(socket.SHUT_WR)
    return client


def peer_has_ended_after_data(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.send(b"data")
    server.shutdown(socket.SHUT_WR)
    return client


def shut_for_writing(lab: Lab) -> socket.socket:
    client = connected(lab)
    client.shutdown(socket.SHUT_WR)
    return client


def shut_for_reading(lab: Lab) -> socket.socket:
    client = connected(lab)
    client.shutdown(socket.SHUT_RD)
    return client


def shut_in_both_directions(lab: Lab) -> socket.socket:
    client = connected(lab)
    client.shutdown(socket.SHUT_RDWR)
    return client


def both_ends_have_ended(lab: Lab) -> socket.socket:
    client = peer_has_ended(lab)
    lab.settles(client, R | W | RDHUP)
    client.shutdown(socket.SHUT_WR)
    return client


def reset(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    linger_zero(server)
    server.close()
    return client


def reset_by_unread_data(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    client.send(b"unread")
    lab.readable(server)
    server.close()
    return client


def refused(lab: Lab) -> socket.socket:
    return lab.stream_to(lab.refusing_address())


def written_after_the_peers_close(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.close()
    lab.settles(client, R | W | RDHUP)
    client.send(b"nobody reads this")
    return client


def error_is_taken(lab: Lab) -> socket.socket:
    client = reset(lab)
    lab.settles(client, DEAD | ERR)
    assert error_of(client)
    return client


def urgent(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.send(b"!", socket.MSG_OOB)
    return client


def urgent_behind_data(lab: Lab) -> socket.socket:
    client, server = lab.pair()
    server.send(b"data")
    server.send(b"!", socket.MSG_OOB)
    return client


def urgent_once_data_are_read(lab: Lab) -> socket.socket:
    client = urgent_behind_data(lab)
    lab.settles(client, R | W | PRI)
    assert client.recv(4) == b"data"
    return client


def urgent_is_read(lab: Lab) -> socket.socket:
    client = urgent(lab)
    lab.settles(client, W | PRI)
    assert client.recv(1, socket.MSG_OOB) == b"!"
    return client


def never_accepted(lab: Lab) -> socket.socket:
    listener = lab.listener(0)
    client = lab.connecting(listener)
    lab.settles(client, W)
    listener.close()
    return client


def datagram(lab: Lab) -> socket.socket:
    return lab.receiver()


def datagram_waits(lab: Lab) -> socket.socket:
    receiver = lab.receiver()
    lab.datagram().sendto(b"data", receiver.getsockname())
    return receiver


def empty_datagram_waits(lab: Lab) -> socket.socket:
    receiver = lab.receiver()
    lab.datagram().sendto(b"", receiver.getsockname())
    return receiver


def port_unreachable(lab: Lab) -> socket.socket:
    gone = lab.receiver()
    sock = lab.datagram()
    sock.connect(gone.getsockname())
    gone.close()
    sock.send(b"nobody")
    return sock


def datagram_shut(lab: Lab) -> socket.socket:
    sock = lab.datagram()
    sock.connect(lab.receiver().getsockname())
    sock.shutdown(socket.SHUT_RDWR)
    return sock


STATES: list[tuple[Callable[[Lab], socket.socket], EventMask]] = [
    (fresh, W | HUP),
    (bound, W | HUP),
    (listening, EventMask(0)),
    (listening_and_a_connection_waits, R),
    (connecting, EventMask(0)),
    (connected, W),
    (data_wait, R | W),
    (data_are_read, W),
    (send_buffer_full, EventMask(0)),
    (full_and_shut_for_writing, W),
    (peer_has_ended, R | W | RDHUP),
    (peer_has_ended_after_data, R | W | RDHUP),
    (shut_for_writing, W),
    (shut_for_reading, R | W | RDHUP),
    (shut_in_both_directions, DEAD),
    (both_ends_have_ended, DEAD),
    (reset, DEAD | ERR),
    (reset_by_unread_data, DEAD | ERR),
    (refused, DEAD | ERR),
    (written_after_the_peers_close, DEAD | ERR),
    (error_is_taken, DEAD),
    (urgent, W | PRI),
    (urgent_behind_data, R | W | PRI),
    (urgent_once_data_are_read, W | PRI),
    (urgent_is_read, W),
    (never_accepted, DEAD | ERR),
    (datagram, W | WRBAND),
    (datagram_waits, R | W | WRBAND),
    (empty_datagram_waits, R | W | WRBAND),
    (port_unreachable, W | WRBAND | ERR),
    (datagram_shut, R | W | WRBAND | HUP | RDHUP),
]

NEAREST = {
    "unixpair": {PRI: IN, ERR: IN | OUT, HUP: IN | OUT, RDHUP: IN},
    "tcppair": {HUP: IN | OUT, RDHUP: IN},
}
"""What a pair shows in place of an event that it has not: docs/reference/backends.md."""


def shown(mask: EventMask, backend: str) -> EventMask:
    seen = mask & (ASKED | ERR | HUP)
    for event, substitute in NEAREST.get(backend, {}).items():
        if seen & event:
            seen = seen & ~event | substitute
    return seen


# Pollers: what each of them returns, and what that is for a mask.

SELECTORS: list[type[selectors.BaseSelector]] = [
    selectors.DefaultSelector,
    selectors.EpollSelector,
    selectors.PollSelector,
    selectors.SelectSelector,
]


def by_select(sock: socket.socket, timeout: float) -> list[bool]:
    return [bool(ready) for ready in select.select([sock], [sock], [sock], timeout)]


def by_poll(sock: socket.socket, timeout: float) -> EventMask:
    poll = select.poll()
    poll.register(sock, ASKED)
    return EventMask(sum(events for _, events in poll.poll(timeout * 1000)))


def by_epoll(sock: socket.socket, timeout: float) -> EventMask:
    with select.epoll() as epoll:
        epoll.register(sock, ASKED)
        return EventMask(sum(events for _, events in epoll.poll(timeout)))


def by_selector(kind: type[selectors.BaseSelector], sock: socket.socket, timeout: float) -> int:
    with kind() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        return sum(events for _, events in selector.select(timeout))


def seen_of(sock: socket.socket) -> dict[str, object]:
    seen: dict[str, object] = {
        "select": by_select(sock, 0),
        "poll": by_poll(sock, 0),
        "epoll": by_epoll(sock, 0),
    }
    return seen | {kind.__name__: by_selector(kind, sock, 0) for kind in SELECTORS}


def to_be_seen(mask: EventMask) -> dict[str, object]:
    """The same by fs/select.c's three sets and by the `selectors` module's two events."""
    sets = [bool(mask & (IN | ERR | HUP)), bool(mask & (OUT | ERR)), bool(mask & PRI)]
    cut = mask & (IN | OUT | ERR | HUP)
    exact = (selectors.EVENT_READ if cut & ~OUT else 0) | (
        selectors.EVENT_WRITE if cut & ~IN else 0
    )
    by_sets = (selectors.EVENT_READ if sets[0] else 0) | (selectors.EVENT_WRITE if sets[1] else 0)
    seen: dict[str, object] = {"select": sets, "poll": mask, "epoll": mask}
    return seen | {
        kind.__name__: by_sets if kind is selectors.SelectSelector else exact for kind in SELECTORS
    }


@pytest.mark.parametrize("kind", [Lab, Polled], ids=["asked-late", "asked-early"])
def test_pollers_see_every_state(kind: type[Lab], backend: str) -> None:
    wrong: dict[str, object] = {}
    for state, mask in STATES:
        with lab_of(backend, kind) as lab:
            sock = state(lab)
            lab.settles(sock, mask)
            seen, wanted = seen_of(sock), to_be_seen(shown(mask, backend))
            if seen != wanted:
                wrong[state.__name__] = seen, wanted
            # Looking has changed nothing.
            assert mask_of(sock) == mask
            if isinstance(sock, UserSocket):
                assert sock.vpoll.backend == backend
    assert not wrong


def _asking_to_read(poll: Any, sock: socket.socket, timeout: float) -> object:
    poll.register(sock, IN)
    return poll.poll(timeout)


def _by_epoll_to_read(sock: socket.socket) -> object:
    with select.epoll() as epoll:
        return _asking_to_read(epoll, sock, BOUND)


def _selected(kind: type[selectors.BaseSelector], sock: socket.socket) -> bool:
    with kind() as selector:
        key = selector.register(sock, selectors.EVENT_READ)
        return selector.select(BOUND) == [(key, selectors.EVENT_READ)]


POLLERS: list[Callable[[socket.socket], bool]] = [
    lambda sock: select.select([sock], [], [], BOUND)[0] == [sock],
    lambda sock: bool(_asking_to_read(select.poll(), sock, BOUND * 1000)),
    lambda sock: bool(_by_epoll_to_read(sock)),
    *(functools.partial(_selected, kind) for kind in SELECTORS),
]


def test_blocked_pollers_are_woken(backend: str) -> None:
    with lab_of(backend, Polled) as lab:
        client, server = lab.pair()
        # One by one, and then all of them at once.
        for pollers in (*zip(POLLERS, strict=True), POLLERS):
            waiting = [Background(poller, client) for poller in pollers]
            server.send(b"data")
            assert all(each.result() for each in waiting)
            assert lab.readable(client).recv(100) == b"data"


class Shout(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
        else:
            self.request.sendall(self.request.recv(100).upper())


@pytest.mark.parametrize("kind", [socketserver.ThreadingTCPServer, socketserver.UDPServer])
def test_socketserver_serves_with_every_backend(
    kind: type[socketserver.TCPServer], backend: str
) -> None:
    with va.open_stack("host" if backend == "kernel" else "memory") as stack, va.install():
        set_default_stack(stack)
        try:
            with kind(("127.0.0.1", 0), Shout) as server:
                serving = threading.Thread(target=server.serve_forever, args=(0.01,))
                serving.start()
                with socket.socket(type=server.socket_type) as client:
                    client.settimeout(BOUND)
                    client.connect(server.server_address)
                    client.send(b"hello")
                    assert client.recv(100) == b"HELLO"
                server.shutdown()
                serving.join()
        finally:
            set_default_stack(None)
