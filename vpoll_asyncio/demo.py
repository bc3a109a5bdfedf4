"""``python -m vpoll_asyncio demo``: the main job, run once on each loop.

An ordinary asyncio HTTP server listens on port 80 of a user-space stack; a client on
the host's kernel fetches from it through a port on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import runpy
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from .backends import choose
from .events import EventMask
from .forward import forward
from .loops import run
from .sockets import UserSocket, observe_sockets
from .stacks import Stack, available, open_stack

__all__ = ["main"]

_SECONDS: Final = 60
_BYTES: Final = 1_000_000
_GUEST: Final = "10.0.2.15"

# The fetch without curl; a process of its own, since this one's sockets are the stack's.
_URLLIB: Final = """
import shutil, sys, urllib.request
url, upload = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
body = open(upload, 'rb').read() if upload else None
request = urllib.request.Request(url, body, method='PUT' if upload else 'GET')
with urllib.request.urlopen(request, timeout=30) as answer:
    shutil.copyfileobj(answer, sys.stdout.buffer)
"""


class DemoError(Exception):
    """The demonstration did not do what it is to show."""


def _program() -> Callable[..., Awaitable[None]]:
    """Return ``main`` of the ordinary HTTP server in ``docs/http_server.py``."""
    here = Path(__file__).resolve().parent
    for path in (here.parent / "docs" / "http_server.py", here / "_docs" / "http_server.py"):
        if path.is_file():
            main: Callable[..., Awaitable[None]] = runpy.run_path(str(path))["main"]
            return main
    raise DemoError("docs/http_server.py is missing from this installation")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Masks:
    """The event masks that each stream socket went through, repetitions left out."""

    def __init__(self) -> None:
        self.sockets: list[tuple[UserSocket, list[int]]] = []

    def observe(self, sock: UserSocket) -> None:
        if sock.type != socket.SOCK_STREAM:
            return
        masks = [sock.vpoll.peek()]

        def record(mask: int) -> None:
            if mask != masks[-1]:
                masks.append(mask)

        sock.vpoll.add_waiter(record)
        self.sockets.append((sock, masks))

    def listening(self) -> bool:
        for sock, _ in self.sockets:
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return True
        return False

    def of_first_connection(self) -> list[int]:
        # The first socket is the listener; those after it were accepted.
        return next((masks for _, masks in self.sockets[1:] if len(masks) > 1), [])


async def _fetch(url: str, upload: str | None = None) -> bytes:
    """Fetch `url` with the host's curl, or urllib without it; return the body."""
    if curl := shutil.which("curl"):
        command = [curl, "--silent", "--show-error", "--fail", "--noproxy", "*"]
        command += ["--max-time", "30", *(["-T", upload] if upload else []), url]
    else:
        command = [sys.executable, "-I", "-c", _URLLIB, url, *([upload] if upload else [])]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        body, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = complaint.decode(errors="replace").strip()
        raise DemoError(f"{Path(command[0]).name} {url} failed ({process.returncode}): {text}")
    return body


@contextlib.asynccontextmanager
async def _reachable(stack: Stack, port: int) -> AsyncIterator[None]:
    """Make the guest's port 80 answer on 127.0.0.1:`port`, where slirp does not."""
    if stack.name != "memory":
        yield
        return
    async with await forward(f"127.0.0.1:{port}", stack, f"{_GUEST}:80"):
        yield


async def _scene(stack: Stack, port: int, masks: _Masks) -> None:
    program = asyncio.ensure_future(_program()("0.0.0.0", 80))
    try:
        while not masks.listening():
            if program.done():
                await program
                raise DemoError("the server program ended before it listened")
            await asyncio.sleep(0)
        async with _reachable(stack, port):
            base = f"http://127.0.0.1:{port}"
            hello = await _fetch(f"{base}/")
            print(f"  GET /              {hello.decode().strip()!r}")
            body = await _fetch(f"{base}/bytes/{_BYTES}")
            if len(body) != _BYTES:
                raise DemoError(f"{len(body)} bytes came down, expected {_BYTES}")
            digest = hashlib.sha256(body).hexdigest()
            print(f"  GET /bytes/{_BYTES} {len(body)} bytes, SHA-256 {digest[:16]}…")
            with tempfile.NamedTemporaryFile() as file:
                file.write(body)
                file.flush()
                said = (await _fetch(f"{base}/upload", file.name)).decode()
            if said.split() != [str(_BYTES), digest]:
                raise DemoError(f"the server got {said!r}, not {_BYTES} bytes {digest}")
            print(f"  PUT /upload        the same {_BYTES} bytes arrived intact")
    finally:
        program.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await program


async def _play(stack: Stack, port: int, masks: _Masks) -> None:
    async with asyncio.timeout(_SECONDS):
        await _scene(stack, port, masks)


def _open(port: int) -> Stack:
    usable = {info.name: info for info in available()}
    lwip = usable.get("lwip")
    if lwip is not None and lwip.available:
        vnl = f"slirp:///tcpfwd=127.0.0.1:{port}:{_GUEST}:80"
        try:
            return open_stack("lwip", vnl=vnl, ip=f"{_GUEST}/24", gw="10.0.2.2")
        except OSError as exc:
            why = str(exc)
    else:
        why = "no such stack" if lwip is None else lwip.why
    print(f"  without lwIP ({why}): the memory stack takes its place")
    return open_stack("memory", ip=f"{_GUEST}/24")


def _show(loop: str) -> None:
    port = _free_port()
    print(f"{loop}: an ordinary asyncio server on port 80 of {_GUEST}, here 127.0.0.1:{port}")
    masks = _Masks()
    with _open(port) as stack, observe_sockets(masks.observe):
        run(_play(stack, port, masks), loop=loop, stack=stack)
        seen = masks.of_first_connection()
        if not seen:
            raise DemoError("no connection reached the stack")
        used = {sock.vpoll.backend for sock, _ in masks.sockets} - {None}
        needless = f"none was needed ({choose(EventMask.IN | EventMask.OUT).name} if one were)"
        print(f"  stack              {stack.name}, {', '.join(stack.addresses)}")
        print(f"  backend            {', '.join(map(str, used)) or needless}")
        print("  masks of the first connection:")
        for mask in seen:
            print(f"    {mask:#06x} {_names(mask)}")


def _names(mask: int) -> str:
    return "|".join(event.name or "" for event in EventMask if mask & event) or "0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0, or 1 after printing what failed."""
    parser = argparse.ArgumentParser(
        prog="vpoll-asyncio demo",
        description="The host's curl is answered by an ordinary asyncio server on a user-space "
        "stack, on each loop in turn.",
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], help="only on this loop")
    options: Any = parser.parse_args(argv)
    loops = [options.loop] if options.loop else ["asyncio", "uvloop"]
    if not options.loop and importlib.util.find_spec("uvloop") is None:
        print("uvloop is not installed: pip install 'vpoll-asyncio[uvloop]' shows it there too")
        loops.remove("uvloop")
    for loop in loops:
        try:
            _show(loop)
        except (DemoError, OSError, TimeoutError) as exc:
            print(f"demo failed on {loop}: {str(exc) or type(exc).__name__}", file=sys.stderr)
            return 1
    print("demo passed")
    return 0
