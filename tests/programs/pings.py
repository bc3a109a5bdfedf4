"""Ping HOST with icmplib, from a loop and without one, with ping and with raw sockets."""

from __future__ import annotations

import asyncio
import sys

import icmplib  # type: ignore[import-untyped]


def tell(way: str, host: icmplib.Host) -> None:
    print(way, host.address, host.packets_received, flush=True)


def main(address: str) -> None:
    for privileged in (False, True):
        options = {"count": 2, "interval": 0.01, "timeout": 10, "privileged": privileged}
        kind = "raw" if privileged else "ping"
        tell(f"async {kind}", asyncio.run(icmplib.async_ping(address, **options)))
        tell(f"plain {kind}", icmplib.ping(address, **options))


if __name__ == "__main__":
    main(sys.argv[1])
