"""Loop and stack: which of them carries out a call, and how they part."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ourloops import OURS, LoopFactory
from vpoll_asyncio import loops
from vpoll_asyncio.install import install
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.host import host_stack

Loop = asyncio.AbstractEventLoop

FACTORIES: dict[str, Any] = {
    "asyncio": loops.EventLoop,
    "uvloop": lambda stack=None: loops.new_event_loop(loop="uvloop", stack=stack),
}


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))])
def factory(request: pytest.FixtureRequest) -> Any:
    return FACTORIES[request.param]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with open_stack("memory", ip="10.1.1.1/24") as stack:
        yield stack


@pytest.fixture
def loop(factory: Any, stack: Stack) -> Iterator[Loop]:
    """A loop with `stack` as its own."""
    loop = factory(stack)
    yield loop
    loop.close()


class Driven(Stack):
    """A stack that notes who drives it."""

    name: ClassVar[str] = "driven"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.history: list[str] = []
        self._closed = False

    def supported_domain(self, family: int) -> bool:
        return False

    def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> socket.socket:
        raise NotImplementedError

    def attach(self, loop: Loop) -> None:
        if self.error is not None:
            raise self.error
        self.history.append("attach")

    def detach(self, loop: Loop) -> None:
        assert not loop.is_closed()
        self.history.append("detach")

    def close(self) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed


# Beginning and end.


def test_loop_drives_its_stack_until_it_is_closed(factory: Any, no_fd_leak: None) -> None:
    stack = Driven()
    loop = factory(stack)
    assert loop.stack is stack
    assert stack.history == ["attach"]
    loop.close()
    loop.close()
    assert stack.history == ["attach", "detach"]
    assert not stack.closed


def test_loop_gives_up_every_stack_that_was_attached(factory: Any) -> None:
    stacks = [Driven() for _ in range(3)]
    loop = factory()
    for stack in stacks:
        loop.attach_stack(stack)
    loop.close()
    assert [stack.history for stack in stacks] == [["attach", "detach"]] * 3


def test_loop_whose_stack_has_another_driver_is_not_made(factory: Any, no_fd_leak: None) -> None:
    with pytest.raises(RuntimeError, match="another loop drives it"):
        factory(Driven(RuntimeError("another loop drives it")))


def test_failing_detach_does_not_keep_the_loop_from_closing(factory: Any) -> None:
    class Failing(Driven):
        def detach(self, loop: Loop) -> None:
            super().detach(loop)
            raise LookupError("from detach")

    stacks = Failing(), Driven(), Failing()
    loop = factory()
    for stack in stacks:
        loop.attach_stack(stack)
    with pytest.raises(LookupError, match="from detach"):
        loop.close()
    assert loop.is_closed()
    assert [stack.history for stack in stacks] == [["attach", "detach"]] * 3


def test_running_loop_cannot_be_closed_and_keeps_its_stack(factory: Any) -> None:
    stack = Driven()
    loop = factory(stack)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    loop.run_until_complete(main())
    assert stack.history == ["attach"]
    loop.close()


def test_closed_loop_is_garbage(factory: Any) -> None:
    loop = factory()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_loop_closes_with_connections_open(factory: Any, stack: Stack, no_fd_leak: None) -> None:
    """What is still open then is garbage, and says so as asyncio's transports do."""

    async def main() -> None:
        running = asyncio.get_running_loop()
        await running.create_server(asyncio.Protocol, "10.1.1.1", 80)
        for _ in range(10):
            await running.create_connection(asyncio.Protocol, "10.1.1.1", 80)
        await asyncio.sleep(0)

    loop = factory(stack)
    loop.run_until_complete(main())
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        gc.collect()
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert any("unclosed transport" in str(warning.message) for warning in caught)


# Who carries out a call.


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


async def listen(host: str | None = None) -> tuple[asyncio.AbstractServer, int]:
    server: Any = await asyncio.start_server(greet, host, 0, family=socket.AF_INET)
    return server, server.sockets[0].getsockname()[1]


async def fetch(host: str, port: int, **options: Any) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, **options)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def shut(server: asyncio.AbstractServer) -> None:
    server.close()
    await server.wait_closed()


def test_connections_and_servers_are_the_stacks(loop: Loop) -> None:
    async def main() -> None:
        server, port = await listen("10.1.1.1")
        assert await fetch("10.1.1.1", port) == b"hello"
        # The kernel does not know the stack's address.
        with socket.socket() as kernel, pytest.raises(OSError, match="assign"):
            kernel.bind(("10.1.1.1", port))
        await shut(server)

    loop.run_until_complete(main())


def test_context_comes_before_the_loops_stack(loop: Loop, stack: Stack) -> None:
    async def main() -> None:
        with host_stack().activate():
            server, port = await listen("127.0.0.1")
            assert await fetch("127.0.0.1", port) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            await fetch("127.0.0.1", port)
        with open_stack("memory", ip="10.2.2.2/24") as other, other.activate():
            inner, port = await listen("10.2.2.2")
            assert await fetch("10.2.2.2", port) == b"hello"
            await shut(inner)
        await shut(server)

    loop.run_until_complete(main())


def test_tasks_of_several_stacks_share_a_loop(factory: Any) -> None:
    """The same address and port on each of them."""

    async def on(stack: Stack) -> bytes:
        with stack.activate():
            server = await asyncio.start_server(serve, "10.9.9.9", 80)
            await asyncio.sleep(0)
            answer = await fetch("10.9.9.9", 80)
            await shut(server)
        return answer

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        view = writer.get_extra_info("socket")
        writer.write(repr(view).encode() + str(id(stacks)).encode())
        writer.close()

    async def main() -> list[bytes]:
        return await asyncio.gather(*map(on, stacks))

    stacks = [open_stack("memory", ip="10.9.9.9/24") for _ in range(3)]
    loop = factory()
    answers = loop.run_until_complete(main())
    loop.close()
    assert len(answers) == 3
    assert all(b"stack=memory" in answer for answer in answers)
    for stack in stacks:
        stack.close()


def test_kernel_socket_given_to_a_loop_with_a_stack_goes_to_the_kernel(loop: Loop) -> None:
    async def main() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                accepted.send(b"hello")
            client.setblocking(False)
            with pytest.warns(RuntimeWarning, match="a socket of the host"):
                reader, writer = await asyncio.open_connection(sock=client)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    assert loop.run_until_complete(main()) == b"hello"


def test_user_socket_given_to_a_loop_without_a_stack_goes_to_its_stack(
    factory: Any, stack: Stack
) -> None:
    async def main() -> bytes:
        running = asyncio.get_running_loop()
        listener, client = stack.socket(), stack.socket()
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind(("10.1.1.1", 0))
        server: Any = await asyncio.start_server(greet, sock=listener)
        await running.sock_connect(client, server.sockets[0].getsockname())
        reader, writer = await asyncio.open_connection(sock=client)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        await shut(server)
        return answer

    loop = factory()
    assert loop.run_until_complete(main()) == b"hello"
    loop.close()


def test_sock_methods_take_both_kinds(loop: Loop, stack: Stack) -> None:
    async def talk(listener: socket.socket, client: socket.socket) -> None:
        async def accept() -> socket.socket:
            return (await loop.sock_accept(listener))[0]

        with listener, client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.ensure_future(accept())
            await loop.sock_connect(client, listener.getsockname())
            with await accepting as accepted:
                assert isinstance(accepted, UserSocket) is isinstance(listener, UserSocket)
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(accepted, 100) == b"hello"
                await loop.sock_sendall(client, b"hello")
                buffer = bytearray(5)
                assert await loop.sock_recv_into(accepted, buffer) == 5
                assert buffer == b"hello"

    async def main() -> None:
        users = stack.socket()
        users.bind(("10.1.1.1", 0))
        users.listen()
        await asyncio.gather(
            talk(users, stack.socket()),
            talk(socket.create_server(("127.0.0.1", 0)), socket.socket()),
        )

    with pytest.warns(RuntimeWarning, match="a socket of the host"):
        loop.run_until_complete(main())


def test_call_that_is_cancelled_before_it_begins_leaves_nothing(loop: Loop, stack: Stack) -> None:
    async def main() -> None:
        with socket.socket() as kernel, stack.socket() as user:
            for sock in (kernel, user):
                sock.setblocking(False)
                task = asyncio.ensure_future(loop.sock_connect(sock, ("127.0.0.1", 1)))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    # A coroutine that nobody awaited warns, and warnings are errors here.
    loop.run_until_complete(main())
    gc.collect()


async def accepted_pair(stack: Stack) -> tuple[socket.socket, socket.socket]:
    running = asyncio.get_running_loop()
    with stack.socket() as listener:
        client = stack.socket()
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind(("10.1.1.1", 0))
        listener.listen()
        await running.sock_connect(client, listener.getsockname())
        accepted, _ = await running.sock_accept(listener)
    return accepted, client


def test_socket_accepted_elsewhere_gets_a_transport(loop: Loop, stack: Stack) -> None:
    async def main() -> bytes:
        accepted, client = await accepted_pair(stack)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        with client:
            transport.write(b"hello")
            transport.close()
            return await loop.sock_recv(client, 100)

    assert loop.run_until_complete(main()) == b"hello"


def test_files_are_sent_over_the_stack(loop: Loop, stack: Stack) -> None:
    async def drain(sock: socket.socket) -> bytes:
        received = b""
        while data := await loop.sock_recv(sock, 65536):
            received += data
        return received

    async def main() -> None:
        accepted, client = await accepted_pair(stack)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        receiving = asyncio.ensure_future(drain(client))
        assert await loop.sendfile(transport, file) == len(content)
        transport.close()
        assert await receiving == content
        client.close()
        file.seek(0)
        accepted, client = await accepted_pair(stack)
        with client:
            receiving = asyncio.ensure_future(drain(client))
            with accepted:
                assert await loop.sock_sendfile(accepted, file) == len(content)
            assert await receiving == content

    with open(__file__, "rb") as file:
        content = file.read()
        file.seek(0)
        loop.run_until_complete(main())


def test_tls_over_what_is_no_transport_is_a_type_error(loop: Loop) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(TypeError):
        loop.run_until_complete(
            loop.start_tls(None, asyncio.Protocol(), context)  # type: ignore[arg-type]
        )


def test_datagrams_are_the_stacks(loop: Loop) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.set_result(data)

    async def main() -> bytes:
        server, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("10.1.1.1", 53))
        client, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("10.1.1.1", 53)
        )
        client.sendto(b"hello")
        answer = await received
        client.close()
        server.close()
        await asyncio.sleep(0)
        return answer

    received: asyncio.Future[bytes] = loop.create_future()
    assert loop.run_until_complete(main()) == b"hello"


def test_unix_sockets_are_the_kernels(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        server = await asyncio.start_unix_server(lambda r, w: w.close(), tmp_path / "socket")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await shut(server)

    loop.run_until_complete(main())


def test_unix_datagrams_are_the_kernels(stack: Stack, tmp_path: Path) -> None:
    async def main() -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=str(tmp_path / "socket"), family=socket.AF_UNIX
        )
        assert (tmp_path / "socket").is_socket()
        transport.close()
        await asyncio.sleep(0)

    # uvloop takes no AF_UNIX address here, only a socket.
    own = loops.EventLoop(stack)
    own.run_until_complete(main())
    own.close()


def test_subprocesses_run_under_install(loop: Loop, stack: Stack) -> None:
    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('hello')", stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0]

    with install():
        assert loop.run_until_complete(main()) == b"hello\n"


# Names.


@pytest.fixture
def names(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that `stack` was asked for; it knows them all."""
    asked: list[str] = []

    def resolve(host: str, family: int) -> list[str]:
        asked.append(host)
        return ["10.1.1.1"]

    monkeypatch.setattr(stack, "resolve", resolve)
    return asked


def test_names_are_the_stacks(loop: Loop, names: list[str]) -> None:
    async def main() -> None:
        server, port = await listen("10.1.1.1")
        assert await fetch("somewhere.invalid", port) == b"hello"
        await shut(server)
        infos = await loop.getaddrinfo("elsewhere.invalid", 80, type=socket.SOCK_STREAM)
        assert infos == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.1.1", 80))]
        assert await loop.getnameinfo(("10.1.1.1", 80), socket.NI_NUMERICSERV) == (
            "10.1.1.1",
            "80",
        )

    loop.run_until_complete(main())
    assert names == ["somewhere.invalid", "elsewhere.invalid"]


def test_names_for_a_kernel_socket_are_the_kernels(loop: Loop, names: list[str]) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            with pytest.raises(socket.gaierror):
                await loop.sock_connect(client, ("no-such-host.invalid", 80))

    with pytest.warns(RuntimeWarning, match="a socket of the host"):
        loop.run_until_complete(main())
    assert names == []


@pytest.mark.parametrize("installed", [False, True])
def test_names_in_the_hosts_context_are_the_kernels(
    loop: Loop, stack: Stack, names: list[str], installed: bool
) -> None:
    """The executor's thread has no context, and the process default is another stack."""

    async def main() -> None:
        with host_stack().activate():
            infos = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
            assert infos[0][4] == ("127.0.0.1", 80)
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo("no-such-host.invalid", 80)
            host, _ = await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
            assert host == "127.0.0.1"
            server, port = await listen("localhost")
            assert await fetch("localhost", port, family=socket.AF_INET) == b"hello"
            await shut(server)

    previous = set_default_stack(stack)
    try:
        if installed:
            with install():
                loop.run_until_complete(main())
        else:
            loop.run_until_complete(main())
    finally:
        set_default_stack(previous)
    assert names == []


@pytest.mark.parametrize("factory", OURS)
def test_default_stack_counts_on_a_loop_without_one(factory: LoopFactory, stack: Stack) -> None:
    async def main() -> bytes:
        server, port = await listen("10.1.1.1")
        answer = await fetch("10.1.1.1", port)
        await shut(server)
        return answer

    loop = factory()
    previous = set_default_stack(stack)
    try:
        assert loop.run_until_complete(main()) == b"hello"
    finally:
        set_default_stack(previous)
        loop.close()
