"""A vdestack's helper, its program or its link may end at any moment: nothing hangs or is left.

The helper is held with SIGSTOP where a moment is to last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vpoll_asyncio as va
from processes import PROGRAMS, Command
from vde_ends import vde_switch
from vpoll_asyncio import native
from vpoll_asyncio.links import Link, wire_pair
from vpoll_asyncio.stacks.vdestack import VdeStack
from vpoll_asyncio.testing.stack_suite import until

pytestmark = pytest.mark.needs("vdestack")

PATIENCE = 30
NAMESPACE = "vpoll_asyncio.stacks.vdestack.namespace"


def opened(link: Link, number: int = 1) -> VdeStack:
    stack = va.open_stack("vdestack", link=link, ip=f"10.9.0.{number}/24")
    assert isinstance(stack, VdeStack)
    return stack


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[VdeStack]:
    near, far = wire_pair()
    with far, opened(near) as stack:
        yield stack


def state(task: str) -> str:
    """The state of a process or thread, as proc_pid_stat(5) has it; X where there is none."""
    try:
        return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def sleeps(pid: int) -> bool:
    return state(f"{pid}") == "S"


def ended(pid: int) -> bool:
    """Whether a process has ended; a zombie has, which only init still has to look at."""
    return state(f"{pid}") in "ZX"


def in_namespace(inode: int) -> list[str]:
    """The processes that a network namespace has."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == inode:
                found.append(path.parts[2])
    return found


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Asked:
    """A call in a thread of its own, and how it ends."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = call()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    @property
    def sleeps(self) -> bool:
        """Whether the thread waits in the kernel, and has so far not come back."""
        return state(f"self/task/{self.thread.native_id}") == "S"

    def raised(self) -> OSError:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert isinstance(self.error, OSError)
        return self.error


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Have helpers stop before they do anything; returns what waits for the next one's pid."""
    told, script = tmp_path / "pid", tmp_path / "helper"
    helper = native.build("vdestack")
    script.write_text(
        "#!/bin/sh\n"
        "exec >/dev/null 2>&1\n"
        f"echo $$ >{told}.new; mv {told}.new {told}\n"
        f'kill -STOP $$; exec {helper} "$@"\n'
    )
    script.chmod(0o700)
    monkeypatch.setattr(f"{NAMESPACE}.native.build", lambda name: script)
    monkeypatch.setenv("VPOLL_TEST_HELPER", str(script))

    def pid() -> int:
        until(lambda: told.exists() and state(told.read_text().strip()) == "T")
        return int(told.read_text())

    return pid


# The helper's end.


def test_opening_fails_when_the_helper_is_killed(held: Callable[[], int], no_fd_leak: None) -> None:
    near, far = wire_pair()
    with far:
        opening = Asked(lambda: opened(near))
        os.kill(held(), signal.SIGKILL)
        error = opening.raised()
        assert error.errno == errno.ENETDOWN
        assert "ended without a word" in str(error)
        assert near.closed


def test_opening_fails_when_the_helper_says_nothing(
    held: Callable[[], int], monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    monkeypatch.setattr(f"{NAMESPACE}._START_TIMEOUT", 0.05)
    near, far = wire_pair()
    with far:
        with pytest.raises(TimeoutError, match="is it stopped"):
            opened(near)
        pid = held()
        os.kill(pid, signal.SIGCONT)
        until(lambda: ended(pid), "the helper goes on without anybody")


def test_a_call_for_a_socket_ends_with_the_helper(stack: VdeStack) -> None:
    with stopped(stack.helper):
        asking = Asked(stack.socket)
        until(lambda: asking.sleeps)
        os.kill(stack.helper, signal.SIGKILL)
        error = asking.raised()
    assert error.errno == errno.ENETDOWN
    assert f"the process {stack.helper}" in str(error)


def test_a_call_for_a_socket_does_not_wait_for_ever(
    stack: VdeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.socket().close()
    near, far = wire_pair()
    monkeypatch.setattr(f"{NAMESPACE}._ANSWER_TIMEOUT", 0.2)
    with far, opened(near) as other:
        with stopped(other.helper), pytest.raises(TimeoutError, match="is it stopped") as caught:
            other.socket()
        assert caught.value.errno == errno.ETIMEDOUT
        # The late answer is nobody else's.
        with other.socket(type=socket.SOCK_DGRAM) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM


def test_a_call_for_a_socket_ends_when_the_stack_is_closed(stack: VdeStack) -> None:
    with stopped(stack.helper):
        asking = Asked(stack.socket)
        until(lambda: asking.sleeps)
        closing = Asked(stack.close)
        assert asking.raised().errno == errno.ENETDOWN
    closing.thread.join(PATIENCE)
    assert closing.error is None


def test_sockets_that_wait_go_on_without_the_helper(no_fd_leak: None) -> None:
    near, far = wire_pair()
    with opened(near, 1) as server, opened(far, 2) as client:
        with server.socket() as listener, client.socket() as sock:
            listener.bind(("10.9.0.1", 80))
            listener.listen()
            accepting = Asked(listener.accept)
            until(lambda: accepting.sleeps)
            for stack in (server, client):
                os.kill(stack.helper, signal.SIGKILL)
            until(lambda: ended(server.helper) and ended(client.helper))
            sock.settimeout(PATIENCE)
            sock.connect(("10.9.0.1", 80))
            accepting.thread.join(PATIENCE)
            with accepting.result[0] as accepted:
                accepted.sendall(b"data")
                assert sock.recv(100) == b"data"


def test_closing_ends_when_the_helper_is_killed(stack: VdeStack) -> None:
    with stopped(stack.helper):
        closing = Asked(stack.close)
        until(lambda: closing.sleeps)
        os.kill(stack.helper, signal.SIGKILL)
        closing.thread.join(PATIENCE)
    assert not closing.thread.is_alive()
    assert closing.error is None


def test_closing_kills_a_helper_that_does_not_end(
    stack: VdeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{NAMESPACE}._END_TIMEOUT", 0.1)
    inode = os.stat(f"/proc/{stack.helper}/ns/net").st_ino
    os.kill(stack.helper, signal.SIGSTOP)
    stack.close()
    until(lambda: ended(stack.helper))
    assert in_namespace(inode) == []


# The program's end.


@pytest.mark.parametrize("phase", ["open", "accept", "asking", "closing"])
def test_a_program_that_is_killed_leaves_nothing(phase: str) -> None:
    command = [sys.executable, str(PROGRAMS / "vdestack_phase.py"), phase]
    with Command(command) as program:
        helper = int(program.wait_for("helper").split()[1])
        inode = os.stat(f"/proc/{helper}/ns/net").st_ino
        program.wait_for("now")
        until(lambda: sleeps(program.pid))
        program.kill()
        # It was stopped by the program, in some phases.
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper, signal.SIGCONT)
        until(lambda: ended(helper), "the helper is left")
        until(lambda: not in_namespace(inode), "the namespace is left")


def test_a_program_that_is_killed_while_it_opens_leaves_nothing(held: Callable[[], int]) -> None:
    command = [sys.executable, str(PROGRAMS / "vdestack_phase.py"), "opening"]
    with Command(command) as program:
        program.wait_for("now")
        helper = held()
        program.kill()
        os.kill(helper, signal.SIGCONT)
        until(lambda: ended(helper), "the helper is left")


# The link's end, and what is on its way.


@pytest.mark.needs("vde", "vde_switch")
def test_closing_does_not_wait_for_a_switch_that_has_gone(tmp_path: Path, no_fd_leak: None) -> None:
    with vde_switch(tmp_path / "switch") as switch:
        stack = va.open_stack("vdestack", vnl=f"vde://{tmp_path}/switch", ip="10.9.0.1/24")
        assert isinstance(stack, VdeStack)
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            switch.kill()
            for _ in range(50):
                sock.sendto(bytes(1000), ("10.9.0.255", 9))
        stack.close()
    assert ended(stack.helper)


@pytest.mark.parametrize("size", [1, 5000])
def test_what_was_sent_last_arrives_though_the_stack_is_closed(size: int, no_fd_leak: None) -> None:
    for _ in range(5):
        near, far = wire_pair()
        with opened(near, 1) as server, opened(far, 2) as client:
            with server.socket() as listener:
                listener.bind(("10.9.0.1", 80))
                listener.listen()
                sock = client.socket()
                sock.connect(("10.9.0.1", 80))
                accepted, _ = listener.accept()
            with accepted, sock:
                sock.sendall(bytes(size))
                sock.close()
                client.close()
                accepted.settimeout(PATIENCE)
                got = b""
                while data := accepted.recv(65536):
                    got += data
                assert got == bytes(size)


def test_a_link_that_takes_nothing_does_not_hold_the_end_up(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpoll_asyncio.stacks.vdestack.bridge._LAST", 0.05)
    near, far = wire_pair(queue=1)
    with far, opened(near) as stack:
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(50):
                sock.sendto(bytes(1000), ("10.9.0.255", 9))
        closing = Asked(stack.close)
        closing.thread.join(PATIENCE)
        assert not closing.thread.is_alive()
        assert closing.error is None


def test_a_broken_link_costs_no_time_of_the_processor(no_fd_leak: None) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with opened(va.FdLink(left)) as stack:
        right.close()
        until(lambda: stack.link_error is not None)
        until(lambda: all(t.name != "vdestack bridge" for t in threading.enumerate()))
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("10.9.0.1", 0))
            sock.sendto(b"to itself", sock.getsockname())
            assert sock.recv(100) == b"to itself"
