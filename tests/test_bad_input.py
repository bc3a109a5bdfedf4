"""What a user gets wrong meets an error that says what was expected, and costs nothing else."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

import vpoll_asyncio as va

LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
STACKS = ["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))]

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def open_one(name: str, ip: str = "10.1.1.1/24") -> va.Stack:
    return va.open_stack(name, vnl="mem://bad" if name == "memory" else "wire://bad", ip=ip)


def test_an_unknown_stack_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no stack 'lwpi': expected one of .*host.*lwip.*memory"):
        va.open_stack("lwpi")


def test_a_configuration_without_a_stack_says_so() -> None:
    with pytest.raises(ValueError, match="needs exactly one stack=NAME"):
        va.open_stack("vnl=slirp://,ip=10.0.2.15/24")


@pytest.mark.parametrize("name", STACKS)
def test_an_unknown_option_is_named_with_those_that_exist(name: str) -> None:
    with pytest.raises(ValueError, match=rf"stack '{name}': .*'ipp'.*it takes .*ip.*"):
        va.open_stack(name, ipp="10.1.1.1/24")


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("ip", ["10.1.1/24", "10.1.1.1/33", "host/24", "10.1.1.1/x", "fd00::1/129"])
def test_a_bad_address_is_named(name: str, ip: str) -> None:
    with pytest.raises(ValueError, match=ip.replace(".", r"\.")):
        open_one(name, ip)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("vnl", ["nonsense", "no-such-scheme://x", ""])
def test_a_wrong_vnl_says_what_a_vnl_is(name: str, vnl: str) -> None:
    with pytest.raises(ValueError, match="mem://" if name == "memory" else "://"):
        va.open_stack(name, vnl=vnl, ip="10.1.1.1/24")


@pytest.mark.needs("lwip")
def test_a_link_that_cannot_be_opened_leaves_the_stack_openable() -> None:
    with pytest.raises(OSError):
        va.open_stack("lwip", vnl="vde:///no/such/switch", ip="10.1.1.1/24")
    with open_one("lwip") as stack:
        assert not stack.closed


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_address_in_use_is_refused(loop: Any, name: str) -> None:
    async def main() -> None:
        first = await asyncio.start_server(lambda r, w: None, "10.1.1.1", 80)
        async with first:
            with pytest.raises(OSError, match=r"10\.1\.1\.1") as caught:
                await asyncio.start_server(lambda r, w: None, "10.1.1.1", 80)
            assert caught.value.errno == errno.EADDRINUSE

    with open_one(name) as stack:
        va.run(main(), loop=loop, stack=stack)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_address_of_somebody_else_is_refused(loop: Any, name: str) -> None:
    async def main() -> None:
        with pytest.raises(OSError) as caught:
            await asyncio.start_server(lambda r, w: None, "10.7.7.7", 80)
        assert caught.value.errno == errno.EADDRNOTAVAIL

    with open_one(name) as stack:
        va.run(main(), loop=loop, stack=stack)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_stack_closed_under_its_connections_ends_them_with_an_error(loop: Any, name: str) -> None:
    served: list[asyncio.StreamWriter] = []

    async def main(stack: va.Stack) -> None:
        accepted = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(writer)
            accepted.set()

        server = await asyncio.start_server(accept, "10.1.1.1", 80)
        reader, writer = await asyncio.open_connection("10.1.1.1", 80)
        waiting = asyncio.ensure_future(reader.read())
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(sock, 100))
        await accepted.wait()
        stack.close()
        async with asyncio.timeout(60):
            for pending in (waiting, receiving):
                with pytest.raises(OSError):
                    await pending
            for one in (writer, *served):
                with pytest.raises(OSError):
                    await one.drain()
        sock.close()
        server.close()
        with pytest.raises(OSError) as caught:
            await asyncio.open_connection("10.1.1.1", 80)
        assert caught.value.errno == errno.ENETDOWN

    with open_one(name) as stack:
        va.run(main(stack), loop=loop, stack=stack)
        served.clear()


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_closed_with_sockets_open_is_orderly(loop: Any, name: str) -> None:
    with open_one(name) as stack:
        one = va.new_event_loop(loop=loop, stack=stack)
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("10.1.1.1", 7))
        one.add_reader(sock, lambda: None)
        one.close()
        other = va.new_event_loop(loop=loop, stack=stack)

        async def echo_itself() -> bytes:
            await other.sock_sendto(sock, b"still here", ("10.1.1.1", 7))
            return await other.sock_recv(sock, 100)

        try:
            assert other.run_until_complete(asyncio.wait_for(echo_itself(), 60)) == b"still here"
        finally:
            other.close()
        sock.close()
