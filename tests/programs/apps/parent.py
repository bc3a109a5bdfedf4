"""Starts a child process in each of the ways, and prints whose network it has."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import probe  # type: ignore[import-not-found]

PORT = int(sys.argv[1])
COMMAND = [sys.executable, probe.__file__, str(PORT)]


def by_multiprocessing(method: str) -> str:
    with multiprocessing.get_context(method).Pool(1) as pool:
        found: str = pool.apply(probe.network, (PORT,))
        return found


def by_executor() -> str:
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        found: str = pool.submit(probe.network, PORT).result()
        return found


def by_fork() -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, probe.network(PORT).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as told:
        found = told.read()
    os.waitpid(child, 0)
    return found


def by_subprocess() -> str:
    return subprocess.run(COMMAND, check=True, capture_output=True, text=True).stdout.strip()


def by_preexec() -> str:
    said = subprocess.run(
        COMMAND, preexec_fn=lambda: os.write(1, b"own "), capture_output=True, text=True
    ).stdout
    return said.strip().removeprefix("own ")


def by_grandchild() -> str:
    nested = [sys.executable, "-c", f"import subprocess; subprocess.run({COMMAND!r})"]
    return subprocess.run(nested, check=True, capture_output=True, text=True).stdout.strip()


def by_spawn() -> str:
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable, COMMAND, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)]
    )
    os.close(writing)
    with open(reading) as told:
        found = told.read().strip()
    os.waitpid(child, 0)
    return found


def by_loop() -> str:
    async def start() -> str:
        # How long a call takes on a busy machine is no matter of the test's.
        asyncio.get_running_loop().slow_callback_duration = 60
        child = await asyncio.create_subprocess_exec(*COMMAND, stdout=subprocess.PIPE)
        out, _ = await child.communicate()
        return out.decode().strip()

    return asyncio.run(start())


WAYS: dict[str, Callable[[], str]] = {
    "fork": lambda: by_multiprocessing("fork"),
    "spawn": lambda: by_multiprocessing("spawn"),
    "forkserver": lambda: by_multiprocessing("forkserver"),
    "executor": by_executor,
    "os.fork": by_fork,
    "subprocess": by_subprocess,
    "preexec_fn": by_preexec,
    "grandchild": by_grandchild,
    "posix_spawn": by_spawn,
    "loop": by_loop,
}

if __name__ == "__main__":
    for name, way in WAYS.items():
        print(name, way())
