"""Sockets of the host where the current stack is another: nothing leaves through it unnoticed."""

from __future__ import annotations

import asyncio
import socket
import warnings
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from ourloops import OURS, LoopFactory
from vpoll_asyncio.stacks.memory import MemoryStack

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    with MemoryStack() as stack:
        loop = va.new_event_loop(loop=request.param, stack=stack)
        yield loop
        loop.close()


async def greeting(stack: va.Stack | None) -> bytes:
    """What a server on the host's loopback says to a socket of the host's."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    with va.open_stack("host").activate():
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        if stack is not None:
            reader, writer = await va.open_connection(*address, stack=stack)
        else:
            client = socket.socket()
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)
            reader, writer = await asyncio.open_connection(sock=client)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def test_connecting_one_warns_where_it_is_called(loop: asyncio.AbstractEventLoop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert loop.run_until_complete(greeting(None)) == b"hello"
    assert [warning.category for warning in caught] == [RuntimeWarning] * 2
    connect, carry = caught
    assert "sock_connect() got a socket of the host" in str(connect.message)
    assert "the current stack is memory" in str(connect.message)
    assert "open_stack('host').activate()" in str(connect.message)
    assert connect.filename == __file__
    assert "create_connection() got a socket of the host" in str(carry.message)


def test_whoever_means_the_host_says_so(loop: asyncio.AbstractEventLoop) -> None:
    async def within() -> bytes:
        with va.open_stack("host").activate():
            return await greeting(None)

    assert loop.run_until_complete(within()) == b"hello"


def test_the_host_named_as_the_stack_is_meant(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.run_until_complete(greeting(va.open_stack("host"))) == b"hello"


def test_datagrams_of_the_host_warn_too(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            with pytest.warns(RuntimeWarning, match="create_datagram_endpoint"):
                transport, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, sock=sock
                )
            transport.close()
            await asyncio.sleep(0)

        transport, _ = await va.create_datagram_endpoint(
            asyncio.DatagramProtocol,
            remote_addr=("127.0.0.1", 9),
            stack=va.open_stack("host"),
        )
        transport.close()

    loop.run_until_complete(main())


def test_families_that_no_stack_claims_are_the_hosts(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> bytes:
        near, far = socket.socketpair()
        far.send(b"local")
        far.close()
        near.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=near)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    assert loop.run_until_complete(main()) == b"local"


@pytest.mark.parametrize("factory", OURS)
def test_a_loop_without_a_stack_is_the_hosts(factory: LoopFactory) -> None:
    loop = factory()
    assert loop.run_until_complete(greeting(None)) == b"hello"
    loop.close()
