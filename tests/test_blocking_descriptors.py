"""What a user socket's descriptor is good for under `install`: the rest is refused."""

from __future__ import annotations

import errno
import http.server
import os
import pickle
import select
import selectors
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blocking_helpers import CERTIFICATE, connected, network_of, on_every_network, server_context

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def network(request: pytest.FixtureRequest, no_fd_leak: None) -> Iterator[str]:
    with network_of(request.param) as name:
        yield name


@pytest.fixture
def pair(network: str) -> Iterator[Pair]:
    client, server = connected()
    with client, server:
        yield client, server


on_memory = pytest.mark.parametrize("network", ["memory"], indirect=True)

HANDLES: list[Callable[[socket.socket], socket.socket]] = [
    lambda sock: sock.dup(),
    lambda sock: socket.fromfd(sock.fileno(), sock.family, sock.type),
    lambda sock: socket.socket(fileno=os.dup(sock.fileno())),
]


@on_every_network
@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "polled"])
@pytest.mark.parametrize("another", HANDLES, ids=["dup", "fromfd", "fileno"])
def test_another_handle_has_the_connection_until_the_last_is_closed(
    another: Callable[[socket.socket], socket.socket], asked: bool, pair: Pair
) -> None:
    client, server = pair
    if asked:
        client.fileno()
    with another(client) as handle:
        assert handle.getsockname() == client.getsockname()
        assert handle.getpeername() == server.getsockname()
        client.send(b"one ")
        client.close()
        handle.send(b"other")
        server.settimeout(20)
        assert server.recv(100).startswith(b"one ")
        server.send(b"back")
        assert handle.recv(100) == b"back"
        assert select.select([server], [], [], 0)[0] in ([], [server])
    received = b""
    while data := server.recv(100):
        received += data
    assert b"one other".endswith(received)


REFUSED: list[tuple[str, Callable[[socket.socket], Any]]] = [
    ("os.read", lambda sock: os.read(sock.fileno(), 1)),
    ("os.write", lambda sock: os.write(sock.fileno(), b"x")),
    ("os.write of a duplicate", lambda sock: os.write(os.dup(sock.fileno()), b"x")),
    ("os.sendfile", lambda sock: os.sendfile(sock.fileno(), 0, 0, 1)),
    ("os.fdopen", lambda sock: os.fdopen(sock.fileno())),
    ("pass_fds", lambda sock: subprocess.Popen(["true"], pass_fds=[sock.fileno()])),
    ("stdin", lambda sock: subprocess.Popen(["true"], stdin=sock.fileno())),
    ("detach", lambda sock: sock.detach()),
    ("set_inheritable", lambda sock: sock.set_inheritable(True)),
]


@on_memory
@pytest.mark.parametrize("call", [call for _, call in REFUSED], ids=[name for name, _ in REFUSED])
def test_what_would_read_or_write_the_signals_is_refused(
    call: Callable[[socket.socket], Any], network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[int] = []
    kernels = os.dup

    def remembered(fd: int) -> int:
        copies.append(kernels(fd))
        return copies[-1]

    client, server = connected()
    with client, server:
        monkeypatch.setattr(os, "dup", remembered)
        with pytest.raises(OSError, match=r"\w") as caught:
            call(client)
        assert caught.value.errno == errno.ENOTSUP
        monkeypatch.undo()
        # Nothing was lost or made of it.
        assert not select.select([client], [], [], 0)[0]
        server.send(b"whole")
        assert select.select([client], [], [], 20)[0]
        assert client.recv(100) == b"whole"
    for fd in copies:
        os.close(fd)


@on_every_network
def test_reading_and_writing_no_bytes_is_harmless(pair: Pair) -> None:
    client, server = pair
    assert os.read(client.fileno(), 0) == b""
    assert os.write(client.fileno(), b"") == 0
    server.send(b"whole")
    assert client.recv(100) == b"whole"


@on_memory
def test_a_user_socket_cannot_be_sent_to_another_process(pair: Pair) -> None:
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(OSError, match="cannot leave its process") as caught:
            socket.send_fds(near, [b"x"], [pair[0].fileno()])
        assert caught.value.errno == errno.ENOTSUP
        assert not select.select([far], [], [], 0)[0]


@on_every_network
def test_a_socket_is_not_pickled(pair: Pair) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(pair[0])


@on_memory
def test_descriptors_of_the_kernel_are_not_concerned(pair: Pair) -> None:
    assert pair[0].fileno() >= 0
    reading, writing = os.pipe()
    assert os.write(writing, b"pipe") == 4
    with os.fdopen(reading, "rb") as file:
        os.close(writing)
        assert file.read() == b"pipe"
    done = subprocess.run([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"1\n"
    near, far = socket.socketpair()
    with near, far, socket.socket(fileno=os.dup(near.fileno())) as copy:
        copy.send(b"x")
        assert far.recv(10) == b"x"


@on_every_network
@pytest.mark.parametrize(
    "selector",
    [
        selectors.DefaultSelector,
        selectors.EpollSelector,
        selectors.PollSelector,
        selectors.SelectSelector,
    ],
)
def test_selectors_see_a_socket(selector: type[selectors.BaseSelector], pair: Pair) -> None:
    client, server = pair
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    with selector() as watching:
        watching.register(client, both)
        [(_, events)] = watching.select(20)
        assert events == selectors.EVENT_WRITE
        server.send(b"x")
        while True:
            [(_, events)] = watching.select(20)
            if events == both:
                break
        client.recv(10)
        [(_, events)] = watching.select(20)
        assert events == selectors.EVENT_WRITE


@on_every_network
def test_closed_sockets_are_no_descriptors(pair: Pair) -> None:
    client, _ = pair
    client.close()
    assert client.fileno() == -1
    with pytest.raises(ValueError, match="negative"):
        select.select([client], [], [], 0)


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@on_every_network
@pytest.mark.parametrize("server", [socketserver.TCPServer, socketserver.ThreadingTCPServer])
def test_socketserver_serves(server: type[socketserver.TCPServer], network: str) -> None:
    with server(("127.0.0.1", 0), Echo) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        with socket.create_connection(running.socket.getsockname(), timeout=20) as client:
            client.sendall(b"hello\n")
            assert client.makefile("rb").readline() == b"HELLO\n"
        running.shutdown()
        thread.join()


class Port(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        port = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(port)))
        self.end_headers()
        self.wfile.write(port)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def https(network: str) -> Iterator[str]:
    """The address of a blocking HTTPS server, which answers with its client's port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Port) as server:
        server.daemon_threads = False
        server.socket = server_context().wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@on_every_network
def test_urllib_over_https(https: str) -> None:
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    with urllib.request.urlopen(https, context=context, timeout=20) as answer:
        assert answer.read().isdigit()


@on_every_network
@pytest.mark.needs("requests")
def test_requests_over_https_keeps_its_connection(https: str) -> None:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(CERTIFICATE)
        ports = {session.get(https, timeout=20).content for _ in range(3)}
    assert len(ports) == 1
