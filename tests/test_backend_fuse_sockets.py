"""User sockets that show themselves through a `fuse` daemon which is then killed."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from queue import Queue
from typing import Literal

import pytest

import vpoll_asyncio as va
from fuse_helpers import kill_the_daemon
from vpoll_asyncio.backends.fuse import current_daemon
from vpoll_helpers import DEADLINE

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.usefixtures("no_fd_leak")]

Loop = Literal["asyncio", "uvloop"]

ADDRESS = "10.7.7.7"

LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[va.Stack]:
    """A memory stack whose sockets show themselves through the daemon when asked to."""
    monkeypatch.setenv("VPOLL_BACKEND", "fuse")
    with va.open_stack("memory", ip=f"{ADDRESS}/24") as opened:
        yield opened


def show(sock: socket.socket) -> None:
    assert isinstance(sock, va.UserSocket)
    assert sock.vpoll.fileno() >= 0
    assert current_daemon() is not None


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def run(main: Callable[[], Awaitable[None]], loop: Loop) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    va.run(bounded(), loop=loop)


def is_gone(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOTCONN


def connected(stack: va.Stack) -> tuple[socket.socket, socket.socket]:
    with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESS, 0))
        listener.listen(1)
        near = stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    return near, far


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stream_transport_closes_with_the_error_and_its_peer_hears_nothing_of_it(
    stack: va.Stack, loop: Loop
) -> None:
    async def main() -> None:
        near, far = connected(stack)
        far.setblocking(False)
        show(near)
        _, protocol = await va.create_connection(Recorder, sock=near)
        kill_the_daemon()
        assert far.send(b"sent") == 4
        assert is_gone(await protocol.lost)
        assert bytes(protocol.received) in (b"", b"sent")
        far.close()

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_datagram_transport_closes_with_the_error(stack: va.Stack, loop: Loop) -> None:
    async def main() -> None:
        near = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.bind((ADDRESS, 7))
        near.setblocking(False)
        show(near)
        _, protocol = await va.create_datagram_endpoint(Recorder, sock=near)
        kill_the_daemon()
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.sendto(b"sent", (ADDRESS, 7))
        assert is_gone(await protocol.lost)

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_ends_with_the_error(stack: va.Stack, loop: Loop) -> None:
    async def main() -> None:
        listener = stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((ADDRESS, 80))
        show(listener)
        server = await va.create_server(Recorder, sock=listener)
        forever = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        kill_the_daemon()
        with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect_ex((ADDRESS, 80))
            with pytest.raises(OSError) as fault:
                await forever
        assert is_gone(fault.value)

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_of_the_loop_fails_with_the_error(stack: va.Stack, loop: Loop) -> None:
    async def main() -> None:
        near, far = connected(stack)
        near.setblocking(False)
        show(near)
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(near, 100))
        await asyncio.sleep(0)
        kill_the_daemon()
        # The mask changes without anything to read.
        for _ in range(3):
            far.send(b"x", socket.MSG_OOB)
        with pytest.raises(OSError) as fault:
            await receiving
        assert is_gone(fault.value)
        near.close()
        far.close()

    run(main, loop)


def test_a_blocked_call_fails_with_the_error(stack: va.Stack) -> None:
    near, far = connected(stack)
    show(near)
    ended: Queue[OSError] = Queue()

    def receive() -> None:
        try:
            near.recv(100)
        except OSError as error:
            ended.put(error)

    thread = threading.Thread(target=receive)
    thread.start()
    kill_the_daemon()
    far.send(b"x", socket.MSG_OOB)
    assert is_gone(ended.get(timeout=DEADLINE))
    thread.join()
    near.close()
    far.close()
    assert current_daemon() is None
