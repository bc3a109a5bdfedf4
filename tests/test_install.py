"""`install`: programs that make their own sockets get those of the current stack."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.host import host_stack

KERNEL = socket.socket


@pytest.fixture
def stack() -> Iterator[va.Stack]:
    with va.open_stack("memory", ip="10.1.1.1/24") as stack:
        yield stack


@pytest.fixture
def installed() -> Iterator[None]:
    with va.install():
        yield


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_new_socket_is_the_current_stacks(
    installed: None, stack: va.Stack, family: int, kind: int
) -> None:
    with stack.activate(), socket.socket(family, kind) as sock:
        assert isinstance(sock, va.UserSocket)
        assert sock.stack is stack
        assert (sock.family, sock.type) == (family, kind)


def test_without_arguments_it_is_an_ipv4_stream(installed: None, stack: va.Stack) -> None:
    with stack.activate(), socket.socket() as sock:
        assert isinstance(sock, va.UserSocket)
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)


def test_on_the_host_stack_it_is_the_kernels(installed: None) -> None:
    with socket.socket() as sock:
        assert type(sock) is KERNEL


def test_other_families_are_the_kernels(installed: None, stack: va.Stack) -> None:
    with stack.activate(), socket.socket(socket.AF_UNIX) as sock:
        assert type(sock) is KERNEL


def test_a_descriptor_that_is_given_is_the_kernels(installed: None, stack: va.Stack) -> None:
    with stack.activate(), KERNEL() as first, socket.socket(fileno=first.detach()) as sock:
        assert type(sock) is KERNEL
    with stack.activate():
        left, right = socket.socketpair()
        with left, right:
            assert type(left) is type(right) is KERNEL


def test_instance_checks_hold_for_sockets_of_both_kinds(installed: None, stack: va.Stack) -> None:
    with KERNEL() as kernels, stack.socket() as users:
        assert isinstance(kernels, socket.socket)
        assert isinstance(users, socket.socket)
        assert not isinstance(object(), socket.socket)
    assert issubclass(va.UserSocket, socket.socket)


def test_a_class_derived_meanwhile_is_an_ordinary_one(installed: None, stack: va.Stack) -> None:
    class Derived(socket.socket):
        pass

    with stack.activate(), Derived() as sock, KERNEL() as kernels:
        assert type(sock) is Derived
        assert sock.fileno() >= 0
        assert not isinstance(kernels, Derived)


def test_names_resolve_on_the_stack(installed: None, stack: va.Stack) -> None:
    with stack.activate():
        assert socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM, family=socket.AF_INET)
        assert socket.gethostbyname("localhost") == "127.0.0.1"
        assert socket.gethostbyname_ex("10.1.1.1") == ("10.1.1.1", [], ["10.1.1.1"])
        assert socket.getnameinfo(("10.1.1.1", 80), socket.NI_NUMERICSERV) == ("10.1.1.1", "80")
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("no-such-host.invalid", 80)


def test_a_blocking_program_runs_on_it(installed: None, stack: va.Stack) -> None:
    def serve(server: socket.socket) -> bytes:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as file:
            line = file.readline()
            file.write(line.upper())
            file.flush()
            return line

    with stack.activate(), socket.create_server(("10.1.1.1", 80)) as server:
        with concurrent.futures.ThreadPoolExecutor() as threads:
            served = threads.submit(serve, server)
            with socket.create_connection(("10.1.1.1", 80), timeout=30) as client:
                assert isinstance(client, va.UserSocket)
                client.sendall(b"hello\n")
                assert client.recv(100, socket.MSG_WAITALL) == b"HELLO\n"
            assert served.result(30) == b"hello\n"


def test_threads_without_a_context_see_the_process_default(
    installed: None, stack: va.Stack
) -> None:
    made = []

    def make() -> None:
        with socket.socket() as sock:
            made.append(type(sock) is KERNEL)

    def in_a_thread() -> None:
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()

    with stack.activate():
        in_a_thread()
    previous = set_default_stack(stack)
    try:
        in_a_thread()
    finally:
        set_default_stack(previous)
    assert made == [True, False]


def test_the_contexts_stack_wins_over_the_process_default(installed: None, stack: va.Stack) -> None:
    previous = set_default_stack(stack)
    try:
        with host_stack().activate(), socket.socket() as sock:
            assert type(sock) is KERNEL
    finally:
        set_default_stack(previous)


def test_leaving_puts_everything_back() -> None:
    before = dict(vars(socket))
    with va.install(), va.install():
        assert vars(socket) != before
    assert vars(socket) == before


async def test_the_running_loops_stack_is_current() -> None:
    assert va.current_stack() is host_stack()


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_run_installs_and_makes_its_stack_the_default(loop: str, stack: va.Stack) -> None:
    async def main() -> list[bool]:
        import asyncio

        def make() -> bool:
            with socket.socket() as sock:
                return isinstance(sock, va.UserSocket)

        with host_stack().activate():
            on_host = await asyncio.to_thread(make)
        running = asyncio.get_running_loop()
        return [make(), await running.run_in_executor(None, make), on_host]

    assert va.run(main(), loop=loop, stack=stack) == [True, True, False]
    assert socket.socket is KERNEL
