"""Names that stock loops look up for the sockets of a stack, and those of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.kernelsocket import StackSocket
from vpoll_asyncio.stacks.names import Addresses

pytestmark = pytest.mark.usefixtures("no_fd_leak")


class KernelSockets(va.Stack):
    """Kernel sockets on the host's loopback, with names of their own: as vdestack has them."""

    name = "apart"
    kernel = True

    def supported_domain(self, family: int) -> bool:
        return family == socket.AF_INET

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        made = host_stack().socket(family, type, proto)
        return StackSocket.adopt(self, made.detach(), family, type, proto)

    def lookup_hosts(self, host: str, family: int) -> Addresses | None:
        return Addresses(["127.0.0.1"]) if host == "server.lab.invalid" else None

    def close(self) -> None:
        pass

    @property
    def closed(self) -> bool:
        return False


@pytest.fixture(params=["user sockets", "kernel sockets"])
def stack(request: pytest.FixtureRequest) -> Iterator[va.Stack]:
    if request.param == "kernel sockets":
        yield KernelSockets()
        return
    network = "mem://lookups"
    with va.open_stack("memory", vnl=network, ip="10.0.0.1/24", hostname="server.lab.invalid") as a:
        yield a


async def connect(stack: va.Stack, host: str) -> str:
    """The peer's address of a socket of `stack` that `host` was given to, by the running loop."""
    loop = asyncio.get_running_loop()
    with stack.socket() as listener, stack.socket() as client:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        client.setblocking(False)
        await loop.sock_connect(client, (host, listener.getsockname()[1]))
        return str(client.getpeername()[0])


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_under_install_stock_asyncio_asks_the_sockets_own_stack(
    stack: va.Stack, debug: bool
) -> None:
    with va.install():
        known = "127.0.0.1" if stack.kernel else "10.0.0.1"
        assert asyncio.run(connect(stack, "server.lab.invalid"), debug=debug) == known
        with pytest.raises(socket.gaierror, match=f"on the {stack.name} stack"):
            asyncio.run(connect(stack, "other.lab.invalid"), debug=debug)


def test_without_install_the_host_is_not_asked(
    stack: va.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    kernels = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        return kernels(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=r"look 'server.lab.invalid' up on the host") as caught:
        asyncio.run(connect(stack, "server.lab.invalid"))
    assert caught.value.errno == errno.ENOTSUP
    assert "agetaddrinfo" in str(caught.value)
    assert asked == []


@pytest.mark.parametrize("installed", [False, True])
def test_numeric_addresses_need_no_look_up(stack: va.Stack, installed: bool) -> None:
    with va.install() if installed else contextlib.nullcontext():
        assert asyncio.run(connect(stack, "127.0.0.1")) == "127.0.0.1"


def test_what_is_no_address_is_asyncios_to_refuse(stack: va.Stack) -> None:
    async def main(address: Any) -> None:
        with stack.socket() as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)

    for address in ((object(), 80), ("127.0.0.1",)):
        with pytest.raises((TypeError, IndexError, ValueError)):
            asyncio.run(main(address))


def test_the_protocol_is_an_ordinary_number(stack: va.Stack) -> None:
    with stack.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        assert sock.proto == socket.IPPROTO_TCP
        assert type(sock.proto) is int


# Loopback.


@pytest.fixture(
    params=["host", "memory", "null", pytest.param("lwip", marks=pytest.mark.needs("lwip"))]
)
def any_stack(request: pytest.FixtureRequest) -> Iterator[va.Stack]:
    with contextlib.ExitStack() as exits:
        options: dict[str, Any] = {}
        if request.param == "lwip":
            near, far = wire_pair()
            exits.callback(far.close)
            options = {"link": near, "ip": "10.0.0.1/24"}
        yield exits.enter_context(va.open_stack(request.param, **options))


def test_loopback_is_called_localhost(any_stack: va.Stack) -> None:
    with any_stack.activate(), va.install():
        assert socket.gethostbyaddr("127.0.0.1") == ("localhost", [], ["127.0.0.1"])
        assert socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICSERV) == ("localhost", "80")
        assert socket.getnameinfo(("127.0.0.1", 80), socket.NI_NAMEREQD)[0] == "localhost"
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert socket.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")
        assert socket.getfqdn("127.0.0.1") == "localhost"


def test_a_loop_tells_the_same_name(any_stack: va.Stack) -> None:
    async def main() -> tuple[str, str]:
        return await asyncio.get_running_loop().getnameinfo(
            ("127.0.0.1", 80), socket.NI_NUMERICSERV
        )

    assert va.run(main(), stack=any_stack) == ("localhost", "80")


def test_ipv6s_loopback_has_the_name_too() -> None:
    with va.open_stack("memory") as stack:
        assert stack.gethostbyaddr("::1") == ("localhost", [], ["::1"])
        assert stack.getnameinfo(("::1", 80, 0, 0))[0] == "localhost"
        assert stack.getnameinfo(("127.0.0.2", 80))[0] == "127.0.0.2"
