"""The host stack: the kernel's own sockets, whatever stands under their name."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from memory_helpers import BOUND
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.host import HostStack, host_stack

KernelSocket = socket.socket


class Replacement:
    def __init__(self, *args: Any) -> None:
        raise AssertionError("the replacement was asked")


def test_there_is_one() -> None:
    assert host_stack() is host_stack()
    assert host_stack().kernel
    assert host_stack().name == "host"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_sockets_are_the_kernel_s(no_fd_leak: None, family: int) -> None:
    assert host_stack().supported_domain(family)
    with host_stack().socket(family) as sock:
        assert type(sock) is KernelSocket
        assert sock.family == family


def test_sockets_connect(no_fd_leak: None) -> None:
    with host_stack().socket() as listener, host_stack().socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            client.sendall(b"data")
            assert server.recv(10) == b"data"


def test_replaced_names_are_not_asked(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("socket", "getaddrinfo", "getnameinfo"):
        monkeypatch.setattr(socket, name, Replacement)
    stack = host_stack()
    with stack.socket() as sock:
        assert type(sock) is KernelSocket
    answers = stack.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert answers[0][4] == ("127.0.0.1", 80)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert stack.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")


def test_closing_it_changes_nothing() -> None:
    stack = host_stack()
    stack.close()
    with stack:
        pass
    assert not stack.closed
    stack.socket().close()


def test_opened_by_name() -> None:
    assert isinstance(open_stack("host"), HostStack)


def test_threads_may_share_it(no_fd_leak: None) -> None:
    made: list[type] = []

    def make() -> None:
        for _ in range(20):
            with host_stack().socket() as sock:
                made.append(type(sock))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert made == [KernelSocket] * 80
