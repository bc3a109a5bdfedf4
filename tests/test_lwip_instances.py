"""Several lwIP stacks in one process, each with an instance of the library of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import vpoll_asyncio as va
from memory_helpers import failure
from test_link_vde import switch  # noqa: F401
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio import native
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.native import _build, _instances
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")

FIRST, SECOND = ["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]

Pair = Callable[..., tuple[LwipStack, LwipStack]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A function that opens two stacks on one wire."""
    with ExitStack() as opened:

        def pair(**options: object) -> tuple[LwipStack, LwipStack]:
            near, far = wire_pair()
            one = opened.enter_context(open_stack("lwip", link=near, ip=FIRST, **options))
            other = opened.enter_context(open_stack("lwip", link=far, ip=SECOND, **options))
            assert isinstance(one, LwipStack)
            assert isinstance(other, LwipStack)
            return one, other

        yield pair


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def talk(one: va.Stack, other: va.Stack, host: str) -> None:
    """Send a megabyte from `one` to a server on `other` and back."""
    sent = b"abcdefgh" * 131072
    server = await va.start_server(shout, host, 7, stack=other)
    reader, writer = await va.open_connection(host, 7, stack=one)

    async def send() -> None:
        writer.write(sent)
        await writer.drain()
        writer.write_eof()

    _, received = await asyncio.gather(send(), reader.read())
    assert received == sent.upper()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def run(factory: LoopFactory, one: va.Stack, other: va.Stack, *hosts: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(talk(one, other, host) for host in hosts))

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_two_stacks_talk_over_a_wire(pair: Pair, factory: LoopFactory) -> None:
    run(factory, *pair(), "10.0.0.2", "fd00::2")


@pytest.mark.needs("vde_switch")
@pytest.mark.parametrize("factory", LOOPS)
def test_two_stacks_talk_over_a_switch(
    switch: tuple[str, subprocess.Popen[bytes]],  # noqa: F811
    factory: LoopFactory,
) -> None:
    vnl = f"vde://{switch[0]}"
    with (
        open_stack("lwip", vnl=vnl, ip=FIRST) as one,
        open_stack("lwip", vnl=vnl, ip=SECOND) as other,
    ):
        run(factory, one, other, "10.0.0.2", "fd00::2")


def test_two_stacks_with_threads_talk_by_blocking_sockets(pair: Pair) -> None:
    one, other = pair(thread=True)
    with other.socket() as listener:
        listener.bind(("10.0.0.2", 7))
        listener.listen()

        def serve() -> None:
            server, _ = listener.accept()
            with server:
                server.sendall(server.recv(100).upper())

        thread = threading.Thread(target=serve)
        thread.start()
        with one.socket() as client:
            client.connect(("10.0.0.2", 7))
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        thread.join()


def test_stacks_share_nothing(pair: Pair) -> None:
    one, other = pair()
    with one.socket() as here, other.socket() as there:
        for sock in (here, there):
            sock.bind(("0.0.0.0", 80))
            sock.listen()
        assert failure(there.bind, ("10.0.0.1", 81)) in (errno.EADDRNOTAVAIL, errno.EINVAL)
        other.close()
        assert failure(there.accept) == errno.ENETDOWN
        with one.socket() as client:
            client.connect(("10.0.0.1", 80))
            here.accept()[0].close()


def test_instances_are_used_again() -> None:
    def numbers() -> set[str]:
        with ExitStack() as opened:
            stacks = [opened.enter_context(open_stack("lwip", vnl="wire://x")) for _ in range(4)]
            assert all(isinstance(stack, LwipStack) for stack in stacks)
            return {stack.core.instance for stack in stacks}  # type: ignore[attr-defined]

    first = numbers()
    assert len(first) == 4
    for _ in range(5):
        assert numbers() == first


def test_a_forked_child_leaves_every_stack_alone(pair: Pair) -> None:
    one, other = pair(thread=True)
    with other.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.0.0.2", 7))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert one.closed
                assert other.closed
                with open_stack("lwip", vnl="wire://x"), open_stack("lwip", vnl="wire://x"):
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        with one.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"from the parent", ("10.0.0.2", 7))
            assert receiver.recv(100) == b"from the parent"


def test_a_copy_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    library = _build.find_library("lwip")
    assert library is not None
    helper = tmp_path / "helper.so"
    helper.write_bytes(b"no ELF file")
    with pytest.raises(native.NativeError, match="no ELF file") as caught:
        _instances.copy(helper, library, 1)
    assert caught.value.errno == errno.EIO
    with pytest.raises(native.NativeError, match="no room"):
        _instances.copy(native.build("lwip"), library, 10**12)
    (tmp_path / "blocked.instances").write_bytes(b"")
    with pytest.raises(FileExistsError):
        _instances.copy(tmp_path / "blocked.so", library, 1)


def test_helpers_without_a_library_have_one_instance() -> None:
    with pytest.raises(ValueError, match="one instance"):
        native.load("hot", 1)
