"""`Network`: unmodified programs as hosts of one process, whatever loop they run on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

import vpoll_asyncio as va
from ourloops import OURS, LoopFactory
from vpoll_asyncio.install import installed
from vpoll_asyncio.kernel import KernelSocket
from vpoll_asyncio.stacks.current import default_stack
from vpoll_asyncio.stacks.memory import ManualClock
from vpoll_asyncio.testing import Network

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]

_getaddrinfo = socket.getaddrinfo


def stock_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS = [
    pytest.param(asyncio.SelectorEventLoop, id="stock-asyncio"),
    pytest.param(stock_uvloop, id="stock-uvloop", marks=pytest.mark.needs("uvloop")),
    *OURS,
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(seed=1) as network:
        yield network


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, network: Network) -> Iterator[Run[Any]]:
    """Runs a coroutine on each kind of loop, the network being open already."""
    factory: LoopFactory = request.param
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was asked and who answers."""
    question = await reader.readline()
    own = va.current_stack().addresses[0]
    writer.write(question.strip() + b" " + own.encode())
    writer.close()
    await writer.wait_closed()


async def ask(host: str, port: int = 80) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"who?\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@contextlib.asynccontextmanager
async def serving(*hosts: va.Stack) -> AsyncIterator[None]:
    """`tell` on port 80 of each host."""
    async with contextlib.AsyncExitStack() as servers:
        for host in hosts:
            with host.activate():
                await servers.enter_async_context(await asyncio.start_server(tell, port=80))
        yield


def test_two_programs_listen_on_the_same_port_of_one_process(
    network: Network, run: Run[Any]
) -> None:
    first, second = network.host("first", "10.0.0.1"), network.host("second", "10.0.0.2")
    client = network.host("client", "10.0.0.3")

    async def main() -> list[bytes]:
        async with serving(first, second):
            with client.activate():
                return list(await asyncio.gather(ask("first"), ask("second")))

    assert run(main()) == [b"who? 10.0.0.1/24", b"who? 10.0.0.2/24"]


@pytest.mark.parametrize("name", ["server", "10.0.0.1", "fd00::1"])
def test_host_is_reached_by_name_and_by_address(network: Network, run: Run[Any], name: str) -> None:
    server = network.host("server", "10.0.0.1", "fd00::1")
    client = network.host("client", "10.0.0.2", "fd00::2")

    async def main() -> bytes:
        async with serving(server):
            with client.activate():
                return await ask(name)

    assert run(main()).startswith(b"who?")


def test_connection_made_in_a_servers_handler_is_the_servers(
    network: Network, run: Run[Any]
) -> None:
    backend, proxy, client = (network.host(name) for name in ("backend", "proxy", "client"))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(await ask("backend"))
        writer.close()

    async def main() -> bytes:
        async with serving(backend):
            with proxy.activate():
                server = await asyncio.start_server(forward, port=8080)
            async with server:
                with client.activate():
                    return await ask("proxy", 8080)

    assert run(main()) == f"who? {backend.addresses[0]}".encode()


def test_tasks_and_to_thread_inherit_the_host(network: Network, run: Run[Any]) -> None:
    server, client = network.host("server"), network.host("client")

    def block() -> bytes:
        with socket.create_connection(("server", 80)) as sock:
            sock.sendall(b"who?\n")
            return sock.recv(100)

    async def main() -> list[bytes]:
        async with serving(server):
            with client.activate():
                task = asyncio.create_task(ask("server"))
                return [await asyncio.to_thread(block), await task]

    assert run(main()) == [f"who? {server.addresses[0]}".encode()] * 2


def test_datagrams_pass(network: Network, run: Run[Any]) -> None:
    server, client = network.host("server", "10.0.0.1"), network.host("client", "10.0.0.2")

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data + addr[0].encode(), addr)

    class Once(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.set_result(data)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with server.activate():
            answering, _ = await loop.create_datagram_endpoint(Echo, ("10.0.0.1", 53))
        with client.activate():
            asking, once = await loop.create_datagram_endpoint(Once, None, ("server", 53))
        asking.sendto(b"from ")
        got: bytes = await once.got
        asking.close()
        answering.close()
        return got

    assert run(main()) == b"from 10.0.0.2"


def test_sock_methods_work_on_the_hosts_sockets(network: Network, run: Run[Any]) -> None:
    server, client = network.host("server"), network.host("client")

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with server.activate(), socket.create_server(("", 80)) as listener:
            listener.setblocking(False)
            with client.activate(), socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("server", 80))
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    await loop.sock_sendall(connection, b"hello")
                return await loop.sock_recv(sock, 100)

    assert run(main()) == b"hello"


def test_readers_and_writers_of_the_hosts_sockets(network: Network, run: Run[Any]) -> None:
    host = network.host("host", "10.0.0.1")

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        both = asyncio.Event()

        def happened(sock: socket.socket, what: str) -> None:
            seen.append(what)
            (loop.remove_reader if what == "readable" else loop.remove_writer)(sock)
            if len(seen) == 2:
                both.set()

        with host.activate(), socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("10.0.0.1", 53))
            loop.add_reader(sock, happened, sock, "an older reader")
            loop.add_reader(sock, happened, sock, "readable")
            sock.sendto(b"!", ("10.0.0.1", 53))
            loop.add_writer(sock, happened, sock, "writable")
            await both.wait()
            assert not loop.remove_reader(sock)
            assert sock.recv(1) == b"!"
        return seen

    assert sorted(run(main())) == ["readable", "writable"]


def test_kernel_descriptors_keep_their_readers(network: Network, run: Run[Any]) -> None:
    async def main() -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        one, other = socket.socketpair()
        with one, other:
            loop.add_reader(one, readable.set)
            other.send(b"!")
            await readable.wait()
            loop.remove_reader(one)

    run(main())


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: ask("10.0.0.1"),
        lambda: ask("server"),
        lambda: asyncio.start_server(tell, "127.0.0.1", 0),
        lambda: asyncio.start_server(tell, port=80),
    ],
    ids=["connect", "connect-by-name", "listen", "listen-everywhere"],
)
def test_loop_without_an_active_host_is_refused(
    network: Network, run: Run[Any], attempt: Any
) -> None:
    network.host("server", "10.0.0.1")
    with pytest.raises(OSError, match=r"activate\(\)") as caught:
        run(attempt())
    assert caught.value.errno == errno.ENETDOWN


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_socket_without_an_active_host_is_refused(network: Network, family: int) -> None:
    with pytest.raises(OSError, match=r"network.host\('client'\).activate\(\)") as caught:
        socket.socket(family)
    assert caught.value.errno == errno.ENETDOWN


def test_thread_without_a_context_is_refused(network: Network) -> None:
    caught: list[OSError] = []

    def connect() -> None:
        try:
            socket.create_connection(("10.0.0.1", 80))
        except OSError as error:
            caught.append(error)

    with network.host("client", "10.0.0.1").activate():
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
    assert [error.errno for error in caught] == [errno.ENETDOWN]


class Derived(socket.socket):
    """Made before a network was opened, as libraries do."""


@pytest.mark.parametrize("active", [True, False], ids=["as-a-host", "as-none"])
@pytest.mark.parametrize(
    "attempt",
    [
        KernelSocket,
        Derived,
        lambda: KernelSocket(socket.AF_INET6, socket.SOCK_DGRAM),
        lambda: _getaddrinfo("name.invalid", 80),
    ],
    ids=["imported-before", "derived", "datagram", "getaddrinfo-imported-before"],
)
def test_way_round_the_hosts_to_the_kernel_is_refused(
    network: Network, attempt: Any, active: bool
) -> None:
    host = network.host("client")
    with host.activate() if active else contextlib.nullcontext():
        with pytest.raises(OSError) as caught:
            attempt()
    assert caught.value.errno == errno.ENETDOWN


@pytest.mark.parametrize("call", ["connect", "bind"])
def test_kernel_socket_made_before_the_network_leads_nowhere(call: str) -> None:
    with KernelSocket(type=socket.SOCK_DGRAM) as sock, Network():
        with pytest.raises(OSError) as caught:
            getattr(sock, call)(("127.0.0.1", 0))
    assert caught.value.errno == errno.ENETDOWN


def test_hosts_stack_leads_out_on_purpose(network: Network) -> None:
    with va.open_stack("host").activate(), socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert isinstance(sock, KernelSocket)
        assert not isinstance(sock, va.UserSocket)


def test_unix_sockets_stay_the_hosts(network: Network, run: Run[Any], tmp_path: Any) -> None:
    path = tmp_path / "socket"

    async def main() -> bytes:
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.close()
            return await reader.read()

    assert run(main()) == b""
    for sock in socket.socketpair():
        sock.close()


def test_numeric_addresses_resolve_without_a_host(network: Network) -> None:
    assert socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4] == ("127.0.0.1", 80)
    assert socket.gethostbyname("localhost") == "127.0.0.1"


def test_everything_is_as_before_when_the_network_is_closed(no_fd_leak: None) -> None:
    methods = asyncio.SelectorEventLoop.create_connection, asyncio.SelectorEventLoop.sock_recv
    with Network() as network:
        host = network.host("host")
        assert asyncio.SelectorEventLoop.create_connection is not methods[0]
    assert methods == (
        asyncio.SelectorEventLoop.create_connection,
        asyncio.SelectorEventLoop.sock_recv,
    )
    assert host.closed
    assert not installed()
    assert default_stack() is None
    with socket.socket() as sock:
        assert not isinstance(sock, va.UserSocket)
    KernelSocket().close()


def test_networks_close_in_any_order() -> None:
    first, second = Network(), Network()
    first.__enter__()
    second.__enter__()
    first.close()
    with pytest.raises(OSError, match="active"):
        socket.socket()
    second.close()
    socket.socket().close()


def test_sockets_left_open_are_dead_when_the_network_closes() -> None:
    with Network() as network, network.host("host").activate():
        sock = socket.create_server(("", 80))
    with sock, pytest.raises(OSError) as caught:
        sock.accept()
    assert caught.value.errno == errno.ENETDOWN


def test_addresses_get_prefixes(network: Network) -> None:
    host = network.host("host", "10.1.0.1", "fd01::1", "10.2.0.1/8")
    assert host.addresses == ["10.1.0.1/24", "fd01::1/64", "10.2.0.1/8"]


def test_hosts_without_addresses_get_the_next_free_ones(network: Network) -> None:
    network.host("taken", "10.0.0.2")
    names = ["first", "second"]
    assert [network.host(name).addresses for name in names] == [
        ["10.0.0.1/24", "fd00::1/64"],
        ["10.0.0.3/24", "fd00::2/64"],
    ]


def test_address_that_another_host_has_is_refused(network: Network) -> None:
    network.host("first", "10.0.0.1")
    with pytest.raises(OSError, match=r"10\.0\.0\.1 is already") as caught:
        network.host("second", "10.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
    assert list(network.hosts) == ["first"]


@pytest.mark.parametrize("address", ["10.0.0", "server", "10.0.0.1/99", ""])
def test_what_is_no_address_is_refused(network: Network, address: str) -> None:
    with pytest.raises(ValueError, match="expected one like"):
        network.host("host", address)


def test_host_needs_a_name(network: Network) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        network.host("")


def test_unknown_host_names_those_there_are(network: Network) -> None:
    network.host("server")
    with pytest.raises(KeyError, match="'server'"):
        network["serve"]


def test_host_of_a_closed_network_is_refused() -> None:
    network = Network()
    with pytest.raises(RuntimeError, match="with Network"):
        network.host("early")
    with network:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        network.host("late")
    with pytest.raises(RuntimeError, match="once"):
        network.__enter__()


# What happens on the way.


def advancing(network: Network) -> ManualClock:
    """The network's time from now on: it passes when the test says so."""
    network.conditions.clock = clock = ManualClock()
    return clock


@pytest.mark.parametrize("by_name", [True, False], ids=["names", "hosts"])
def test_delay_holds_between_the_two_hosts(network: Network, by_name: bool) -> None:
    names = ["server", "near", "far"]
    server, near, far = hosts = [network.host(name) for name in names]
    network.set_path(*(names[::2] if by_name else hosts[::2]), delay="20ms")
    clock = advancing(network)
    with server.activate(), socket.create_server(("", 80)) as listener:
        listener.setblocking(False)
        with near.activate():
            socket.create_connection(("server", 80)).close()
        listener.accept()[0].close()
        with far.activate(), socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(("server", 80))
            clock.advance(0.05)
            with pytest.raises(BlockingIOError):
                listener.accept()
            clock.advance(0.02)
            listener.accept()[0].close()


def test_one_way_may_be_worse_than_the_other(network: Network) -> None:
    here, there = network.host("here"), network.host("there")
    network.set_path("here", "there", delay="20ms", both=False)
    assert network.conditions.path(here, there).delay == 0.02
    assert network.conditions.path(there, here).delay == 0


def test_every_path_has_the_conditions_that_are_set_for_all(
    network: Network, run: Run[Any]
) -> None:
    network.set_path(loss="20%", delay="1ms")
    server, client = network.host("server"), network.host("client")

    async def main() -> bytes:
        async with serving(server):
            with client.activate():
                return await ask("server")

    assert run(main()).startswith(b"who?")


@pytest.mark.parametrize("groups", [("server",), ("server", "client"), (["server"], ["client"])])
def test_partition_keeps_everything_back_until_it_heals(network: Network, groups: Any) -> None:
    server, client = network.host("server"), network.host("client")
    clock = advancing(network)
    with server.activate():
        receiver = socket.socket(type=socket.SOCK_DGRAM)
        receiver.bind(("", 53))
        receiver.setblocking(False)
    with client.activate(), socket.socket(type=socket.SOCK_DGRAM) as sender, receiver:
        network.partition(*groups)
        sender.sendto(b"lost", ("server", 53))
        clock.advance(1)
        network.heal()
        sender.sendto(b"arrives", ("server", 53))
        assert receiver.recv(100) == b"arrives"


def test_same_seed_loses_the_same_datagrams() -> None:
    def arrived(seed: int) -> list[bytes]:
        with Network(seed=seed) as network:
            server, client = network.host("server"), network.host("client")
            network.set_path(server, client, loss="50%")
            clock = advancing(network)
            with server.activate(), socket.socket(type=socket.SOCK_DGRAM) as receiver:
                receiver.bind(("", 53))
                receiver.setblocking(False)
                with client.activate(), socket.socket(type=socket.SOCK_DGRAM) as sender:
                    for number in range(40):
                        sender.sendto(bytes([number]), ("server", 53))
                clock.advance(0)
                lost = network.counters("client", "server").lost
                assert 0 < lost < 40
                return [receiver.recv(1) for _ in range(40 - lost)]

    first, again, other = arrived(1), arrived(1), arrived(2)
    assert first == again != other


def test_counters_take_hosts_and_their_names(network: Network) -> None:
    server, client = network.host("server"), network.host("client")
    network.set_path(loss="100%")
    with client.activate(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"lost", ("server", 53))
        network.partition("server")
        sender.sendto(b"kept back, which is not counted", ("server", 53))
    assert network.counters(client, server).lost == network.counters("client", "server").lost == 1
    assert network.counters("server", "client").lost == 0
    with pytest.raises(KeyError, match="no host 'sever'"):
        network.counters("client", "sever")


def test_condition_that_is_none_says_what_is_expected(network: Network) -> None:
    with pytest.raises(ValueError, match="loss"):
        network.set_path(loss="many")
    with pytest.raises(KeyError, match="no host 'client'"):
        network.set_path("client", None)
    with pytest.raises(KeyError, match="no host 'client'"):
        network.partition(["client"])


@pytest.mark.parametrize("seed", ["7", 1.5, True])
def test_seed_is_an_int(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an int"):
        Network(seed=seed)


def test_seed_is_drawn_when_none_is_given() -> None:
    assert Network(seed=7).seed == 7
    assert Network().seed != Network().seed
