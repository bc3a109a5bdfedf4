"""The null stack: a program that has no network, whatever it tries."""

from __future__ import annotations

import asyncio
import errno
import http.client
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from vpoll_asyncio.stacks.null import NullStack

KernelSocket = socket.socket


@pytest.fixture
def null() -> Iterator[va.Stack]:
    with va.open_stack("null") as stack:
        yield stack


@pytest.fixture
def installed(null: va.Stack) -> Iterator[va.Stack]:
    with va.install(), null.activate():
        yield null


def refused(attempt: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        attempt()
    return caught.value.errno


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW])
def test_every_socket_is_refused(null: va.Stack, family: int, kind: int) -> None:
    assert not null.supported_domain(family)
    assert refused(lambda: null.socket(family, kind)) == errno.EAFNOSUPPORT


def test_it_has_no_address_and_takes_no_option(null: va.Stack) -> None:
    assert null.addresses == []
    assert isinstance(null, NullStack)
    with pytest.raises(ValueError, match="it takes no options"):
        va.open_stack("null", ip="10.0.0.1/24")


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1", "localhost"])
def test_numeric_addresses_resolve(null: va.Stack, host: str) -> None:
    answers = null.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
    assert answers
    assert {answer[4][1] for answer in answers} == {80}


def test_names_do_not_exist(null: va.Stack) -> None:
    with pytest.raises(socket.gaierror) as caught:
        null.getaddrinfo("somewhere.invalid", 80)
    assert caught.value.errno == socket.EAI_NONAME


def test_closed_it_is_down() -> None:
    null = va.open_stack("null")
    null.close()
    null.close()
    assert null.closed
    assert refused(null.socket) == errno.ENETDOWN


@pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK]
)
def test_installed_no_family_of_a_network_leads_round_it(installed: va.Stack, family: int) -> None:
    assert refused(lambda: socket.socket(family, socket.SOCK_RAW)) == errno.EAFNOSUPPORT


def test_installed_sockets_within_the_machine_are_the_kernels(
    installed: va.Stack, no_fd_leak: None
) -> None:
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_UNIX) as sock:
        assert {type(left), type(right), type(sock)} == {KernelSocket}


def test_installed_a_blocking_client_is_refused(installed: va.Stack) -> None:
    client = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
    assert refused(lambda: client.request("GET", "/")) == errno.EAFNOSUPPORT


async def connect() -> None:
    await asyncio.open_connection("127.0.0.1", 80)


async def listen() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def listen_everywhere() -> None:
    await asyncio.start_server(lambda reader, writer: None, None, 0)


async def receive() -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )


async def make_a_socket() -> None:
    socket.socket().close()


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
@pytest.mark.parametrize("attempt", [connect, listen, listen_everywhere, receive, make_a_socket])
def test_asyncio_programs_are_refused(
    null: va.Stack, loop: str, attempt: Callable[[], Coroutine[Any, Any, None]], no_fd_leak: None
) -> None:
    assert refused(lambda: va.run(attempt(), loop=loop, stack=null)) == errno.EAFNOSUPPORT


async def test_a_stock_loop_is_refused_too(null: va.Stack) -> None:
    with pytest.raises(OSError) as caught:
        await va.open_connection("127.0.0.1", 80, stack=null)
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_subprocesses_run(null: va.Stack) -> None:
    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(
            "echo", "hello", stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0]

    assert va.run(main(), stack=null) == b"hello\n"
