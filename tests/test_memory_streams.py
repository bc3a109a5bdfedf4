"""Streams in memory: every byte arrives once and in order, buffers are bounded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import itertools
import random
import signal
import socket
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_helpers import (
    BOUND,
    DEAD,
    ERR,
    FIONREAD,
    PRI,
    RDHUP,
    Lab,
    R,
    W,
    ask,
    failure,
    fill,
    linger_zero,
    mask_of,
    small_buffers,
)
from vpoll_asyncio.events import EventMask
from vpoll_asyncio.hot import pipe
from vpoll_asyncio.hot.accelerator import ACCELERATOR
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.stacks.memory.opening import StreamPcb
from vpoll_asyncio.stacks.memory.queue import StreamQueue
from vpoll_asyncio.stacks.memory.stream import StreamSocket


@pytest.fixture
def lab() -> Iterator[Lab]:
    with MemoryStack() as stack:
        lab = Lab(stack)
        yield lab
        lab.close()


def vpoll_of(sock: socket.socket) -> UserSocket:
    assert isinstance(sock, UserSocket)
    return sock


class _Counter:
    def __init__(self, sock: socket.socket) -> None:
        self.masks: list[int] = []
        vpoll_of(sock).vpoll.add_waiter(self.masks.append)


@given(
    sends=st.lists(st.binary(min_size=1, max_size=3000), max_size=150),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    reads_per_send=st.integers(0, 3),
)
@settings(deadline=None)
def test_bytes_arrive_in_order_whatever_the_sizes(
    sends: list[bytes], sizes: list[int], reads_per_send: int
) -> None:
    with MemoryStack() as stack:
        lab = Lab(stack)
        client, server = lab.pair()
        received: list[bytes] = []
        turn = 0

        def read() -> None:
            nonlocal turn
            size = sizes[turn % len(sizes)]
            turn += 1
            waiting = ask(server, FIONREAD)
            if waiting:
                peeked = server.recv(size, socket.MSG_PEEK)
                data = server.recv(size)
                assert peeked == data
                assert len(data) == min(size, waiting)
                received.append(data)

        for data in sends:
            view = memoryview(data)
            while view:
                try:
                    view = view[client.send(view) :]
                except BlockingIOError:
                    read()
            for _ in range(reads_per_send):
                read()
        while mask_of(server) & R:
            read()
        assert b"".join(received) == b"".join(sends)
        lab.close()


def test_whole_chunks_are_not_copied(lab: Lab) -> None:
    client, server = lab.pair()
    data = bytes(50000)
    client.send(data)
    assert server.recv(1 << 16) is data


def growth(action: Callable[[], object]) -> int:
    """The bytes that Python has allocated since before `action`."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_what_fits_of_bytes_is_not_copied(lab: Lab) -> None:
    client, server = lab.pair()
    data = random.Random(5).randbytes(600_000)
    sent: list[int] = []
    assert growth(lambda: sent.append(client.send(data))) < 10_000
    assert sent[0] < len(data)
    assert server.recv(1 << 20) == data[: sent[0]]


def test_the_rest_of_bytes_is_not_copied_either(lab: Lab) -> None:
    client, server = lab.pair()
    data = random.Random(6).randbytes(200_000)
    rest = memoryview(data)[100_000:]
    assert growth(lambda: client.send(rest)) < 10_000
    rest.release()
    assert server.recv(1 << 20) == data[100_000:]


def test_a_small_part_does_not_keep_large_bytes(lab: Lab) -> None:
    client, server = lab.pair()

    def send() -> None:
        for number in range(20):
            client.send(memoryview(bytes([number]) * 1_000_000)[:1000])

    assert growth(send) < 200_000
    assert server.recv(1 << 20) == b"".join(bytes([number]) * 1000 for number in range(20))


def test_mutable_buffer_may_be_reused_at_once(lab: Lab) -> None:
    client, server = lab.pair()
    buffer = bytearray(b"first")
    client.send(buffer)
    client.send(memoryview(buffer)[1:3])
    buffer[:] = b"other"
    buffer.clear()
    assert server.recv(100) == b"firstir"


def test_buffers_are_bounded_by_their_options(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    bound = client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + server.getsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF
    )
    assert fill(client) == bound
    assert failure(client.send, b"x") == errno.EAGAIN


def test_single_bytes_cost_no_multiple_of_the_buffer(lab: Lab) -> None:
    client, server = lab.pair()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100_000):
            client.send(number.to_bytes(3, "big")[1:])
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used < 2 * ask(server, FIONREAD)
    expected = b"".join(number.to_bytes(3, "big")[1:] for number in range(100_000))
    assert server.recv(1 << 20) == expected


def test_writable_again_once_a_third_of_the_send_buffer_is_free(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    sndbuf = client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    fill(client)
    server.recv(sndbuf // 3 - 1)
    assert mask_of(client) == 0
    # Level-triggered waiters may not see it, but a send succeeds.
    assert client.send(b"x") == 1
    server.recv(10)
    assert mask_of(client) == W


def test_fin_stays_behind_data_that_the_receive_buffer_has_no_room_for(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    left = fill(client)
    client.shutdown(socket.SHUT_WR)
    assert mask_of(server) == R | W
    rcvbuf = server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    while left > rcvbuf:
        assert not mask_of(server) & RDHUP
        left -= len(server.recv(1000))
    assert mask_of(server) == R | W | RDHUP
    while left:
        left -= len(server.recv(1000))
    assert server.recv(1) == b""


def test_data_that_a_closed_socket_had_sent_are_delivered(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    left = fill(client)
    client.close()
    while left:
        data = server.recv(1000)
        assert data
        left -= len(data)
    assert server.recv(1) == b""
    assert mask_of(server) == R | W | RDHUP


def test_reset_loses_what_the_peer_had_no_room_for(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    sent = fill(client)
    rcvbuf = server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert sent > rcvbuf
    linger_zero(client)
    client.close()
    assert mask_of(server) == DEAD | ERR
    assert len(server.recv(1 << 20)) == rcvbuf
    assert failure(server.recv, 1) == errno.ECONNRESET


def test_urgent_byte_behind_a_full_receive_buffer_is_not_announced(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    rcvbuf = server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    client.send(bytes(rcvbuf))
    client.send(b"!", socket.MSG_OOB)
    assert mask_of(server) == R | W
    server.recv(100)
    assert mask_of(server) == R | W | PRI


def test_growing_the_receive_buffer_lets_data_and_fin_in(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    fill(client)
    client.shutdown(socket.SHUT_WR)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    assert mask_of(server) == R | W | RDHUP
    # The sender's end is in FIN_WAIT2: closing the other way ends the connection.
    server.shutdown(socket.SHUT_WR)
    assert mask_of(client) == DEAD


def test_every_arrival_is_a_wake_up(lab: Lab) -> None:
    client, server = lab.pair()
    seen = _Counter(server)
    for _ in range(3):
        client.send(b"data")
    assert seen.masks == [R | W] * 3


def test_waiters_run_without_the_network_s_lock(lab: Lab) -> None:
    client, server = lab.pair()
    served = threading.Event()

    def ask_for_peer() -> None:
        client.getpeername()
        served.set()

    def waiter(mask: int) -> None:
        # Another thread needs the lock while this waiter has not returned.
        thread = threading.Thread(target=ask_for_peer)
        thread.start()
        thread.join(BOUND)

    vpoll_of(server).vpoll.add_waiter(waiter)
    client.send(b"data")
    vpoll_of(server).vpoll.remove_waiter(waiter)
    assert served.is_set()


def test_socket_may_be_used_from_its_own_waiter(lab: Lab) -> None:
    client, server = lab.pair()
    received = bytearray()

    def waiter(mask: int) -> None:
        try:
            while data := server.recv(3):
                received.extend(data)
        except BlockingIOError:
            pass

    vpoll_of(server).vpoll.add_waiter(waiter)
    client.send(b"0123456789")
    vpoll_of(server).vpoll.remove_waiter(waiter)
    assert received == b"0123456789"
    assert mask_of(server) == W


def test_two_threads_transfer_both_ways(lab: Lab) -> None:
    client, server = lab.pair(small_buffers)
    size = 4 << 20
    data = random.Random(1).randbytes(size)
    digests: dict[str, str] = {}

    def send(sock: socket.socket) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view[:30000]) :]
            except BlockingIOError:
                assert vpoll_of(sock).vpoll.wait(W, BOUND), "no room came"
        sock.shutdown(socket.SHUT_WR)

    def receive(name: str, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while True:
            try:
                chunk = sock.recv(20000)
            except BlockingIOError:
                assert vpoll_of(sock).vpoll.wait(R, BOUND), "no data came"
                continue
            if not chunk:
                break
            digest.update(chunk)
        digests[name] = digest.hexdigest()

    threads = [
        threading.Thread(target=send, args=(client,)),
        threading.Thread(target=send, args=(server,)),
        threading.Thread(target=receive, args=("client", client)),
        threading.Thread(target=receive, args=("server", server)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = hashlib.sha256(data).hexdigest()
    assert digests == {"client": expected, "server": expected}
    assert mask_of(client) == mask_of(server) == DEAD


def test_masks_end_right_when_threads_race(lab: Lab) -> None:
    client, server = lab.pair()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            sender = threading.Thread(target=lambda: [client.send(b"x") for _ in range(5)])
            sender.start()
            count = 0
            while count < 5:
                try:
                    count += len(server.recv(2))
                except BlockingIOError:
                    assert vpoll_of(server).vpoll.wait(R, BOUND), "lost wake-up"
            sender.join(BOUND)
            assert mask_of(server) == W
            assert mask_of(client) == W
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("receiving", [False, True])
def test_signal_handlers_lose_nothing(lab: Lab, receiving: bool) -> None:
    client, server = lab.pair()
    handled = 0
    received: list[bytes] = []

    def handler(number: int, frame: object) -> None:
        nonlocal handled
        sent = client.send(b"h")
        # No call in between: the next signal may come at any call.
        handled += sent
        if receiving:
            drain()

    def drain() -> None:
        try:
            received.append(server.recv(100))
        except BlockingIOError:
            pass

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        sent = 0
        while handled < 200:
            sent += client.send(b"m")
            drain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    while mask_of(server) & R:
        drain()
    every = b"".join(received)
    assert (every.count(b"h"), every.count(b"m")) == (handled, sent)
    assert ask(server, FIONREAD) == 0


def test_connections_that_wait_keep_what_was_sent(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.connecting(listener)
    client.send(b"early")
    client.close()
    server = lab.keep(listener.accept()[0])
    assert mask_of(server) == R | W | RDHUP
    assert server.recv(10) == b"early"


def test_connection_reset_while_it_waits_is_accepted_dead(lab: Lab) -> None:
    listener = lab.listener()
    client = lab.connecting(listener)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    server = lab.keep(listener.accept()[0])
    assert mask_of(server) == DEAD | ERR
    assert failure(server.recv, 1) == errno.ECONNRESET


class Interrupted(Exception):
    pass


def test_an_exception_out_of_a_signal_handler_leaves_masks_and_counts_right(lab: Lab) -> None:
    client, server = lab.pair()
    client.setblocking(False)
    server.setblocking(False)

    def interrupt(signum: int, where: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(2000):
            with contextlib.suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 100 * 2e-6)
                # Not for ever: where the interpreter cannot raise, as in a callback of the
                # garbage collector, it prints the exception and goes on.
                for _ in range(20_000):
                    with contextlib.suppress(BlockingIOError):
                        client.send(b"x" * 10)
                    with contextlib.suppress(BlockingIOError):
                        server.recv(10)
            with contextlib.suppress(BlockingIOError):
                while server.recv(1 << 20):
                    pass
            assert not mask_of(server) & EventMask.IN
            assert mask_of(client) & EventMask.OUT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def signal_at(function: Callable[..., object], text: str) -> Iterator[None]:
    """Raise SIGUSR1 where `function` comes to the line with `text`, once."""
    lines, first = inspect.getsourcelines(function)
    wanted = first + next(number for number, line in enumerate(lines) if text in line)

    def line_of(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and frame.f_lineno == wanted:
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)
        return line_of

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line_of if frame.f_code is function.__code__ else None)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def handled(handler: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_now() -> None:
    raise Interrupted


def test_an_exception_between_a_byte_and_its_count_is_mended(lab: Lab) -> None:
    client, server = lab.pair()
    with handled(interrupt_now), signal_at(StreamQueue.append, "self.used += count"):
        with pytest.raises(Interrupted):
            client.send(b"hello")
    assert ask(server, FIONREAD) == 5
    assert mask_of(server) == R | W
    assert server.recv(100) == b"hello"
    assert mask_of(server) == W


def test_a_handler_that_receives_between_two_pieces_takes_none_twice(lab: Lab) -> None:
    client, server = lab.pair()
    server.setblocking(False)
    for piece in (b"one", b"two", b"three"):
        client.send(piece)
    taken: list[bytes] = []

    def receive_all() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(server.recv(100))

    with handled(receive_all), signal_at(StreamQueue._join, "chunks.pop(0)"):
        assert server.recv(100) == b"one"
    assert taken == [b"twothree"]
    assert ask(server, FIONREAD) == 0


def endpoint_of(sock: socket.socket) -> StreamPcb:
    assert isinstance(sock, StreamSocket)
    return sock.pcb


@pytest.mark.parametrize("operation", ["send", "recv"])
def test_an_exception_at_any_bytecode_leaves_the_lock_to_other_threads(
    lab: Lab, operation: str
) -> None:
    client, server = (endpoint_of(sock) for sock in lab.pair())

    def interrupted(step: int) -> bool:
        """Do `operation`, with an exception before its bytecode `step`; False behind the last."""
        left = step

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename != pipe.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left < 0:
                    raise Interrupted
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            if operation == "send":
                client.send(b"x" * 100)
            else:
                server.recv_some(100)
        except Interrupted:
            return True
        finally:
            sys.settrace(before)
        return False

    taken: list[bool] = []

    def other_thread() -> None:
        with contextlib.suppress(BlockingIOError):
            server.recv(1 << 20, 0)
        client.send(b"y" * 100)
        taken.append(server.mask & R == R)

    # CPython 3.12 begins to tell of bytecodes once a function has asked for it.
    client.send(b"y" * 100)
    interrupted(sys.maxsize)
    for step in itertools.count():
        client.send(b"y" * 100)
        more = interrupted(step)
        thread = threading.Thread(target=other_thread, daemon=True)
        thread.start()
        thread.join(BOUND)
        assert taken == [True] * (step + 1)
        if not more:
            break
    assert step > 50 or ACCELERATOR is not None
