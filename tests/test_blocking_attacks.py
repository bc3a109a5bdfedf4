"""Blocked calls under attack: handlers that raise, no descriptors left, a fork, many rounds."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from blocking_helpers import (
    Background,
    client_context,
    connected,
    network_of,
    server_context,
    under_tls,
)
from memory_helpers import BOUND, failure
from scale import LONG
from test_blocking_closes import CALLS, Blocked, Call, Make, blocked
from vpoll_helpers import descriptors_left, in_child

__all__ = ["blocked"]


class Interrupted(Exception):
    """What the signal's handler raises."""


@pytest.fixture
def interrupted() -> Iterator[None]:
    def handler(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_once_blocked(blocked: Blocked) -> Background:
    """Send this process's main thread a signal once it is about to wait."""
    blocked.waits.clear()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert blocked.waits.wait(BOUND)
        signal.pthread_kill(main, signal.SIGUSR1)

    return Background(interrupt)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize(
    ("make", "call"), [entry[1:] for entry in CALLS], ids=[entry[0] for entry in CALLS]
)
def test_a_handler_that_raises_ends_a_blocked_call(
    make: Make, call: Call, blocked: Blocked
) -> None:
    sock = make(blocked)
    with sock:
        interrupting = interrupt_once_blocked(blocked)
        with pytest.raises(Interrupted):
            call(sock, blocked)
        interrupting.result()
        # Nobody is left waiting, and the socket is as it was.
        assert sock.fileno() >= 0
        sock.settimeout(0.01)
        with pytest.raises(OSError) as caught:
            call(sock, blocked)
        assert isinstance(caught.value, TimeoutError) or caught.value.errno == errno.EALREADY


@pytest.mark.usefixtures("interrupted")
def test_a_tls_connection_outlives_handlers_that_raise(blocked: Blocked) -> None:
    client = blocked.secure()
    server = blocked.others[-1]
    with client:
        data = bytes(range(256)) * 64
        for _ in range(5):
            interrupting = interrupt_once_blocked(blocked)
            with pytest.raises(Interrupted):
                client.recv(1)
            interrupting.result()
            sending = Background(server.sendall, data)
            received = b""
            while len(received) < len(data):
                received += client.recv(16384)
            assert received == data
            sending.result()
            sending = Background(client.sendall, data)
            received = b""
            while len(received) < len(data):
                received += server.recv(16384)
            assert received == data
            sending.result()


@pytest.mark.usefixtures("interrupted")
def test_a_write_that_a_handler_ended_goes_on(blocked: Blocked) -> None:
    client = blocked.secure_and_full()
    server = blocked.others[-1]
    with client:
        interrupting = interrupt_once_blocked(blocked)
        with pytest.raises(Interrupted):
            client.write(bytes(16384))
        interrupting.result()

        def end() -> None:
            client.sendall(bytes(16384) + b"end")
            client.shutdown(socket.SHUT_WR)

        ending = Background(end)
        received = bytearray()
        while data := server.recv(1 << 16):
            received += data
        ending.result()
        assert received.endswith(b"end")
        assert not any(received[:-3])


# No descriptors left.


def test_a_descriptor_that_cannot_be_made_leaves_the_socket_whole(blocked: Blocked) -> None:
    client = blocked.connected()
    server = blocked.others[-1]
    with client:
        with descriptors_left(0):
            for _ in range(3):
                assert failure(client.fileno) == errno.EMFILE
            assert failure(lambda: select.select([client], [], [], 0)) == errno.EMFILE
            with client.dup() as other:
                assert failure(other.fileno) == errno.EMFILE
            server.send(b"still here")
            assert client.recv(100) == b"still here"
        assert select.select([], [client], [], BOUND)[1] == [client]


def test_tls_needs_no_descriptor(blocked: Blocked) -> None:
    pair = connected()
    ours, theirs = client_context(), server_context()
    # Imports what encodes names, which is a file.
    ours.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    with descriptors_left(0):
        client, server = under_tls(pair, client=ours, server=theirs)
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"
        client.close()
        server.close()


# A fork in the middle.


def test_a_fork_while_calls_block_leaves_the_parents_alone(network_in_memory: None) -> None:
    pairs = [connected(), under_tls(connected())]
    for pair in pairs:
        for sock in pair:
            sock.settimeout(BOUND)
    reading = [Background(client.recv, 100) for client, _ in pairs]

    def child() -> None:
        for client, server in pairs:
            assert client.fileno() != server.fileno()
            client.close()
            server.close()

    in_child(child)
    for (_, server), each in zip(pairs, reading, strict=True):
        server.sendall(b"still here")
        assert each.result() == b"still here"
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.fixture
def network_in_memory(no_fd_leak: None) -> Iterator[None]:
    with network_of("memory"):
        yield


# Many rounds.


def plain() -> None:
    client, server = connected()
    with client, server:
        client.sendall(b"hello")
        assert select.select([server], [], [], BOUND)[0] == [server]
        assert server.recv(10) == b"hello"


def secure() -> None:
    client, server = under_tls(connected())
    with client, server:
        client.sendall(b"hello")
        assert select.select([server], [], [], BOUND)[0] == [server]
        assert server.recv(10) == b"hello"


def duplicated() -> None:
    client, server = connected()
    with client, server, client.dup() as copy:
        os.close(client.fileno())
        copy.sendall(b"hello")
        assert server.recv(10) == b"hello"


def ended_in_the_middle() -> None:
    client, server = connected()
    reading = Background(server.recv, 10)
    client.close()
    assert reading.result() == b""
    server.close()


def refused_tls() -> None:
    client, server = connected()
    with client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            server_context().wrap_socket(server, server_side=True)


@pytest.mark.parametrize(
    "once", [plain, secure, duplicated, ended_in_the_middle, refused_tls], ids=lambda f: f.__name__
)
def test_rounds_leave_nothing(once: Callable[[], None], blocked: Blocked) -> None:
    rounds = 200 if LONG else 40
    # The first rounds fill caches.
    for _ in range(20):
        once()
    before, threads = living(), threading.active_count()
    for _ in range(rounds):
        once()
    assert threading.active_count() == threads
    assert living() == before


def living() -> Counter[str]:
    """How many objects of the package's and of TLS's classes there are."""
    gc.collect()
    classes = (f"{type(thing).__module__}.{type(thing).__name__}" for thing in gc.get_objects())
    ours = Counter(name for name in classes if name.startswith(("vpoll_asyncio.", "_ssl.", "ssl.")))
    # As long as the protocol wants it.
    del ours["vpoll_asyncio.stacks.memory.timewait.TimeWait"]
    return ours
