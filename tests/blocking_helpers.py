"""Programs that block, on the kernel's loopback and on a memory stack under `install`."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vpoll_asyncio as va
from memory_helpers import BOUND
from vpoll_asyncio.stacks.current import set_default_stack

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"

NETWORKS = ("kernel", "memory")

on_every_network = pytest.mark.parametrize("network", NETWORKS, indirect=True)


@contextlib.contextmanager
def network_of(name: str) -> Iterator[str]:
    """Let `socket.socket` be of the network `name`, in every thread."""
    if name == "kernel":
        yield name
        return
    with va.open_stack(name, ip="10.0.0.1/24") as stack, va.install():
        set_default_stack(stack)
        try:
            yield name
        finally:
            set_default_stack(None)


class Background:
    """A call in another thread; `result` waits for it."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._answer: Any = None
        self._error: BaseException | None = None
        self._call = functools.partial(call, *args)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as exc:
            self._error = exc

    def result(self) -> Any:
        self._thread.join(2 * BOUND)
        assert not self._thread.is_alive(), "the call still blocks"
        if self._error is not None:
            raise self._error
        return self._answer


def connected() -> tuple[socket.socket, socket.socket]:
    """A client and the server's end of its connection, of the current network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=BOUND)
        server, _ = listener.accept()
    server.settimeout(BOUND)
    return client, server


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


def under_tls(
    pair: tuple[socket.socket, socket.socket],
    *,
    client: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
    **options: Any,
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of `pair` under TLS, after the handshake."""
    ours = client or client_context()
    shaking = Background(
        functools.partial((server or server_context()).wrap_socket, pair[1], server_side=True)
    )
    wrapped = ours.wrap_socket(pair[0], server_hostname="localhost", **options)
    return wrapped, shaking.result()
