"""Closing a socket ends every call that is blocked in it, in whichever thread, with EBADF."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from blocking_helpers import Background, client_context, connected, under_tls
from memory_helpers import BOUND
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.stacks.current import set_default_stack


class Blocked:
    """A stack's sockets, whose calls that wait set an event."""

    def __init__(self, stack: va.Stack) -> None:
        self.stack = stack
        self.waits = threading.Event()
        self.others: list[socket.socket] = []

    def keep(self, sock: socket.socket) -> None:
        self.others.append(sock)

    def connected(self) -> socket.socket:
        client, server = connected()
        self.keep(server)
        client.settimeout(None)
        return client

    def full(self) -> socket.socket:
        client = self.connected()
        client.setblocking(False)
        while True:
            try:
                client.send(bytes(65536))
            except BlockingIOError:
                break
        client.settimeout(None)
        return client

    def listening(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(None)
        return listener

    def datagram(self) -> socket.socket:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(None)
        return sock

    def fresh(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(None)
        return sock

    def silent_address(self) -> tuple[str, int]:
        """Where a connection neither comes about nor is refused."""
        if self.stack.name == "lwip":
            return "10.0.0.77", 9
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.keep(listener)
        address: tuple[str, int] = listener.getsockname()
        self.keep(socket.create_connection(address, BOUND))
        return address

    def secure(self) -> ssl.SSLSocket:
        client, server = under_tls(connected())
        self.keep(server)
        client.settimeout(None)
        return client

    def secure_and_full(self) -> ssl.SSLSocket:
        client = self.secure()
        client.setblocking(False)
        while True:
            try:
                client.send(bytes(16384))
            except ssl.SSLWantWriteError:
                break
        client.settimeout(None)
        return client

    def unshaken(self) -> ssl.SSLSocket:
        client, server = connected()
        self.keep(server)
        client.settimeout(None)
        return client_context().wrap_socket(
            client, server_hostname="localhost", do_handshake_on_connect=False
        )


@pytest.fixture(params=["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))])
def blocked(
    request: pytest.FixtureRequest, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Blocked]:
    near, far = wire_pair()
    options: dict[str, Any] = {"ip": "10.0.0.1/24"}
    if request.param == "lwip":
        options |= {"link": near, "thread": True}
    threads = threading.active_count()
    with near, far, va.open_stack(request.param, **options) as stack, va.install():
        blocked = Blocked(stack)
        wait = stack.wait

        def observed(*args: Any) -> int:
            blocked.waits.set()
            return wait(*args)

        monkeypatch.setattr(stack, "wait", observed)
        set_default_stack(stack)
        try:
            yield blocked
        finally:
            set_default_stack(None)
            for sock in blocked.others:
                sock.close()
    assert threading.active_count() == threads


Make = Callable[[Blocked], socket.socket]
Call = Callable[[Any, Blocked], object]

CALLS: list[tuple[str, Make, Call]] = [
    ("recv", Blocked.connected, lambda sock, _: sock.recv(1)),
    ("recv-all", Blocked.connected, lambda sock, _: sock.recv(9, socket.MSG_WAITALL)),
    ("recv_into", Blocked.connected, lambda sock, _: sock.recv_into(bytearray(9))),
    ("recvmsg", Blocked.connected, lambda sock, _: sock.recvmsg(9)),
    ("recvmsg_into", Blocked.connected, lambda sock, _: sock.recvmsg_into([bytearray(9)])),
    ("recvfrom", Blocked.datagram, lambda sock, _: sock.recvfrom(9)),
    ("recvfrom_into", Blocked.datagram, lambda sock, _: sock.recvfrom_into(bytearray(9))),
    ("datagram-recvmsg", Blocked.datagram, lambda sock, _: sock.recvmsg(9)),
    ("send", Blocked.full, lambda sock, _: sock.send(b"x")),
    ("sendall", Blocked.full, lambda sock, _: sock.sendall(b"x")),
    ("sendto", Blocked.full, lambda sock, _: sock.sendto(b"x", ("127.0.0.1", 9))),
    ("sendmsg", Blocked.full, lambda sock, _: sock.sendmsg([b"x"])),
    ("accept", Blocked.listening, lambda sock, _: sock.accept()),
    ("connect", Blocked.fresh, lambda sock, blocked: sock.connect(blocked.silent_address())),
    ("tls-read", Blocked.secure, lambda sock, _: sock.read(1)),
    ("tls-recv_into", Blocked.secure, lambda sock, _: sock.recv_into(bytearray(9))),
    ("tls-write", Blocked.secure_and_full, lambda sock, _: sock.write(bytes(16384))),
    ("tls-sendall", Blocked.secure_and_full, lambda sock, _: sock.sendall(bytes(16384))),
    ("tls-handshake", Blocked.unshaken, lambda sock, _: sock.do_handshake()),
    ("tls-unwrap", Blocked.secure, lambda sock, _: sock.unwrap()),
]

calls = pytest.mark.parametrize(
    ("make", "call"), [entry[1:] for entry in CALLS], ids=[entry[0] for entry in CALLS]
)


@calls
def test_a_blocked_call_ends_at_once(make: Make, call: Call, blocked: Blocked) -> None:
    sock = make(blocked)
    blocked.waits.clear()
    calling = Background(call, sock, blocked)
    assert blocked.waits.wait(BOUND)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        calling.result()
    assert caught.value.errno == errno.EBADF
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    "call", [lambda sock: sock.recv(1), lambda sock: sock.recv_into(bytearray(1))]
)
def test_all_threads_that_are_blocked_are_told(
    call: Callable[[socket.socket], object], blocked: Blocked
) -> None:
    sock = blocked.connected()
    calling = [Background(call, sock) for _ in range(5)]
    assert blocked.waits.wait(BOUND)
    sock.close()
    for each in calling:
        with pytest.raises(OSError, match="Bad file descriptor"):
            each.result()


def test_closing_by_the_descriptor_ends_it_too(blocked: Blocked) -> None:
    sock = blocked.connected()
    number = sock.fileno()
    reading = Background(sock.recv, 1)
    assert blocked.waits.wait(BOUND)
    os.close(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reading.result()


def test_a_call_on_another_handle_goes_on(blocked: Blocked) -> None:
    sock = blocked.connected()
    with sock.dup() as other:
        reading = Background(other.recv, 10)
        assert blocked.waits.wait(BOUND)
        sock.close()
        blocked.others[0].send(b"still here")
        assert reading.result() == b"still here"


def test_shutting_down_ends_a_blocked_tls_read_as_the_streams_end(blocked: Blocked) -> None:
    sock = blocked.secure()
    blocked.waits.clear()
    reading = Background(sock.recv, 1)
    assert blocked.waits.wait(BOUND)
    with sock:
        sock.shutdown(socket.SHUT_RDWR)
        assert reading.result() == b""
