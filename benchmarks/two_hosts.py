"""Two processes exchange bytes, both ways at once: lwIP over packet links, and the kernel's TCP.

    python benchmarks/two_hosts.py [--rounds N] [--megabytes N]

Every round runs each contender once, so that all meet the same weather.  Prints a table
for RESULTS.md: median rate each way, and the median of the ratios within a round to stock
asyncio on the kernel's loopback TCP, with their quartiles.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

HOST = Path(__file__).with_name("exchange_host.py")
CONTENDERS = [
    ("kernel", "asyncio"),
    ("kernel", "uvloop"),
    ("packetlink", "asyncio"),
    ("packetlink", "uvloop"),
    ("fdlink", "asyncio"),
    ("fdlink", "uvloop"),
]
NAMES = {
    "kernel": "kernel TCP, loopback",
    "packetlink": "lwIP, PacketLink over a socketpair, packets in Python",
    "fdlink": "lwIP, FdLink over the same socketpair, packets in C",
}


def once(transport: str, loop: str, size: int) -> float:
    """Return megabytes a second each way."""
    # glibc's dynamic thresholds alone change rates twofold; the same for everybody.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "33554432"}
    environment = {**os.environ, **malloc, "PYTHONPATH": str(HOST.parent.parent)}
    processes = []
    ends = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with ends[0], ends[1]:
        for role, end in zip(("server", "client"), ends, strict=True):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            command = [
                sys.executable,
                str(HOST),
                loop,
                transport,
                role,
                str(end.fileno()),
                str(size),
            ]
            processes.append(
                subprocess.Popen(
                    command,
                    pass_fds=(end.fileno(),),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
    rates = []
    for process in processes:
        assert process.stdout is not None
        rates.append(float(process.stdout.readline()))
    for process in processes:
        process.communicate("done\n", timeout=60)
        if process.returncode:
            raise SystemExit(f"{transport} on {loop}: a host failed")
    return statistics.mean(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=100, help="each way")
    options = parser.parse_args()
    size = options.megabytes * 1_000_000
    rates: dict[tuple[str, str], list[float]] = {contender: [] for contender in CONTENDERS}
    for number in range(options.rounds):
        for contender in CONTENDERS:
            rates[contender].append(once(*contender, size))
            print(f"round {number + 1}: {contender} {rates[contender][-1]:.0f}", file=sys.stderr)
    base = rates["kernel", "asyncio"]
    print("| what | loop | MB/s each way | ratio to the first row (quartiles) |")
    print("|---|---|---|---|")
    for (transport, loop), measured in rates.items():
        ratios = [one / other for one, other in zip(measured, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rate = statistics.median(measured)
        spread = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {NAMES[transport]} | {loop} | {rate:.0f} | {spread} |")


if __name__ == "__main__":
    main()
