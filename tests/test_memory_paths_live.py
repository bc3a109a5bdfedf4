"""Paths with conditions under the machine's clock: threads, loops, signals, forks and the end."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import errno
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from memory_helpers import BOUND, failure, mask_of, until
from path_helpers import PORT, ends, hosts
from processes import ROOT
from vpoll_asyncio import EventMask, streams
from vpoll_asyncio.loops import EventLoop
from vpoll_asyncio.stacks.memory import ManualClock, MemoryStack, agenda
from vpoll_asyncio.testing.stack_suite.loops import LOOPS

ADDRESS = ("10.0.0.1", PORT)


class Threads:
    """How many threads networks have started, and how many of them have ended."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    def start_new_thread(self, work: Callable[[], None], arguments: tuple[()]) -> int:
        self.started += 1

        def run() -> None:
            work()
            self.ended += 1

        return _thread.start_new_thread(run, arguments)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    made = Threads()
    monkeypatch.setattr(agenda, "_thread", made)
    return made


@contextlib.contextmanager
def connected(
    server: MemoryStack, client: MemoryStack
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and the server's end, blocking with a bound."""
    with server.socket() as listener, client.socket() as near:
        listener.settimeout(BOUND)
        near.settimeout(BOUND)
        listener.bind(ADDRESS)
        listener.listen()
        near.connect(ADDRESS)
        far, _ = listener.accept()
        with far:
            far.settimeout(BOUND)
            yield near, far


def receive(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        chunk = sock.recv(65536)
        assert chunk, f"the end came after {len(got)} of {count} bytes"
        got += chunk
    return got


def test_blocking_sockets_wait_for_what_is_under_way() -> None:
    with hosts(delay="5ms") as (server, client), connected(server, client) as (near, far):
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert (near.recv(100), near.recv(100)) == (b"answer", b"")


def test_a_blocking_call_times_out_behind_a_partition() -> None:
    with hosts() as (server, client), connected(server, client) as (near, far):
        server.network.partition([server])
        far.send(b"x")
        near.settimeout(0.01)
        with pytest.raises(TimeoutError):
            near.recv(1)
        server.network.heal()
        near.settimeout(BOUND)
        assert near.recv(1) == b"x"


def test_a_blocking_call_ends_when_the_stream_gives_up() -> None:
    with hosts() as (server, client), connected(server, client) as (near, _):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1)
        server.network.partition([server])
        near.send(b"x")
        assert failure(near.recv, 1) == errno.ETIMEDOUT


def test_a_thread_is_there_only_while_something_is_under_way(threads: Threads) -> None:
    with hosts() as (server, client), server.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(BOUND)
        receiver.bind(ADDRESS)
        with client.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"at once", ADDRESS)
            assert receiver.recv(100) == b"at once"
            server.network.set_path(delay="1ms")
            assert threads.started == 0
            for count in (1, 2):
                sender.sendto(b"later", ADDRESS)
                assert threads.started == count
                assert receiver.recv(100) == b"later"
                until(lambda: threads.ended == threads.started, "the thread stays")


def test_a_program_s_clock_needs_no_thread(threads: Threads) -> None:
    with ends(delay="1ms") as made:
        client, server = made.pair()
        client.send(b"x")
        made.settle()
        assert server.recv(1) == b"x"
    assert threads.started == 0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("factory", LOOPS)
@pytest.mark.parametrize("words", [{"delay": "2ms"}, {"loss": "3%"}], ids=["delay", "loss"])
def test_streams_of_every_loop_carry_every_byte(
    factory: Callable[[], asyncio.AbstractEventLoop], words: dict[str, str]
) -> None:
    data = random.Random(1).randbytes(100_000)

    async def main() -> None:
        listening = await streams.start_server(_echo, *ADDRESS, stack=server)
        async with listening:
            reader, writer = await streams.open_connection(*ADDRESS, stack=client)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()

    with hosts(**words) as (server, client), asyncio.Runner(loop_factory=factory) as runner:
        # Of this seed no SYN is lost, which would take a second.
        server.network.seed = 2
        runner.run(asyncio.wait_for(main(), 2 * BOUND))


def test_a_loop_that_moves_the_clock_waits_for_no_time() -> None:
    clock = ManualClock()

    async def main() -> None:
        listening = await streams.start_server(_echo, *ADDRESS, stack=server)
        async with listening:
            server.network.partition([server])
            connecting = asyncio.ensure_future(streams.open_connection(*ADDRESS, stack=client))
            while not connecting.done():
                clock.step()
                await asyncio.sleep(0)
            assert isinstance(connecting.exception(), TimeoutError)
            assert clock.time() == pytest.approx(127)

    with hosts(delay="10ms") as (server, client), contextlib.closing(EventLoop()) as loop:
        server.network.clock = clock
        loop.run_until_complete(asyncio.wait_for(main(), BOUND))


def test_signal_handlers_may_send_while_the_program_does() -> None:
    data = bytes(range(1, 256)) * 400
    came = bytearray()
    with hosts(loss="1%") as (server, client), connected(server, client) as (near, far):
        interrupted = 0

        def handler(number: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            near.setblocking(False)
            try:
                count = near.send(b"\0")
                interrupted += count
            except BlockingIOError:
                pass
            finally:
                near.settimeout(BOUND)

        def read() -> None:
            while chunk := far.recv(65536):
                came.extend(chunk)

        reading = threading.Thread(target=read)
        reading.start()
        previous = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            sent = 0
            while sent < len(data) or interrupted < 20:
                sent += near.send(data[sent : sent + 97])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            near.shutdown(socket.SHUT_WR)
            reading.join(2 * BOUND)
    assert came.count(0) == interrupted
    assert bytes(came).replace(b"\0", b"") == data


def test_conditions_may_change_while_threads_send_and_receive() -> None:
    data = [random.Random(number).randbytes(400_000) for number in range(2)]
    with hosts() as (server, client), connected(server, client) as pair:
        got: list[bytes] = [b"", b""]
        over = threading.Event()

        def send(side: int) -> None:
            for start in range(0, len(data[side]), 3000):
                pair[side].sendall(data[side][start : start + 3000])

        def read(side: int) -> None:
            got[side] = receive(pair[side], len(data[1 - side]))

        def change() -> None:
            words: list[dict[str, Any]] = [
                {"delay": "1ms"},
                {},
                {"loss": "1%"},
                {},
                {"jitter": "1ms"},
                {},
            ]
            while not over.is_set():
                for each in words:
                    server.network.set_path(server, client, **each)
                    over.wait(0.003)

        working = [
            threading.Thread(target=work, args=(side,)) for work in (send, read) for side in (0, 1)
        ]
        changing = threading.Thread(target=change)
        for thread in (*working, changing):
            thread.start()
        for thread in working:
            thread.join(2 * BOUND)
        over.set()
        changing.join()
    assert got == data[::-1]


def in_child(check: Callable[[], bool]) -> bool:
    """Whether `check` holds in a child of fork(2)."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_gets_what_was_under_way_when_it_was_forked() -> None:
    with hosts(delay="20ms") as (server, client), connected(server, client) as (near, far):
        near.send(b"to both")
        assert in_child(lambda: far.recv(100) == b"to both")
        assert far.recv(100) == b"to both"


def test_a_child_hears_what_the_thread_was_about_to_tell_when_it_was_forked() -> None:
    with hosts(delay="1ms") as (server, client), contextlib.ExitStack() as stack:
        telling, told = threading.Event(), threading.Event()
        receivers = []
        for port in (1, 2):
            receiver = stack.enter_context(server.socket(type=socket.SOCK_DGRAM))
            receiver.bind((ADDRESS[0], port))
            receivers.append(receiver)

        def hold(mask: int) -> None:
            if mask & EventMask.IN and not telling.is_set():
                telling.set()
                assert told.wait(BOUND)

        receivers[0].vpoll.add_waiter(hold)  # type: ignore[attr-defined]
        stack.callback(told.set)
        sender = stack.enter_context(client.socket(type=socket.SOCK_DGRAM))
        with server.host.network.lock:
            # Both arrive in one turn of the thread.
            for port in (1, 2):
                sender.sendto(b"x", (ADDRESS[0], port))
            due = time.monotonic() + 0.001
            until(lambda: time.monotonic() > due)
        assert telling.wait(BOUND)
        assert not mask_of(receivers[1]) & EventMask.IN
        assert in_child(lambda: bool(mask_of(receivers[1]) & EventMask.IN))


def test_a_child_can_move_a_clock_that_another_thread_was_moving() -> None:
    with ends(delay="1ms") as made:
        receiver, sender = made.receiver(), made.datagram()
        moving, moved = threading.Event(), threading.Event()

        def hold(mask: int) -> None:
            if mask & EventMask.IN and not moving.is_set():
                moving.set()
                assert moved.wait(BOUND)

        receiver.vpoll.add_waiter(hold)  # type: ignore[attr-defined]
        sender.sendto(b"x", made.address)
        mover = threading.Thread(target=made.clock.advance, args=(1,))
        mover.start()
        try:
            assert moving.wait(BOUND)
            assert in_child(lambda: made.clock.advance(1) is None)  # type: ignore[func-returns-value]
        finally:
            moved.set()
            mover.join()


PROGRAM = """
import socket
from vpoll_asyncio.stacks.memory import MemoryStack

server = MemoryStack(vnl="mem://end", ip="10.0.0.1/24")
client = MemoryStack(vnl="mem://end", ip="10.0.0.2/24")
with server.socket() as listener:
    listener.bind(("10.0.0.1", 80))
    listener.listen()
    sock = client.socket()
    sock.connect(("10.0.0.1", 80))
    connection, _ = listener.accept()
server.network.set_path(delay=0.0001, jitter=0.0001, loss=0.5)
for _ in range(200):
    sock.send(b"x" * 100)
    connection.send(b"x" * 100)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("for each in sock, connection, server, client: each.close()", id="closed"),
        pytest.param("", id="open"),
    ],
)
def test_a_program_ends_while_things_are_under_way(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_stacks_are_collected_when_nothing_waits_any_more() -> None:
    with ends(delay="10ms") as made:
        client = made.pair()[0]
        made.network.partition([made.server])
        client.send(b"x")
        made.knocking()
        gone = [weakref.ref(stack.host) for stack in (made.server, made.client)]
        clock = made.clock
    del made, client
    while clock.step():
        pass
    gc.collect()
    assert [host() for host in gone] == [None, None]


def test_a_waiter_that_raises_keeps_nobody_else_from_hearing() -> None:
    with ends(delay="10ms") as made:
        first, second = made.receiver(), made.make(made.server, socket.SOCK_DGRAM)
        second.bind((made.address[0], PORT + 1))
        heard: list[int] = []

        def broken(mask: int) -> None:
            raise ZeroDivisionError

        first.vpoll.add_waiter(broken)  # type: ignore[attr-defined]
        second.vpoll.add_waiter(heard.append)  # type: ignore[attr-defined]
        sender = made.datagram()
        sender.sendto(b"x", made.address)
        sender.sendto(b"x", (made.address[0], PORT + 1))
        with pytest.raises(ZeroDivisionError):
            made.clock.advance(1)
        first.vpoll.remove_waiter(broken)  # type: ignore[attr-defined]
        assert heard
