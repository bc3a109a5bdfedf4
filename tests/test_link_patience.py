"""Opening a link on a switch that does not answer: it may be stopped, or this very thread's."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from link_helpers import PATIENCE, numbered, receive, send_all
from processes import Command
from vde_ends import free_udp_ports, vde_switch
from vpoll_asyncio.links import VdeLink, open_link
from vpoll_asyncio.links.patience import OutOfTimeError, in_time
from vpoll_asyncio.testing.stack_suite import until

pytestmark = pytest.mark.needs("vde")

SHORT = 0.05
"""Seconds to wait for what never comes."""

switch_needed = pytest.mark.needs("vde_switch")
LOCATORS = pytest.mark.parametrize(
    "form",
    ["vde://{}", "{}", pytest.param("vlan://3{{vde://{}}}", marks=pytest.mark.needs("vde_vlan"))],
)


def opening() -> bool:
    return any(thread.name == "vpoll-open" for thread in threading.enumerate())


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@switch_needed
@LOCATORS
def test_a_stopped_switch_is_told_of(form: str, tmp_path: Path, no_fd_leak: None) -> None:
    path = tmp_path / "switch"
    with vde_switch(path) as switch:
        with stopped(switch.pid), pytest.raises(TimeoutError, match="kill -CONT") as caught:
            open_link(form.format(path), timeout=SHORT)
        assert caught.value.errno == errno.ETIMEDOUT
        assert str(path) in str(caught.value)
        until(lambda: not opening(), "the port that nobody waits for is not given back")


@switch_needed
def test_a_switch_that_goes_on_in_time_is_waited_for(tmp_path: Path, no_fd_leak: None) -> None:
    vnl = f"vde://{tmp_path}/switch"
    with vde_switch(tmp_path / "switch") as switch, VdeLink(vnl) as far:
        os.kill(switch.pid, signal.SIGSTOP)

        def go_on() -> None:
            until(opening)
            os.kill(switch.pid, signal.SIGCONT)

        thread = threading.Thread(target=go_on)
        thread.start()
        with VdeLink(vnl, timeout=PATIENCE) as near:
            thread.join()
            send_all(near, numbered(1))
            assert receive(far, 1) == numbered(1)


class Interrupted(Exception):
    pass


@switch_needed
@pytest.mark.parametrize("timeout", [PATIENCE, None])
def test_waiting_for_it_can_be_interrupted(
    timeout: float | None, tmp_path: Path, no_fd_leak: None
) -> None:
    def raise_it(*_: object) -> None:
        raise Interrupted

    def interrupt() -> None:
        until(opening)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with vde_switch(tmp_path / "switch") as switch, stopped(switch.pid):
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(Interrupted):
                open_link(f"vde://{tmp_path}/switch", timeout=timeout)
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    until(lambda: not opening())


@pytest.mark.parametrize("scheme", ["switch", "hub"])
def test_one_of_the_same_thread_is_told_of(scheme: str, tmp_path: Path, no_fd_leak: None) -> None:
    with VdeLink(f"{scheme}://{tmp_path}/s") as node:
        with pytest.raises(TimeoutError, match="while its stack or a thread reads it"):
            VdeLink(f"vde://{tmp_path}/s", timeout=SHORT)
        # The late answer, for which nobody waits any more.
        until(lambda: not opening(), drive=node.recv_batch)


PEER = """
import sys
from vpoll_asyncio.links import open_link
with open_link(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("scheme", ["ptp", "udp"])
def test_a_stopped_peer_is_not_waited_for(scheme: str, tmp_path: Path) -> None:
    """There is nothing that it would answer: it is a cable."""
    a, b = free_udp_ports()
    near, far = {
        "ptp": (f"ptp://{tmp_path}/p",) * 2,
        "udp": (f"udp://127.0.0.1:{a}->127.0.0.1:{b}", f"udp://127.0.0.1:{b}->127.0.0.1:{a}"),
    }[scheme]
    with Command([sys.executable, "-c", PEER, far]) as peer:
        peer.wait_for("open")
        with stopped(peer.pid), VdeLink(near) as link:
            assert send_all(link, numbered(1)) == 0
        peer.end_input()
        assert peer.wait()[0] == 0


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_the_time_is_more_than_none(timeout: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        VdeLink(f"vde://{tmp_path}/s", timeout=timeout)


# The waiting itself.


def test_what_the_call_raises_is_raised() -> None:
    def call() -> int:
        raise FileNotFoundError(errno.ENOENT, "there is none")

    with pytest.raises(FileNotFoundError, match="there is none"):
        in_time(call, lambda port: None, None)


def test_what_comes_too_late_is_undone() -> None:
    go_on, undone = threading.Event(), list[int]()

    def call() -> int:
        go_on.wait()
        return 7

    with pytest.raises(OutOfTimeError):
        in_time(call, undone.append, SHORT)
    assert undone == []
    go_on.set()
    until(lambda: undone == [7])
