"""The daemon of the `fuse` backend as a test sees it from outside."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vpoll_asyncio.backends.fuse import CHOICE, current_daemon
from vpoll_helpers import DEADLINE

KINDS = [pytest.param("compiled", marks=pytest.mark.needs("cc")), "python"]


@pytest.fixture(params=KINDS)
def daemon_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with the compiled daemon and with the one in Python."""
    kind: str = request.param
    monkeypatch.setenv(CHOICE, kind)
    return kind


def wait_until(reached: Callable[[], bool], what: str) -> None:
    """Return once `reached` holds; fail after the deadline."""
    end = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < end, f"never reached: {what}"
        time.sleep(0.001)


def state_of(pid: int) -> str:
    """The state letter of proc(5), or an empty string for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_end_of(pid: int) -> None:
    """Return once process `pid` has ended, whether init has reaped it or not."""
    wait_until(lambda: state_of(pid) in ("", "Z", "X"), f"the end of process {pid}")


def the_daemon() -> int:
    pid = current_daemon()
    assert pid is not None
    return pid


def kill_the_daemon() -> None:
    """Kill it; return when the kernel has aborted its connection."""
    pid = the_daemon()
    os.kill(pid, signal.SIGKILL)
    wait_for_end_of(pid)


def descriptors_of(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return sorted(os.readlink(f"{folder}/{name}") for name in os.listdir(folder))


def connections() -> set[str]:
    """The kernel's FUSE connections, from a mount namespace that ends with the look."""
    where = "/sys/fs/fuse/connections"
    script = f"mountpoint -q {where} || mount -t fusectl none {where} && ls {where}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


# epoll_wait on x86-64, epoll_pwait where there is no such call.
_EPOLL_WAIT = {"x86_64": "232"}.get(platform.machine(), "22")


def asleep_in_epoll(thread: threading.Thread) -> bool:
    """Whether `thread` sleeps in epoll_wait(2): proc(5)."""
    folder = Path(f"/proc/self/task/{thread.native_id}")
    try:
        if (folder / "syscall").read_text().split()[0] != _EPOLL_WAIT:
            return False
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "S"
    except FileNotFoundError:
        return False


def has_children() -> bool:
    """Whether this process has a child of any kind, ended or not."""
    wall = 0x4000_0000
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | wall)
    except ChildProcessError:
        return False
    return True
