"""vdestack: the kernel's TCP/IP in namespaces of its own, which links join."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vpoll_asyncio as va
from ourloops import ALL, OURS, LoopFactory
from vde_ends import vde_switch
from vpoll_asyncio.links import open_link, wire_pair
from vpoll_asyncio.stacks.kernelsocket import StackSocket
from vpoll_asyncio.stacks.vdestack import VdeStack

pytestmark = pytest.mark.needs("vdestack")

PATIENCE = 30
ROOT = Path(__file__).parent.parent
RUNS = pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)


class Hosts(NamedTuple):
    server: Any
    client: Any


def opened(link: Any, number: int) -> Any:
    addresses = [f"10.9.0.{number}/24", f"fd00::{number}/64"]
    return va.open_stack("vdestack", link=link, ip=addresses)


@pytest.fixture
def hosts(no_fd_leak: None) -> Iterator[Hosts]:
    """10.9.0.1 and 10.9.0.2, joined by a wire."""
    left, right = wire_pair()
    with opened(left, 1) as server, opened(right, 2) as client:
        yield Hosts(server, client)


def listening(stack: Any, address: str = "10.9.0.1") -> socket.socket:
    sock: socket.socket = stack.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 80))
    sock.listen()
    return sock


def connected(hosts: Hosts, address: str = "10.9.0.1") -> tuple[socket.socket, socket.socket]:
    with listening(hosts.server, address) as listener:
        client = hosts.client.socket(listener.family)
        client.settimeout(PATIENCE)
        client.connect((address, 80))
        return listener.accept()[0], client


def exchange(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.settimeout(PATIENCE)
        receiver.settimeout(PATIENCE)
        sender.sendall(b"data")
        assert receiver.recv(100) == b"data"


def talk(hosts: Hosts, address: str = "10.9.0.1") -> None:
    accepted, client = connected(hosts, address)
    with accepted, client:
        exchange(accepted, client)


@pytest.mark.parametrize("address", ["10.9.0.1", "fd00::1"])
def test_blocking_programs_meet(hosts: Hosts, address: str) -> None:
    talk(hosts, address)


def test_the_host_does_not_see_it(hosts: Hosts) -> None:
    with listening(hosts.server), socket.socket() as kernels:
        with pytest.raises(OSError, match="assign"):
            kernels.bind(("10.9.0.1", 80))


def test_datagrams_keep_their_bounds(hosts: Hosts) -> None:
    with (
        hosts.server.socket(type=socket.SOCK_DGRAM) as one,
        hosts.client.socket(type=socket.SOCK_DGRAM) as other,
    ):
        one.bind(("10.9.0.1", 53))
        one.settimeout(PATIENCE)
        for size in (0, 1, 1472, 9000):
            other.sendto(b"x" * size, ("10.9.0.1", 53))
            assert len(one.recv(65536)) == size


@pytest.mark.needs("vde", "vde_switch")
def test_hosts_meet_on_a_vde_switch(tmp_path: Path, no_fd_leak: None) -> None:
    vnl = f"vde://{tmp_path}/switch"
    with vde_switch(tmp_path / "switch"):
        with opened(open_link(vnl), 1) as one, opened(open_link(vnl), 2) as other:
            talk(Hosts(one, other))


@pytest.mark.needs("vde")
def test_hosts_meet_over_ptp(tmp_path: Path, no_fd_leak: None) -> None:
    vnl = f"ptp://{tmp_path}/p"
    with va.open_stack(f"stack=vdestack,vnl={vnl},ip=10.9.0.1/24") as one:
        with va.open_stack("vdestack", vnl=vnl, ip="10.9.0.2/24") as other:
            talk(Hosts(one, other))


@pytest.mark.needs("slirp")
def test_a_client_behind_slirp_reaches_the_host(no_fd_leak: None) -> None:
    options = {"vnl": "slirp://", "ip": "10.0.2.15/24", "gw": "10.0.2.2"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with va.open_stack("vdestack", **options) as stack, stack.socket() as client:
            client.settimeout(PATIENCE)
            client.connect(("10.0.2.2", listener.getsockname()[1]))
            with listener.accept()[0] as accepted:
                exchange(client, accepted)


def test_bare_packets_are_carried(no_fd_leak: None) -> None:
    left, right = wire_pair(medium="ip")
    with opened(left, 1) as one, opened(right, 2) as other:
        talk(Hosts(one, other))


@pytest.mark.needs("lwip")
def test_lwip_and_the_kernel_meet_on_a_wire(no_fd_leak: None) -> None:
    left, right = wire_pair()

    async def main() -> bytes:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        async with await va.start_server(shout, "10.9.0.1", 80, stack=lwip):
            reader, writer = await va.open_connection("10.9.0.1", 80, stack=kernel)
            writer.write(b"hello\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    with va.open_stack("lwip", link=left, ip="10.9.0.1/24") as lwip, opened(right, 2) as kernel:
        assert va.run(main()) == b"HELLO\n"


# Loops.


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


@pytest.mark.parametrize("host", ["10.9.0.1", ["10.9.0.1", "fd00::1"], None])
@pytest.mark.parametrize("delay", [None, 0.25])
def test_streams_meet_on_every_loop(
    hosts: Hosts, loop: asyncio.AbstractEventLoop, host: Any, delay: float | None
) -> None:
    seen = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(va.current_stack())
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main() -> None:
        async with await va.start_server(shout, host, 80, stack=hosts.server):
            for address in ("10.9.0.1", "fd00::1")[: 1 if host == "10.9.0.1" else 2]:
                reader, writer = await va.open_connection(
                    address, 80, stack=hosts.client, happy_eyeballs_delay=delay
                )
                writer.write(b"hello\n")
                assert await reader.read() == b"HELLO\n"
                writer.close()
                await writer.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await va.open_connection("10.9.0.1", 80, stack=hosts.client)

    loop.run_until_complete(main())
    assert set(seen) == {hosts.server}


@pytest.mark.parametrize("broadcast", [False, True])
def test_datagram_endpoints_meet_on_every_loop(
    hosts: Hosts, loop: asyncio.AbstractEventLoop, broadcast: bool
) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data.upper(), addr)

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            answer.set_result((data, addr))

    async def main() -> None:
        server, _ = await va.create_datagram_endpoint(Echo, ("10.9.0.1", 7), stack=hosts.server)
        client, _ = await va.create_datagram_endpoint(
            Client, None, ("10.9.0.1", 7), stack=hosts.client, allow_broadcast=broadcast or None
        )
        client.sendto(b"hello")
        assert await answer == (b"HELLO", ("10.9.0.1", 7))
        client.close()
        server.close()
        await asyncio.sleep(0)

    answer = loop.create_future()
    loop.run_until_complete(main())


@RUNS
def test_an_unmodified_program_runs_on_it(hosts: Hosts, loop: str) -> None:
    def fetch() -> bytes:
        with socket.create_connection(("10.9.0.2", 8000), PATIENCE) as sock:
            assert isinstance(sock, StackSocket)
            return sock.recv(100)

    async def main() -> bytes:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        running = asyncio.get_running_loop()
        async with await asyncio.start_server(greet, "10.9.0.2", 8000):
            with socket.socket() as sock:
                sock.setblocking(False)
                await running.sock_connect(sock, ("10.9.0.2", 8000))
                assert await running.sock_recv(sock, 100) == b"hello"
            return await running.run_in_executor(None, fetch)

    assert va.run(main(), loop=loop, stack=hosts.client) == b"hello"


@pytest.mark.parametrize("factory", OURS)
def test_a_port_of_the_host_is_forwarded(hosts: Hosts, factory: LoopFactory) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def main() -> bytes:
        async with await va.start_server(greet, "10.9.0.1", 80, stack=hosts.server):
            async with await va.forward("127.0.0.1:0", hosts.client, "10.9.0.1:80") as forward:
                reader, writer = await asyncio.open_connection(*forward.sockname)
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
                return answer

    loop = factory()
    assert loop.run_until_complete(main()) == b"hello"
    loop.close()


@pytest.mark.parametrize("factory", OURS)
def test_names_are_never_the_hosts(hosts: Hosts, factory: LoopFactory) -> None:
    async def connect(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_connect(sock, ("somewhere.invalid", 80))

    loop = factory()
    with hosts.client.socket() as sock:
        sock.setblocking(False)
        attempts: list[Callable[[], object]] = [
            lambda: sock.connect(("somewhere.invalid", 80)),
            lambda: loop.run_until_complete(connect(sock)),
        ]
        for attempt in attempts:
            with pytest.raises(socket.gaierror, match="on the vdestack stack"):
                attempt()
    loop.close()


# Sockets.


def test_errors_are_the_kernels(hosts: Hosts) -> None:
    for family, kind, proto, number in (
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, errno.EAFNOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, errno.EPROTONOSUPPORT),
        (socket.AF_INET, 77, 0, errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            hosts.client.socket(family, kind, proto)
        assert caught.value.errno == number


def test_sockets_are_of_the_stack_and_close_on_exec(hosts: Hosts) -> None:
    accepted, client = connected(hosts)
    with accepted, client, client.dup() as other:
        for sock in (accepted, client, other):
            assert isinstance(sock, StackSocket)
            assert not os.get_inheritable(sock.fileno())
        assert accepted.stack is hosts.server  # type: ignore[attr-defined]
        assert other.stack is hosts.client  # type: ignore[attr-defined]


def test_threads_get_sockets_at_once(hosts: Hosts) -> None:
    def ask(number: int) -> set[int]:
        kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM
        with contextlib.ExitStack() as held:
            made = [
                held.enter_context(hosts.client.socket(type=kinds[number % 2])) for _ in range(50)
            ]
            assert {sock.type for sock in made} == {kinds[number % 2]}
            assert len({sock.fileno() for sock in made}) == 50
            return {sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) for sock in made}

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert set().union(*threads.map(ask, range(8))) == {1, 2}


def test_addresses_routes_and_the_mtu_change(hosts: Hosts) -> None:
    server = hosts.server
    server.add_address("10.8.0.1/24")
    hosts.client.add_route("10.8.0.0/24", "10.9.0.1")
    assert "10.8.0.1/24" in server.addresses
    talk(hosts, "10.8.0.1")
    with pytest.raises(FileExistsError):
        server.add_address("10.8.0.1/24")
    hosts.client.del_route("10.8.0.0/24", "10.9.0.1")
    with hosts.client.socket() as sock, pytest.raises(OSError) as caught:
        sock.connect(("10.8.0.1", 80))
    assert caught.value.errno == errno.ENETUNREACH
    server.del_address("10.8.0.1")
    with pytest.raises(OSError) as caught:
        server.del_address("10.8.0.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL
    server.set_mtu(1400)
    assert server.mtu == 1400
    talk(hosts)


# Ends.


def gone(pid: int) -> bool:
    """Wait until the process has ended, which a zombie has."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(process, select.POLLIN)
    try:
        return bool(poll.poll(PATIENCE * 1000))
    finally:
        os.close(process)


def test_without_its_helper_only_new_sockets_are_refused(hosts: Hosts) -> None:
    accepted, client = connected(hosts)
    with accepted, client:
        os.kill(hosts.client.helper, signal.SIGKILL)
        assert gone(hosts.client.helper)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                hosts.client.socket()
            assert caught.value.errno == errno.ENETDOWN
        exchange(accepted, client)


def test_a_closed_stack_is_down(hosts: Hosts) -> None:
    hosts.client.close()
    hosts.client.close()
    assert gone(hosts.client.helper)
    for attempt in (hosts.client.socket, lambda: hosts.client.add_address("10.9.0.3/24")):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.ENETDOWN


PROGRAM = """
import sys, vpoll_asyncio as va
from vpoll_asyncio.links import wire_pair
left, right = wire_pair()
with va.open_stack("vdestack", link=left, ip="10.9.0.1/24") as one:
    with va.open_stack("vdestack", link=right, ip="10.9.0.2/24") as other:
        with one.socket() as listener, other.socket() as client:
            listener.bind(("10.9.0.1", 80))
            listener.listen()
            client.connect(("10.9.0.1", 80))
        print(one.helper, flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def program(*prefix: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*prefix, sys.executable, "-W", "error", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_the_helper_ends_with_a_client_that_is_killed() -> None:
    with program() as running:
        assert running.stdout is not None
        helper = int(running.stdout.readline())
        running.kill()
        assert gone(helper)


@pytest.mark.needs("root", "userns")
def test_without_privileges_a_user_namespace_does() -> None:
    """Root without capabilities; CAP_SETFCAP only lets it map itself (user_namespaces(7))."""
    unprivileged = ("setpriv", "--bounding-set", "-all,+setfcap", "--inh-caps", "-all")
    with program(*unprivileged) as running:
        assert running.stdout is not None
        helper = int(running.stdout.readline())
        assert os.readlink(f"/proc/{helper}/ns/user") != os.readlink("/proc/self/ns/user")
        assert running.communicate("", PATIENCE)[0] == ""
        assert running.returncode == 0
        assert gone(helper)


def test_a_forked_child_gets_sockets_and_its_close_is_its_own(hosts: Hosts) -> None:
    with listening(hosts.server) as listener:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(3):
                    with hosts.client.socket() as sock:
                        sock.connect(("10.9.0.1", 80))
                        sock.sendall(b"child")
                hosts.client.close()
                hosts.server.close()
                status = 0
            finally:
                os._exit(status)
        for _ in range(3):
            with listener.accept()[0] as accepted:
                accepted.settimeout(PATIENCE)
                assert accepted.recv(100) == b"child"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    talk(hosts)


def test_a_link_that_breaks_is_told(tmp_path: Path) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with va.open_stack("vdestack", link=va.FdLink(left), ip="10.9.0.1/24") as stack:
        assert isinstance(stack, VdeStack)
        right.close()
        deadline = threading.Event()
        for _ in range(PATIENCE * 100):
            if stack.link_error is not None:
                break
            deadline.wait(0.01)
        assert isinstance(stack.link_error, ConnectionResetError)


def test_one_that_is_collected_in_its_own_thread_warns_and_closes(no_fd_leak: None) -> None:
    held: list[va.Stack] = []
    helper: list[int] = []
    ready: list[bool] = []
    collected = threading.Event()

    def send(packet: bytes) -> None:
        if ready and held:
            held.clear()
            gc.collect()
            collected.set()

    def abandon() -> None:
        held.append(opened(va.PacketLink(send), 1))
        helper.append(held[0].helper)  # type: ignore[attr-defined]
        with held[0].socket(type=socket.SOCK_DGRAM) as sock:
            plain = socket.socket(fileno=os.dup(sock.fileno()))
        del sock
        ready.append(True)
        with plain:
            plain.sendto(b"data", ("10.9.0.2", 1))
        assert collected.wait(PATIENCE)

    with pytest.warns(ResourceWarning, match="unclosed <VdeStack"):
        abandon()
    assert gone(helper[0])


@pytest.mark.parametrize(
    "options", [{}, {"ip": "10.9.0.1/24", "gw": "10.8.0.1"}, {"mtu": 1501}, {"mac": "1:2"}]
)
def test_bad_options_cost_nothing(no_fd_leak: None, options: dict[str, Any]) -> None:
    with contextlib.ExitStack() as held:
        links = [held.enter_context(end) for end in wire_pair()]
        with pytest.raises(ValueError):
            va.open_stack("vdestack", link=links[0] if options else None, **options)


def helpers() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if (entry / "comm").read_text() == "vpoll-vdestack\n" and state != "Z":
                found.add(int(entry.name))
    return found


def test_ten_stacks_again_and_again_leave_nothing(no_fd_leak: None) -> None:
    """The kernel takes some 50 ms for each: to unregister an interface it waits for all CPUs."""
    rounds = 100 if os.environ.get("VPOLL_TEST_LONG") == "1" else 4
    threads = len(os.listdir("/proc/self/task"))
    ended = []
    for _ in range(rounds):
        with contextlib.ExitStack() as held:
            for _ in range(5):
                for number, link in enumerate(wire_pair(), 1):
                    stack = held.enter_context(opened(link, number))
                    held.enter_context(stack.socket())
                    ended.append(stack.helper)
    assert len(ended) == 10 * rounds
    assert not helpers() & set(ended)
    assert len(os.listdir("/proc/self/task")) == threads
