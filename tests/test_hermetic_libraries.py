"""aiohttp, httpx, requests, uvicorn and websockets on a hermetic network, sealed by the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from processes import ROOT

SEALED = (sys.executable, str(ROOT / "tests" / "programs" / "sealed.py"), sys.executable)
EMPTY = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-U", "-r", "-n")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_seal_kills_who_makes_an_internet_socket(family: str) -> None:
    program = f"import socket; socket.socketpair(); socket.socket(socket.{family})"
    assert run(*SEALED, "-c", program).returncode == -signal.SIGSYS


@pytest.mark.needs("netns", "aiohttp", "httpx", "requests", "uvicorn", "uvloop", "websockets")
def test_libraries_run_without_a_kernel_socket_and_without_a_kernel_network() -> None:
    suite = ("-m", "pytest", "-q", "-p", "pytest_vpoll_asyncio", "-p", "no:cacheprovider")
    done = run(*EMPTY, *SEALED, *suite, "tests/programs/hermetic_suite.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
