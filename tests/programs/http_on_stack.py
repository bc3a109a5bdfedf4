"""Run docs/http_server.py unmodified on a stack: ``http_on_stack.py LOOP CONFIG``.

Ends on SIGINT and then says which descriptors it holds more than before.
"""

from __future__ import annotations

import asyncio
import gc
import os
import runpy
import sys
from pathlib import Path

import vpoll_asyncio as va


def descriptors() -> dict[str, str]:
    held = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            held[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return held


def main(loop: str, config: str) -> None:
    program = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "http_server.py"))["main"]

    async def quietly() -> None:
        # Debug mode's remarks on slow callbacks depend on what else the machine does.
        asyncio.get_running_loop().slow_callback_duration = 60
        await program("0.0.0.0", 80)

    with va.open_stack(config) as stack:
        try:
            va.run(quietly(), loop=loop, stack=stack)
        except KeyboardInterrupt:
            print("interrupted", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        # libuv keeps one pipe from a process's first loop to its end.
        uvloop.new_event_loop().close()
    before = descriptors()
    main(*sys.argv[1:])
    gc.collect()
    leaked = sorted(descriptors().items() - before.items())
    print(f"leaked {leaked}", flush=True)
