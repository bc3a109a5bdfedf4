"""Paths of memory networks go on after what would stop them, and refuse what they cannot do."""

from __future__ import annotations

import _thread
import gc
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from memory_helpers import BOUND, until
from path_helpers import Ends, ends, hosts
from vpoll_asyncio.sleeper import Sleeper
from vpoll_asyncio.stacks.memory import ManualClock, MemoryStack, agenda
from vpoll_asyncio.stacks.memory.queue import StreamQueue
from vpoll_asyncio.testing import Network

PORT = 5
NUMBERLESS: list[Any] = [None, b"10ms", [], {}, ..., 1j, Decimal("NaN"), float("nan")]
MUCH: list[Any] = [-1, float("inf"), 10**400]


class Interrupted(BaseException):
    """What a signal handler of a test would raise."""


@pytest.fixture
def pair() -> Iterator[tuple[MemoryStack, MemoryStack]]:
    with hosts() as (a, b):
        a.network.set_path(delay="1ms")
        yield a, b


@pytest.fixture
def inbox(pair: tuple[MemoryStack, MemoryStack]) -> Iterator[socket.socket]:
    with pair[1].socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", PORT))
        sock.settimeout(BOUND)
        yield sock


@pytest.fixture
def send(pair: tuple[MemoryStack, MemoryStack]) -> Iterator[Callable[..., int]]:
    """Send a datagram to a port of the second host."""
    address = pair[1].addresses[0].partition("/")[0]
    with pair[0].socket(type=socket.SOCK_DGRAM) as sock:

        def sent(data: bytes, port: int = PORT) -> int:
            return sock.sendto(data, (address, port))

        yield sent


# What a waiter or a handler raises.


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("hook_fails", [False, True])
def test_whatever_a_waiter_raises_later_traffic_arrives(
    error: type[BaseException],
    hook_fails: bool,
    pair: tuple[MemoryStack, MemoryStack],
    inbox: socket.socket,
    send: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = threading.Event()
    told_twice = threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        assert args.exc_type is error
        told.set()
        if hook_fails:
            raise RuntimeError("the hook")

    monkeypatch.setattr(threading, "excepthook", hook)
    monkeypatch.setattr("sys.excepthook", lambda *error: told_twice.set())

    def fail(mask: int) -> None:
        raise error

    with pair[1].socket(type=socket.SOCK_DGRAM) as watched:
        watched.bind(("0.0.0.0", PORT + 1))
        watched.vpoll.add_waiter(fail)  # type: ignore[attr-defined]
        send(b"one", PORT + 1)
        assert told.wait(BOUND)
        assert not hook_fails or told_twice.wait(BOUND)
        send(b"two")
        assert inbox.recv(10) == b"two"
        watched.vpoll.remove_waiter(fail)  # type: ignore[attr-defined]


@pytest.mark.parametrize("begun", [False, True])
def test_traffic_goes_on_after_a_handler_interrupted_the_start_of_the_thread(
    begun: bool,
    inbox: socket.socket,
    send: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = _thread.start_new_thread

    def interrupted(function: Callable[[], object], args: tuple[()]) -> int:
        if begun:
            start(function, args)
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", interrupted)
        with pytest.raises(Interrupted):
            send(b"one")
    send(b"two")
    assert {inbox.recv(10), inbox.recv(10)} == {b"one", b"two"}


def test_traffic_goes_on_when_there_can_be_a_thread_again(
    inbox: socket.socket, send: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(function: Callable[[], object], args: tuple[()]) -> int:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", refused)
        send(b"one")
        send(b"two")
    send(b"three")
    assert [inbox.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]


def test_traffic_goes_on_after_a_thread_had_no_memory(
    inbox: socket.socket, send: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: told.set())

    def without_memory() -> Sleeper:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(agenda, "Sleeper", without_memory)
        send(b"one")
        assert told.wait(BOUND)
    send(b"two")
    assert [inbox.recv(10), inbox.recv(10)] == [b"one", b"two"]


def test_what_a_handler_interrupts_happens_when_the_clock_is_moved_again() -> None:
    class Twice:
        calls = 0

        def due(self, now: int, touched: list[Any]) -> None:
            self.calls += 1
            if self.calls == 1:
                raise Interrupted

    with hosts() as (host, _):
        clock = host.network.clock = ManualClock()
        later = host.host.network.agenda
        what = Twice()
        with host.host.network.lock:
            later.add(later.now(), what)
        with pytest.raises(Interrupted):
            clock.advance(0)
        assert clock.next == 0
        clock.advance(0)
        assert what.calls == 2
        assert clock.next is None


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_stream_is_whole_after_a_handler_interrupted_its_delivery(
    done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = StreamQueue.append

    def interrupted(self: StreamQueue, data: Any) -> None:
        monkeypatch.setattr(StreamQueue, "append", append)
        if done:
            append(self, data)
        raise Interrupted

    made: Ends
    with ends(False, delay="1ms") as made:
        client, server = made.pair()
        client.send(b"first ")
        monkeypatch.setattr(StreamQueue, "append", interrupted)
        with pytest.raises(Interrupted):
            made.clock.advance(1)
        client.send(b"second")
        made.clock.advance(10)
        assert server.recv(100) == b"first second"
        made.clock.advance(10)
        assert made.clock.next is None


# What is left.


def test_nothing_waits_for_hosts_that_have_all_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    start = _thread.start_new_thread

    def watched(function: Callable[[], object], args: tuple[()]) -> int:
        def work() -> None:
            function()
            ended.set()

        return start(work, ())

    monkeypatch.setattr(_thread, "start_new_thread", watched)
    with hosts() as (server, client):
        network = weakref.ref(server.host.network)
        server.network.set_path(delay=3600)
        with client.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(("10.0.0.1", 80))
    assert ended.wait(BOUND)
    del server, client, sock
    until(lambda: gc.collect() >= 0 and network() is None)


def test_a_clock_has_nothing_due_for_hosts_that_have_all_left() -> None:
    with hosts(delay=3600) as (server, client):
        clock = server.network.clock = ManualClock()
        with client.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"late", ("10.0.0.1", 80))
        server.close()
        assert clock.next == 3600
    assert clock.next is None


# Values.


@pytest.mark.parametrize("value", [*NUMBERLESS, *MUCH, 1e300, "1", ()], ids=repr)
def test_a_bad_time_to_advance_by_is_refused(value: Any) -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="seconds: expected 0 or more"):
        clock.advance(value)
    assert clock.time() == 0


@pytest.mark.parametrize("value", [*NUMBERLESS, *MUCH, 1e308, 4294968, "1", ()], ids=repr)
def test_a_bad_user_timeout_is_refused(value: Any) -> None:
    with hosts() as (host, _):
        with pytest.raises(ValueError, match="expected seconds, from 0 to"):
            host.network.tcp_user_timeout = value
        assert host.network.tcp_user_timeout == 0


@pytest.mark.parametrize("value", ["monotonic", 1.0, ManualClock], ids=repr)
def test_what_is_no_clock_is_refused_and_the_network_keeps_its_own(value: Any) -> None:
    with hosts() as (host, _):
        clock = host.network.clock = ManualClock()
        with pytest.raises(ValueError, match="expected a ManualClock"):
            host.network.clock = value
        assert host.network.clock is clock


@pytest.mark.parametrize(
    "word",
    ["delay", "jitter", "loss", "duplicate", "corrupt", "reorder", "gap", "rate", "limit"],
)
@pytest.mark.parametrize(
    "value", [*NUMBERLESS, *MUCH, "9" * 5000], ids=lambda value: repr(value)[:9]
)
def test_a_bad_condition_is_refused_and_nothing_changes(word: str, value: Any) -> None:
    with hosts() as (a, b):
        a.network.set_path(a, b, delay="7ms")
        before = a.network.path(a, b)
        with suppress(ValueError):
            # More of something countable is no error.
            a.network.set_path(a, b, **{"delay": "10ms", word: value})
            assert (word in ("gap", "limit"), value) == (True, 10**400)
            return
        assert a.network.path(a, b) == before


@pytest.mark.parametrize("rate", [5e-324, "1e-320bit", 0.5, "0.9bit"])
def test_a_rate_that_sends_nothing_in_any_time_is_refused(rate: Any) -> None:
    with hosts() as (a, b), pytest.raises(ValueError, match="1 or more"):
        a.network.set_path(a, b, rate=rate)


def test_groups_are_asked_for_their_hosts_without_the_lock() -> None:
    with hosts() as (a, b):

        def group() -> Iterator[MemoryStack]:
            thread = threading.Thread(target=lambda: a.network.connected(a, b))
            thread.start()
            thread.join(BOUND)
            assert not thread.is_alive()
            yield a

        a.network.partition(group())
        assert not a.network.connected(a, b)


# Names and addresses of hosts.


@pytest.mark.parametrize(
    "name",
    [7, b"server", None, "a b", "a\0b", "10.9.9.9", "10", "::1", "localhost", "a..b", "x" * 64],
    ids=repr,
)
def test_a_name_that_nobody_could_look_up_is_refused(name: Any) -> None:
    with Network() as network:
        with pytest.raises(ValueError, match="name"):
            network.host(name)
        assert not network.hosts
        assert repr(network)


@pytest.mark.parametrize("asked", ["server", "SERVER.", "Server", "server."])
@pytest.mark.parametrize("name", ["server", "Server", "SERVER."])
def test_case_and_a_last_dot_of_a_name_do_not_count(name: str, asked: str) -> None:
    with Network() as network:
        network.host(name, "10.0.0.1")
        found = network.host("client").getaddrinfo(asked, 80, socket.AF_INET)
        assert found[0][4] == ("10.0.0.1", 80)
        with pytest.raises(OSError, match="already the name"):
            network.host("SERVER")


def test_a_name_is_free_again_when_its_host_has_left() -> None:
    with Network() as network:
        network.host("Server").close()
        network.host("server")


def test_when_no_address_is_free_any_more_it_says_so() -> None:
    with Network() as network:
        for number in range(254):
            network.host(f"h{number}")
        with pytest.raises(ValueError, match=r"no address of 10\.0\.0\.0/24 is free"):
            network.host("last")
        network.host("elsewhere", "10.1.0.1")
