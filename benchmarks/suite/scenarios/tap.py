"""A server that a process outside talks to: lwIP over TAP, or the kernel over loopback.

Each contender has a network namespace of its own, with the client in it: nothing leaves
the machine.  The client is the same for all: blocking sockets of the kernel, in a process
of its own (`client`).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..contenders import Contender, Sample, make_loop
from ..namespace import enter_network_namespace
from ..protocols import EchoServer

_CLIENT = Path(__file__).parents[1] / "client.py"
_LWIP = "10.9.0.2"
_KERNEL = "10.9.0.1"
_PORT = 7


@contextmanager
def remote_echo(
    contender: Contender, *, messages: int, size: int = 64, pairs: int = 1
) -> Iterator[Sample]:
    """Measure a message of `size` bytes and its echo; `pairs` connections at once."""
    request = {"do": "echo", "messages": messages, "size": size, "pairs": pairs}
    with _served(contender, request, "echo") as sample:
        yield sample


@contextmanager
def remote_connections(contender: Contender, *, count: int, size: int = 64) -> Iterator[Sample]:
    """Measure one of `count` connections, one after the other: connect, echo, close."""
    request = {"do": "connect", "count": count, "size": size}
    with _served(contender, request, "connection") as sample:
        yield sample


@contextmanager
def _served(contender: Contender, request: dict[str, Any], name: str) -> Iterator[Sample]:
    enter_network_namespace()
    with _stack(contender.via) as stack:
        address = "127.0.0.1" if stack is None else _LWIP
        with asyncio.Runner(loop_factory=lambda: make_loop(contender.loop, stack)) as runner:
            loop: Any = runner.get_loop()
            server = runner.run(_start(loop, address))
            with _client(address) as client:
                yield lambda: {name: runner.run(_ask(loop, client, request))}
            runner.run(_stop(server))


async def _start(loop: Any, address: str) -> Any:
    return await loop.create_server(EchoServer, address, _PORT, backlog=256)


async def _stop(server: Any) -> None:
    server.close()
    await server.wait_closed()


@contextmanager
def _stack(via: str) -> Iterator[Any]:
    if via == "loopback":
        yield None
        return
    import vpoll_asyncio as va

    with va.open_stack("lwip", vnl="tap://tap0", ip=f"{_LWIP}/24") as stack:
        for command in (f"addr add {_KERNEL}/24 dev tap0", "link set tap0 up"):
            subprocess.run(["ip", *command.split()], check=True)
        yield stack


@contextmanager
def _client(address: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-I", str(_CLIENT), address, str(_PORT)]
    client = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield client
    finally:
        client.communicate(timeout=60)


async def _ask(loop: Any, client: subprocess.Popen[str], request: dict[str, Any]) -> float:
    """Have the client do `request`; return the seconds an operation took it."""
    assert client.stdin is not None
    assert client.stdout is not None
    answer = loop.create_future()
    output: IO[str] = client.stdout
    loop.add_reader(output.fileno(), lambda: answer.set_result(output.readline()))
    client.stdin.write(json.dumps(request) + "\n")
    try:
        line = await answer
    finally:
        loop.remove_reader(output.fileno())
    if not line:
        raise RuntimeError("the client failed")
    return float(line)
