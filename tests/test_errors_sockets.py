"""What sockets of stacks answer: the kernel's number and text, and a note that teaches."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
from collections.abc import Callable, Iterator

import pytest

import vpoll_asyncio as va
from lessons import Lesson, fails, told

OWN = "10.0.0.1"


@pytest.fixture(params=["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))])
def stack(request: pytest.FixtureRequest) -> Iterator[va.Stack]:
    name = request.param
    vnl = "mem://errors" if name == "memory" else "wire://errors"
    with va.open_stack(name, vnl=vnl, ip=f"{OWN}/24") as stack:
        yield stack


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """What only the garbage collector frees from now on, kept."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()


def connect_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    with stack.socket() as sock:
        sock.connect(address)


def connect_non_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        with stack.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)

    va.run(main(), stack=stack)


def connect_streams(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.open_connection(*address)

    va.run(main(), stack=stack)


def connect_on_stock_asyncio(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await va.open_connection(*address, stack=stack)

    asyncio.run(main())


def bind_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    with stack.socket() as sock:
        sock.bind(address)
        sock.listen()


def bind_server(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, *address):
            pass

    va.run(main(), stack=stack)


def bind_local(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.open_connection(OWN, 9, local_addr=address)

    va.run(main(), stack=stack)


def bind_datagrams(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=address
        )

    va.run(main(), stack=stack)


Way = Callable[[va.Stack, tuple[str, int]], None]
CONNECTING = [connect_blocking, connect_non_blocking, connect_streams, connect_on_stock_asyncio]


@pytest.mark.parametrize("connect", CONNECTING)
def test_a_refusal_says_where_nobody_listens(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, (OWN, 80)),
        Lesson(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            f"nothing listens on port 80 of {OWN}",
            f"as the {stack.name} stack reaches it",
            "start the server first, on that network",
        ),
    )


@pytest.mark.parametrize("connect", CONNECTING)
def test_the_loopback_of_a_stack_is_told_from_the_hosts(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, ("127.0.0.1", 80)),
        Lesson(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            "nothing listens there on port 80",
            f"127.0.0.1 is the {stack.name} stack's own loopback, not this host's",
            "stack=vpoll_asyncio.open_stack('host')",
        ),
    )


@pytest.mark.needs("lwip", "slirp")
@pytest.mark.parametrize(
    ("vnl", "host"),
    [
        ("slirp://", "10.0.2.2"),
        ("slirp:///addr=10.3.3.2/24", "10.3.3.2"),
        ("netem://delay=0ms{slirp:///host=10.3.3.1/24}", "10.3.3.1"),
    ],
)
def test_through_slirp_a_refusal_names_the_hosts_loopback(vnl: str, host: str) -> None:
    with va.open_stack("lwip", vnl=vnl, ip=f"{host}5/24") as stack:
        assert stack.host_loopback == host
        fails(
            lambda: connect_blocking(stack, ("127.0.0.1", 80)),
            Lesson(
                ConnectionRefusedError,
                errno.ECONNREFUSED,
                "nothing listens there on port 80",
                "not this host's",
                f"this host's own loopback is {host} from here",
            ),
        )


@pytest.mark.needs("lwip", "slirp")
def test_the_address_that_the_refusal_names_is_the_hosts_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with va.open_stack("lwip", vnl="slirp://", ip="10.0.2.15/24", gw="10.0.2.2") as stack:
            assert stack.host_loopback is not None
            connect_blocking(stack, (stack.host_loopback, port))


@pytest.mark.needs("vde")
@pytest.mark.parametrize("option", ["disable_host_loopback", "restricted", "v6"])
def test_no_loopback_is_named_that_slirp_does_not_hand_on(option: str) -> None:
    from vpoll_asyncio.links.slirp import parse

    assert parse(f"slirp:///{option}").host_loopback is None


@pytest.mark.parametrize("connect", CONNECTING)
def test_an_address_out_of_reach_says_what_a_route_needs(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, ("10.9.9.9", 80)),
        Lesson(
            OSError,
            errno.ENETUNREACH,
            "Network is unreachable" if connect is connect_blocking else "",
            f"the {stack.name} stack has {OWN}/24 and no route to 10.9.9.9",
            "gateway (gw=ADDRESS)",
        ),
    )


def send_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    with stack.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"datagram", address)


def send_non_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendto(sock, b"datagram", address)

    va.run(main(), stack=stack)


def send_by_a_transport(stack: va.Stack, address: tuple[str, int]) -> None:
    class Sender(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.refused = asyncio.get_running_loop().create_future()

        def error_received(self, exc: Exception) -> None:
            self.refused.set_exception(exc)

    async def main() -> None:
        transport, sender = await asyncio.get_running_loop().create_datagram_endpoint(
            Sender, local_addr=(OWN, 0)
        )
        transport.sendto(b"datagram", address)
        try:
            await sender.refused
        finally:
            transport.close()

    va.run(main(), stack=stack)


@pytest.mark.parametrize("send", [send_blocking, send_non_blocking, send_by_a_transport])
def test_a_datagram_out_of_reach_says_what_a_route_needs(stack: va.Stack, send: Way) -> None:
    fails(
        lambda: send(stack, ("10.9.9.9", 80)),
        Lesson(
            OSError,
            errno.ENETUNREACH,
            "Network is unreachable",
            f"the {stack.name} stack has {OWN}/24 and no route to 10.9.9.9",
            "gateway (gw=ADDRESS)",
        ),
    )


def test_a_stack_whose_address_lacks_its_prefix_length_is_told_so() -> None:
    with va.open_stack("memory", ip=OWN) as stack:
        fails(
            lambda: connect_blocking(stack, ("10.0.0.2", 80)),
            Lesson(
                OSError,
                errno.ENETUNREACH,
                "no route to 10.0.0.2",
                f"{OWN} without a prefix length is a network of its own",
                f"ip='{OWN}/24'",
            ),
        )


@pytest.mark.parametrize("bind", [bind_blocking, bind_server, bind_local, bind_datagrams])
def test_an_address_of_somebody_else_is_told_with_those_to_bind(stack: va.Stack, bind: Way) -> None:
    fails(
        lambda: bind(stack, ("10.7.7.7", 80)),
        Lesson(
            OSError,
            errno.EADDRNOTAVAIL,
            f"10.7.7.7 is no address of the {stack.name} stack",
            f"which has {OWN}/24",
            "bind one that it has, or 0.0.0.0 for all of them",
        ),
    )


@pytest.mark.parametrize("bind", [bind_blocking, bind_server])
def test_a_port_that_is_taken_is_told_with_the_way_to_a_free_one(
    stack: va.Stack, bind: Way
) -> None:
    with stack.socket() as first:
        first.bind((OWN, 80))
        first.listen()
        fails(
            lambda: bind(stack, (OWN, 80)),
            Lesson(
                OSError,
                errno.EADDRINUSE,
                f"another socket of the {stack.name} stack",
                "or a connection that has just ended, has port 80: close that one",
                "0 lets the stack choose a free one",
            ),
        )


def test_of_several_addresses_every_note_is_kept() -> None:
    with va.open_stack("memory", ip=[f"{OWN}/24", "fd00::1/64"]) as stack:
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            connect_streams(stack, ("localhost", 80))
    for loopback in ("127.0.0.1", "::1"):
        assert f"{loopback} is the memory stack's own loopback" in told(caught.value)


def test_the_text_stays_the_kernels(stack: va.Stack) -> None:
    with pytest.raises(ConnectionRefusedError) as caught, stack.socket() as sock:
        sock.connect((OWN, 80))
    assert caught.value.strerror == os.strerror(errno.ECONNREFUSED)
    with stack.socket() as sock:
        assert sock.connect_ex((OWN, 80)) == errno.ECONNREFUSED


@pytest.mark.parametrize("use", [connect_blocking, bind_blocking, send_blocking])
@pytest.mark.parametrize("host", [OWN, "10.7.7.7"])
def test_an_error_with_a_note_goes_without_the_garbage_collector(
    stack: va.Stack, use: Way, host: str, garbage: list[object]
) -> None:
    with contextlib.suppress(OSError):
        use(stack, (host, 80))
    gc.collect()
    assert not [one for one in garbage if isinstance(one, OSError)]


def test_what_the_hosts_kernel_says_is_left_alone() -> None:
    with pytest.raises(OSError) as caught:
        connect_on_stock_asyncio(va.open_stack("host"), ("127.0.0.1", 1))
    assert told(caught.value) == str(caught.value)


@pytest.mark.parametrize("name", ["memory", "null"])
def test_a_name_without_name_servers_says_where_to_give_them(name: str) -> None:
    with va.open_stack(name) as stack:
        fails(
            lambda: connect_streams(stack, ("server.lab", 80)),
            Lesson(
                socket.gaierror,
                socket.EAI_NONAME,
                "'server.lab': no such name",
                f"the {name} stack, which has no DNS",
                "open it with a name server (dns=ADDRESS)",
            ),
        )


def test_a_closed_stack_says_how_long_it_must_be_open(stack: va.Stack) -> None:
    stack.close()
    lesson = Lesson(
        OSError,
        errno.ENETDOWN,
        f"the {stack.name} stack is closed",
        "keep it open",
        "until its sockets are done with",
    )
    fails(stack.socket, lesson)
    fails(lambda: connect_on_stock_asyncio(stack, (OWN, 80)), lesson)
