"""Names of lwIP and of vdestack, by a real server: dnsmasq in a network namespace, on a wire."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import ipaddress
import itertools
import socket
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import vpoll_asyncio as va
from dnsmasq import ADDRESSES, BIG, RECORDS, asked, dnsmasq
from processes import Command, free_port
from run_helpers import run
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.stacks import Stack, open_stack
from vpoll_asyncio.stacks.names.waits import BlockingWaits
from vpoll_asyncio.stacks.vdestack import VdeStack

pytestmark = pytest.mark.needs("dnspython", "dnsmasq", "vdestack")

Call = Callable[..., Any]
SERVER4, SERVER6 = ADDRESSES
WIRE = "wire://names"

_numbers = itertools.count(100)


def in_thread(stack: Stack, method: str, *arguments: Any) -> Any:
    return getattr(stack, method)(*arguments)


def on_loop(factory: LoopFactory) -> Call:
    def call(stack: Stack, method: str, *arguments: Any) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(getattr(stack, f"a{method}")(*arguments))

    return call


SOME = [LOOPS[0], LOOPS[3]]
WAYS = [
    pytest.param(in_thread, id="thread"),
    *(pytest.param(on_loop(p.values[0]), id=str(p.id), marks=p.marks) for p in SOME),  # type: ignore[arg-type]
]


@pytest.fixture(params=WAYS)
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a stack: blocking, or its twin on a loop, stock asyncio's or our uvloop's.

    test_names.py has all loops.
    """
    way: Call = request.param
    return way


@pytest.fixture(scope="module")
def host() -> Iterator[VdeStack]:
    """A host with Linux's TCP/IP on the wire."""
    with open_stack("vdestack", vnl=WIRE, ip=[f"{SERVER4}/24", f"{SERVER6}/64"]) as stack:
        assert isinstance(stack, VdeStack)
        yield stack


@pytest.fixture(scope="module")
def server(host: VdeStack) -> Iterator[Command]:
    """The name server on that host."""
    with dnsmasq(host, *RECORDS) as server:
        yield server


@pytest.fixture(params=[pytest.param("lwip", marks=pytest.mark.needs("lwip")), "vdestack"])
def opened(request: pytest.FixtureRequest, server: Command) -> Iterator[Call]:
    """Opens a stack of either kind on the wire, which asks that server unless told otherwise."""
    with contextlib.ExitStack() as stacks:

        def open_client(**options: Any) -> Stack:
            number = next(_numbers)
            settings = {
                "vnl": WIRE,
                "ip": [f"10.9.0.{number}/24", f"fd00::{number}/64"],
                "dns": SERVER4,
                "dns_options": "timeout:20",
                **options,
            }
            return stacks.enter_context(open_stack(request.param, **settings))

        yield open_client


def lookup(call: Call, stack: Stack, host: str, family: int = 0, flags: int = 0) -> list[str]:
    infos = call(stack, "getaddrinfo", host, 80, family, socket.SOCK_STREAM, 0, flags)
    return [info[4][0] for info in infos]


def failure(call: Call, stack: Stack, *arguments: Any) -> int | None:
    """The EAI_* code that a look-up ends with."""
    with pytest.raises(socket.gaierror) as caught:
        lookup(call, stack, *arguments)
    return caught.value.errno


# What a server says.


def test_names_and_addresses_are_found(call: Call, opened: Call) -> None:
    client = opened(domain="lab.example")
    assert sorted(lookup(call, client, "ns.lab.example")) == sorted(ADDRESSES)
    assert lookup(call, client, "four", socket.AF_INET) == ["10.9.0.4"]
    assert lookup(call, client, "six.lab.example.") == ["fd00::6"]
    assert call(client, "getnameinfo", (SERVER4, 80), 0) == ("ns.lab.example", "http")
    assert call(client, "getnameinfo", (SERVER6, 80, 0, 0), 0) == ("ns.lab.example", "http")


def test_a_chain_of_aliases_ends_in_a_name(call: Call, opened: Call) -> None:
    client = opened()
    infos = call(
        client,
        "getaddrinfo",
        "alias.lab.example",
        80,
        2,
        socket.SOCK_STREAM,
        0,
        socket.AI_CANONNAME,
    )
    assert infos == [(socket.AF_INET, socket.SOCK_STREAM, 6, "ns.lab.example", (SERVER4, 80))]
    assert client.gethostbyname_ex("alias.lab.example") == (
        "ns.lab.example",
        ["alias.lab.example", "hop.lab.example"],
        [SERVER4],
    )


def test_what_a_datagram_does_not_hold_comes_by_tcp(call: Call, opened: Call) -> None:
    assert sorted(lookup(call, opened(), "big.lab.example", socket.AF_INET)) == sorted(BIG)


def test_what_is_not_there(call: Call, opened: Call) -> None:
    client = opened()
    assert failure(call, client, "nowhere.lab.example") == socket.EAI_NONAME
    assert failure(call, client, "empty.lab.example") == socket.EAI_NODATA
    assert failure(call, client, "four.lab.example", socket.AF_INET6) == socket.EAI_NODATA
    with pytest.raises(socket.gaierror):
        call(client, "getnameinfo", ("10.9.0.99", 80), socket.NI_NAMEREQD)


def test_a_name_with_fewer_dots_than_ndots_is_searched_first(
    call: Call, opened: Call, server: Command
) -> None:
    client = opened(domain=["other.lab.example", "lab.example"], dns_options="ndots:2 timeout:20")
    name = f"name-{next(_numbers)}.lab"
    assert failure(call, client, name, socket.AF_INET) == socket.EAI_NONAME
    assert asked(server, name) == [
        f"A {name}.other.lab.example",
        f"A {name}.lab.example",
        f"A {name}",
    ]


def test_a_server_is_asked_over_ipv6(call: Call, opened: Call) -> None:
    assert lookup(call, opened(dns=SERVER6), "four.lab.example", socket.AF_INET) == ["10.9.0.4"]


def test_a_server_may_have_a_link_local_address(call: Call, opened: Call, host: VdeStack) -> None:
    client = opened()
    # lwIP has one link, which needs no scope.
    scope = f"%{client.ifindex}" if isinstance(client, VdeStack) else ""
    # EUI-64 (RFC 4291, appendix A).
    mac = bytes([host.mac[0] ^ 2]) + host.mac[1:3] + b"\xff\xfe" + host.mac[3:]
    client.set_dns(f"{ipaddress.IPv6Address(bytes.fromhex('fe80') + bytes(6) + mac)}{scope}")
    assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.9.0.4"]


# Servers and networks that fail.


def test_the_next_server_is_asked(call: Call, opened: Call, host: VdeStack) -> None:
    """The first refuses (nobody listens there), the second is no host at all."""
    with open_stack("vdestack", vnl=WIRE, ip="10.9.0.54/24"):
        client = opened(
            dns=["10.9.0.54", "10.9.0.250", SERVER4], dns_options="timeout:0.3 attempts:5"
        )
        assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.9.0.4"]


def test_servers_that_are_not_there_are_a_temporary_failure(call: Call, opened: Call) -> None:
    client = opened(dns=["10.9.0.250", "10.9.0.251"], dns_options="timeout:0.05 attempts:2")
    assert failure(call, client, "four.lab.example") == socket.EAI_AGAIN


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
def test_what_is_lost_is_asked_for_again(call: Call, opened: Call) -> None:
    vnl = f"netem://loss=20%,seed=5{{{WIRE}}}"
    client = opened(vnl=vnl, dns=[SERVER4, SERVER6], dns_options="timeout:0.4 attempts:5")
    for _ in range(3):
        assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.9.0.4"]
    assert call(client, "getnameinfo", (SERVER4, 80), 0)[0] == "ns.lab.example"


def test_segments_that_are_lost_are_tcps_to_send_again(opened: Call, host: VdeStack) -> None:
    # A server of its own: one that waits for a FIN which was lost serves nobody else.
    with dnsmasq(host, *RECORDS, "--port=5399", "--bind-interfaces"):
        client = opened(
            vnl=f"netem://loss=10%,seed=2{{{WIRE}}}",
            dns=f"{SERVER4}:5399",
            dns_options="timeout:30 use-vc",
        )
        assert len(lookup(in_thread, client, "big.lab.example", socket.AF_INET)) == len(BIG)


# Programs.


class WebServer:
    """Answers every request on port 80 of a stack in a thread, until closed."""

    def __init__(self, stack: Stack) -> None:
        self._listener = stack.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((SERVER4, 80))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as lines:
                    self._answer(connection, lines)

    @staticmethod
    def _answer(connection: socket.socket, lines: Iterable[bytes]) -> None:
        name = b""
        for line in lines:
            if line[:5].lower() == b"host:":
                name = line[5:].strip()
            if line == b"\r\n":
                head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
                connection.sendall(head + b"this is " + name)
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture(scope="module")
def web(host: VdeStack) -> Iterator[None]:
    """A web server on the host, whose names are ``ns`` and ``alias.lab.example``."""
    with contextlib.closing(WebServer(host)):
        yield


def fetch(name: str) -> bytes:
    connection = http.client.HTTPConnection(name, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.usefixtures("web")
def test_a_blocking_program_takes_names(opened: Call) -> None:
    client = opened(domain="lab.example")
    with va.install(), client.activate():
        assert fetch("alias") == b"this is alias"
        assert socket.gethostbyname("four.lab.example") == "10.9.0.4"
        assert socket.gethostbyaddr(SERVER4)[0] == "ns.lab.example"
        assert socket.getfqdn(SERVER4) == "ns.lab.example"


@pytest.mark.usefixtures("web")
@pytest.mark.needs("aiohttp")
@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_programs_of_either_loop_take_names(opened: Call, loop: Any) -> None:
    async def main() -> list[Any]:
        import aiohttp

        own = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as session, session.get("http://alias/") as response:
            body = await response.read()
        _, writer = await asyncio.open_connection("ns.lab.example", 80)
        writer.close()
        [info] = await own.getaddrinfo("four", 53, family=2, type=socket.SOCK_STREAM)
        return [
            body,
            info[4],
            writer.get_extra_info("peername"),
            await own.getnameinfo((SERVER4, 80)),
            # From a thread while the loop drives the stack, and in the loop's own.
            *await asyncio.gather(*(asyncio.to_thread(fetch, "ns") for _ in range(3))),
            socket.gethostbyname("four"),
        ]

    assert va.run(main(), loop=loop, stack=opened(domain="lab.example")) == [
        b"this is alias",
        ("10.9.0.4", 53),
        (SERVER4, 80),
        ("ns.lab.example", "http"),
        *[b"this is ns"] * 3,
        "10.9.0.4",
    ]


@pytest.mark.parametrize("factory", LOOPS)
def test_many_look_ups_at_once(opened: Call, factory: LoopFactory) -> None:
    client = opened()

    async def main() -> list[Any]:
        # lwIP keeps ten datagrams for a neighbour whose hardware address it does not know.
        await client.aresolve("four.lab.example", socket.AF_INET)
        names = ["four.lab.example", "ns.lab.example", "alias.lab.example", "big.lab.example"] * 10
        return await asyncio.gather(
            *(client.agetaddrinfo(name, 80, socket.AF_INET, socket.SOCK_STREAM) for name in names)
        )

    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(main())
    assert [len(infos) for infos in found] == [1, 1, 1, len(BIG)] * 10


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("opened", ["lwip"], indirect=True)
@pytest.mark.parametrize("driver", [False, True], ids=["whoever waits", "thread"])
def test_many_threads_look_up_at_once(opened: Call, driver: bool) -> None:
    """Whoever waits drives the stack, or a thread of the stack's own does."""
    client = opened(thread=driver)

    def look_up(number: int) -> list[str]:
        return [name for _ in range(5) for name in lookup(in_thread, client, "ns.lab.example", 2)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(look_up, range(8))) == [[SERVER4] * 5] * 8


@pytest.mark.parametrize("factory", LOOPS[2:3])
def test_a_loop_goes_on_while_its_sock_calls_look_names_up(
    opened: Call, factory: LoopFactory, host: VdeStack
) -> None:
    """Blocking look-ups are what must not happen on the loop."""
    client = opened()

    async def main(receiver: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client.socket(type=socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with mock.patch.object(BlockingWaits, "ready", side_effect=AssertionError("blocks")):
                await loop.sock_sendto(sender, b"one", ("ns.lab.example", 9))
                await loop.sock_connect(sender, ("alias.lab.example", 9))
            assert sender.getpeername() == (SERVER4, 9)
        assert await asyncio.to_thread(receiver.recv, 10) == b"one"

    with host.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind((SERVER4, 9))
        receiver.settimeout(60)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(receiver))


@pytest.mark.needs("lwip", "slirp")
def test_a_server_of_the_host_is_asked_through_slirp(call: Call) -> None:
    port = free_port("udp")
    where = ("--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}")
    options = {"vnl": "slirp://", "ip": "10.0.2.15/24", "gw": "10.0.2.2"}
    with (
        dnsmasq(None, *RECORDS, *where),
        open_stack("lwip", **options, dns=f"10.0.2.2:{port}", dns_options="timeout:20") as client,
    ):
        assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.9.0.4"]
        assert len(lookup(call, client, "big.lab.example", socket.AF_INET)) == len(BIG)


@pytest.mark.needs("vde", "lwip")
def test_run_gives_a_program_the_names_of_its_stack(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, http.client, socket

            async def main():
                reader, writer = await asyncio.open_connection("ns", 80)
                print(writer.get_extra_info("peername"))
                writer.close()

            connection = http.client.HTTPConnection("alias.lab.example")
            connection.request("GET", "/")
            print(connection.getresponse().read())
            connection.close()
            asyncio.run(main())
            """
        )
    )
    vnl = f"ptp://{tmp_path}/p"
    stack = f"stack=lwip,vnl={vnl},ip=10.9.0.1/24,dns={SERVER4},domain=lab.example"
    with (
        open_stack("vdestack", vnl=vnl, ip=[f"{SERVER4}/24", f"{SERVER6}/64"]) as far,
        dnsmasq(far, *RECORDS),  # type: ignore[arg-type]
        contextlib.closing(WebServer(far)),
    ):
        ended = run(str(script), stack=stack)
    assert ended == (0, f"b'this is alias.lab.example'\n('{SERVER4}', 80)\n", "")
