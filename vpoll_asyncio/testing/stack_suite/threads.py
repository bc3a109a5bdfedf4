"""Threads: several act on one socket at once, beside a loop; closing wakes whoever is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ... import streams, waiting
from ...events import EventMask
from ...loops import EventLoop
from .base import SuiteBase
from .lab import Lab, failure, until

AMOUNT = 1_000_000
PIECE = 50_000
DATAGRAMS = 800
# Fewer than the smallest receive buffer holds.
UNDER_WAY = 32
CLIENTS = 40
THREADS = 4


def _switches(thread: int) -> str:
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("voluntary"))


def wait_until_blocked(thread: int) -> None:
    """Return once the thread with that native id does nothing any more."""
    looks = ["", "", ""]

    def blocked() -> bool:
        looks.append(_switches(thread))
        # It has had the processor, and the interpreter, between these looks.
        return len(set(looks[-4:])) == 1

    until(blocked, "the thread does not block", drive=lambda: time.sleep(0.002))


class Threads:
    """Threads whose exceptions are the test's."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def start(self, function: Callable[..., object], *args: Any) -> int:
        """Run `function` in a new thread; return its native id once it runs."""
        running = threading.Event()
        thread = threading.Thread(target=self._run, args=(running, function, args), daemon=True)
        self._threads.append(thread)
        thread.start()
        running.wait(self._bound)
        return thread.native_id or 0

    def _run(
        self, running: threading.Event, function: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        running.set()
        try:
            function(*args)
        except BaseException as exc:
            self._failures.append(exc)

    def join(self) -> None:
        """Wait until all have ended; raise what one has raised."""
        for thread in self._threads:
            thread.join(self._bound)
        stuck = [thread for thread in self._threads if thread.is_alive()]
        if self._failures:
            raise self._failures[0]
        assert not stuck, f"{len(stuck)} threads do not come to an end"


def _blocked_accept(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    listener = lab.listener()
    return listener, listener.accept


def _blocked_connect(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    listener = lab.listener(0)
    lab.settles(lab.connecting(listener), EventMask.OUT | EventMask.WRNORM)
    client = lab.stream()
    return client, lambda: client.connect(listener.getsockname())


def _blocked_recv(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    client, _ = lab.pair()
    return client, lambda: client.recv(1)


def _blocked_recvfrom(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    receiver = lab.receiver()
    return receiver, lambda: receiver.recvfrom(1)


def _blocked_recv_into(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    client, _ = lab.pair()
    return client, lambda: client.recv_into(bytearray(1))


def _blocked_send(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    client, _ = lab.pair()
    lab.fill(client)
    return client, lambda: client.send(b"x")


def _blocked_sendall(lab: Lab) -> tuple[socket.socket, Callable[[], object]]:
    client, _ = lab.pair()
    return client, lambda: client.sendall(bytes(50_000_000))


BLOCKED = {
    "accept": _blocked_accept,
    "connect": _blocked_connect,
    "recv": _blocked_recv,
    "recvfrom": _blocked_recvfrom,
    "recv_into": _blocked_recv_into,
    "send": _blocked_send,
    "sendall": _blocked_sendall,
}


class ThreadTests(SuiteBase):
    """One socket in several threads, one stack in several loops."""

    @contextlib.contextmanager
    def threads(self) -> Iterator[Threads]:
        """Run threads until all have ended."""
        threads = Threads(3 * self.bound)
        try:
            yield threads
        finally:
            threads.join()

    @pytest.mark.parametrize("call", BLOCKED)
    @pytest.mark.parametrize("timeout", [None, 600.0], ids=["blocking", "timeout"])
    def test_closing_wakes_whoever_is_blocked(
        self, lab: Lab, call: str, timeout: float | None
    ) -> None:
        sock, function = BLOCKED[call](lab)
        sock.settimeout(timeout)
        seen: list[int] = []
        with self.threads() as threads:
            for _ in range(2 if call in ("recv", "accept", "recvfrom") else 1):
                asleep = threads.start(lambda: seen.append(failure(function)))
                wait_until_blocked(asleep)
            sock.close()
        assert set(seen) == {errno.EBADF}

    def test_shutting_down_wakes_a_blocked_recv(self, lab: Lab) -> None:
        client, _ = lab.pair()
        client.settimeout(None)
        got: list[bytes] = []
        with self.threads() as threads:
            wait_until_blocked(threads.start(lambda: got.append(client.recv(10))))
            client.shutdown(socket.SHUT_RD)
        assert got == [b""]

    def test_shutting_down_wakes_a_blocked_accept(self, lab: Lab) -> None:
        listener = lab.listener()
        listener.settimeout(None)
        seen: list[int] = []
        with self.threads() as threads:
            wait_until_blocked(threads.start(lambda: seen.append(failure(listener.accept))))
            listener.shutdown(socket.SHUT_RD)
        assert seen == [errno.EINVAL]

    def test_a_reader_and_a_writer_thread_and_a_loop_on_one_socket(self, lab: Lab) -> None:
        client, server = lab.pair()
        there = random.Random(1).randbytes(AMOUNT)
        for sock in (client, server):
            sock.settimeout(2 * self.bound)

        def echo() -> None:
            while data := server.recv(PIECE):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

        def write() -> None:
            for start in range(0, AMOUNT, PIECE):
                client.sendall(there[start : start + PIECE])
            client.shutdown(socket.SHUT_WR)

        got = hashlib.sha256()

        def read() -> None:
            while data := client.recv(PIECE):
                got.update(data)

        async def watch() -> EventMask:
            loop = asyncio.get_running_loop()
            stacks = {lab.hosts.server, lab.hosts.client}
            for stack in stacks:
                stack.attach(loop)
            try:
                return await asyncio.wait_for(
                    waiting.wait_events(client, EventMask.HUP), 2 * self.bound
                )
            finally:
                for stack in stacks:
                    stack.detach(loop)

        with self.threads() as threads:
            for function in (echo, read, write):
                threads.start(function)
            with asyncio.Runner(loop_factory=EventLoop) as runner:
                assert runner.run(watch()) & EventMask.HUP
        assert got.digest() == hashlib.sha256(there).digest()

    def test_several_threads_accept(self, lab: Lab) -> None:
        listener = lab.listener(CLIENTS)
        listener.settimeout(2 * self.bound)
        accepted: list[Any] = []
        left = threading.Semaphore(CLIENTS)

        def accept() -> None:
            while left.acquire(blocking=False):
                server, address = listener.accept()
                accepted.append(address)
                lab.keep(server)

        clients = []
        with self.threads() as threads:
            for _ in range(THREADS):
                threads.start(accept)
            for _ in range(CLIENTS):
                client = lab.stream()
                client.settimeout(2 * self.bound)
                client.connect(listener.getsockname())
                clients.append(client.getsockname())
        assert sorted(accepted) == sorted(clients)

    def test_eight_threads_on_one_datagram_socket_and_its_peer(self, lab: Lab) -> None:
        receiver, sender = lab.receiver(), lab.bound(lab.datagram())
        address = receiver.getsockname()
        for sock in (receiver, sender):
            sock.settimeout(2 * self.bound)
        room = threading.Semaphore(UNDER_WAY)
        left = threading.Semaphore(DATAGRAMS)
        received: list[bytes] = []

        def send(number: int) -> None:
            for count in range(DATAGRAMS // THREADS):
                assert room.acquire(timeout=2 * self.bound)
                sender.sendto(b"%d %d" % (number, count), address)

        def receive() -> None:
            while left.acquire(blocking=False):
                received.append(receiver.recv(100))
                room.release()

        with self.threads() as threads:
            for number in range(THREADS):
                threads.start(receive)
                threads.start(send, number)
        assert sorted(received) == sorted(
            b"%d %d" % (number, count)
            for number in range(THREADS)
            for count in range(DATAGRAMS // THREADS)
        )

    @pytest.mark.parametrize("first_to_end", ["server", "client"])
    def test_two_loops_in_two_threads_use_one_stack(self, own: Lab, first_to_end: str) -> None:
        stack, host = own.hosts.server, own.address
        data = random.Random(2).randbytes(AMOUNT // 4)
        listening, asked, over = threading.Event(), threading.Event(), threading.Event()
        ports: list[int] = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while part := await reader.read(PIECE):
                writer.write(part)
                await writer.drain()
            writer.close()

        async def ask(port: int) -> None:
            reader, writer = await streams.open_connection(host, port, stack=stack)

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            assert await reader.read() == data
            await sending
            writer.close()
            await writer.wait_closed()

        async def serve(until: threading.Event) -> None:
            server: Any = await streams.start_server(echo, host, 0, stack=stack)
            async with server:
                ports.append(server.sockets[0].getsockname()[1])
                listening.set()
                await asyncio.to_thread(until.wait, 3 * self.bound)

        async def use() -> None:
            assert await asyncio.to_thread(listening.wait, self.bound)
            for _ in range(3):
                await ask(ports[0])
            asked.set()

        async def use_alone() -> None:
            """A server and a client of this loop's own, when the other loop is gone."""
            assert await asyncio.to_thread(over.wait, self.bound)
            listening.clear()
            done = threading.Event()
            serving = asyncio.ensure_future(serve(done))
            assert await asyncio.to_thread(listening.wait, self.bound)
            await ask(ports[-1])
            done.set()
            await serving

        def run(*programs: Callable[[], Any]) -> None:
            async def main() -> None:
                for program in programs:
                    await asyncio.wait_for(program(), 3 * self.bound)

            with asyncio.Runner(loop_factory=lambda: EventLoop(stack=stack)) as runner:
                runner.run(main())

        def run_first() -> None:
            try:
                run((lambda: serve(asked)) if first_to_end == "server" else use)
            finally:
                over.set()

        with self.threads() as threads:
            if first_to_end == "server":
                threads.start(run_first)
                threads.start(run, use, use_alone)
            else:
                threads.start(run, lambda: serve(asked), use_alone)
                threads.start(run_first)
