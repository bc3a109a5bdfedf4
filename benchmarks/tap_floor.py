"""How fast any user-space stack on a TAP could answer: an echo of 64 bytes by C alone.

    python benchmarks/tap_floor.py [--rounds N] [--messages N] [--size N]
    chrt -f 1 taskset -c 1 python benchmarks/tap_floor.py

The client is the same for all, one blocking socket of the kernel's in a process of its own.
On a TAP it is answered by `tap_floor.c`, which waits, reads, swaps addresses and writes, and
has neither a stack nor Python, and by lwIP; over loopback by asyncio and uvloop on the
kernel's sockets.  Everything is in a network namespace: nothing leaves the machine.

The second command keeps client and server on one CPU and other programs off it: a round is
then what both cost, whatever else the machine does, and no CPU has to be woken from its sleep.

Every round runs each contender once, so that all meet the same weather.  Prints a table for
RESULTS.md: median time of an echo, and the median of the ratios of the rates within a round
to stock asyncio on the kernel's loopback TCP, with their quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.suite.contenders import make_loop  # noqa: E402
from benchmarks.suite.namespace import enter_network_namespace  # noqa: E402
from benchmarks.suite.protocols import EchoServer  # noqa: E402

DEVICE, MAC = "tap0", "02:00:00:00:00:02"
HOST, STACK, LOOPBACK = "10.9.0.1", "10.9.0.2", "127.0.0.1"
PORT = 7
WARM_UP = 200
# glibc's dynamic thresholds alone change rates twofold; the same for everybody.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "33554432"}


class Contender(NamedTuple):
    name: str
    protocol: str
    address: str
    server: tuple[str, ...]
    """``c`` and its further arguments, or a loop and ``lwip`` or ``kernel``."""


CONTENDERS = (
    Contender("kernel over loopback, asyncio", "tcp", LOOPBACK, ("asyncio", "kernel")),
    Contender("kernel over loopback, uvloop", "tcp", LOOPBACK, ("uvloop", "kernel")),
    Contender("kernel over loopback, asyncio", "udp", LOOPBACK, ("asyncio", "kernel")),
    Contender("TAP, C alone", "udp", STACK, ("c",)),
    Contender("TAP, C alone", "tcp", STACK, ("c",)),
    Contender("TAP, C alone that never sleeps", "udp", STACK, ("c", "spin")),
    Contender("TAP, C alone that never sleeps", "tcp", STACK, ("c", "spin")),
    Contender("TAP, lwIP on EventLoop", "tcp", STACK, ("EventLoop", "lwip")),
    Contender("TAP, lwIP on UvloopEventLoop", "tcp", STACK, ("UvloopEventLoop", "lwip")),
)


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


def serve(loop_name: str, via: str, protocol: str) -> None:
    """Echo until standard input ends."""
    stack: Any = None
    if via == "lwip":
        import vpoll_asyncio as va

        stack = va.open_stack("lwip", vnl=f"tap://{DEVICE}", ip=f"{STACK}/24", mac=MAC)
    with asyncio.Runner(loop_factory=lambda: make_loop(loop_name, stack)) as runner:
        loop: Any = runner.get_loop()
        address = LOOPBACK if stack is None else STACK

        async def main() -> None:
            ended = loop.create_future()
            if protocol == "udp":
                await loop.create_datagram_endpoint(Datagrams, local_addr=(address, PORT))
            else:
                await loop.create_server(EchoServer, address, PORT)
            loop.add_reader(0, ended.set_result, None)
            print("ready", flush=True)
            await ended
            loop.remove_reader(0)

        runner.run(main())
    if stack is not None:
        stack.close()


def ask(address: str, protocol: str, messages: int, size: int) -> None:
    """Print how many seconds an echo of `size` bytes takes."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    message = bytes(size)
    with socket.socket(socket.AF_INET, kind) as connection:
        connection.connect((address, PORT))
        if kind == socket.SOCK_STREAM:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = 0.0
        for count in range(messages + WARM_UP):
            if count == WARM_UP:
                start = time.perf_counter()
            connection.send(message)
            left = size
            while left:
                data = connection.recv(left)
                if not data:
                    raise ConnectionError("the server closed the connection")
                left -= len(data)
        print((time.perf_counter() - start) / messages)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), *arguments]


@contextmanager
def served(contender: Contender, program: Path) -> Iterator[None]:
    kind, *options = contender.server
    if kind == "c":
        line = [str(program), DEVICE, STACK, *options]
    else:
        line = command("--serve", kind, *options, contender.protocol)
    server = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **MALLOC, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise SystemExit(f"{contender}: the server failed")
        if contender.address == STACK:
            for words in (
                f"addr add {HOST}/24 dev {DEVICE}",
                f"link set {DEVICE} address 02:00:00:00:00:01 up",
                f"neigh replace {STACK} lladdr {MAC} dev {DEVICE} nud permanent",
            ):
                subprocess.run(["ip", *words.split()], check=True)
        yield
    finally:
        server.communicate(timeout=60)


def once(contender: Contender, program: Path, messages: int, size: int) -> float:
    """Return the seconds that an echo takes."""
    with served(contender, program):
        line = command("--ask", contender.address, contender.protocol, str(messages), str(size))
        done = subprocess.run(
            line, check=True, text=True, stdout=subprocess.PIPE, timeout=20 + messages / 500
        )
        return float(done.stdout)


def compile_floor(folder: Path) -> Path:
    program = folder / "tap_floor"
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    source = Path(__file__).with_suffix(".c")
    subprocess.run([*compiler, "-std=gnu11", "-O2", "-o", program, source], check=True)
    return program


def measure(
    contenders: Iterable[Contender], rounds: int, messages: int, size: int
) -> dict[Contender, list[float]]:
    """Return the seconds of an echo in each round."""
    seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as folder:
        program = compile_floor(Path(folder))
        for number in range(rounds):
            for contender in seconds:
                seconds[contender].append(once(contender, program, messages, size))
                shown = f"{contender.name}, {contender.protocol}"
                microseconds = seconds[contender][-1] * 1e6
                print(f"round {number + 1}: {shown} {microseconds:.1f} us", file=sys.stderr)
    return seconds


def report(seconds: dict[Contender, list[float]]) -> Iterator[str]:
    base = next(iter(seconds.values()))
    yield "| what | protocol | an echo | rate, ratio to the first row (quartiles) |"
    yield "|---|---|---|---|"
    for contender, measured in seconds.items():
        ratios = [other / one for one, other in zip(measured, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        time_of_one = statistics.median(measured) * 1e6
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        yield f"| {contender.name} | {contender.protocol} | {time_of_one:.1f} µs | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
    elif options.ask:
        address, protocol, messages, size = options.ask
        ask(address, protocol, int(messages), int(size))
    else:
        enter_network_namespace()
        # On one CPU a server that never sleeps would keep it from the client.
        alone = len(os.sched_getaffinity(0)) == 1
        contenders = [one for one in CONTENDERS if not (alone and "spin" in one.server)]
        seconds = measure(contenders, options.rounds, options.messages, options.size)
        for line in report(seconds):
            print(line)


if __name__ == "__main__":
    main()
