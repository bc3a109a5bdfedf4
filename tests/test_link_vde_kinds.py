"""What holds for every kind of VDE network that Debian's packages bring, and of its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vpoll_asyncio as va
from link_helpers import (
    BROADCAST,
    PATIENCE,
    close_in_a_child,
    numbered,
    receive,
    run_in_namespace,
    send_all,
    wait_link,
)
from pcap_helpers import frames_of
from vde_ends import CHECKS, KINDS, Kind, free_udp_ports, get, pumped, vde_switch
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import Link, VdeLink, open_link

pytestmark = pytest.mark.needs("vde")

HERE = [name for name, kind in KINDS.items() if "netns" not in kind.needs]


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(KINDS[name], marks=pytest.mark.needs(*KINDS[name].needs), id=name)
        for name in HERE
    ],
)
def test_any_two_ends(kind: Kind, check: Callable[[Kind, Path], None], tmp_path: Path) -> None:
    check(kind, tmp_path)


def every_check(name: str) -> None:
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            check(KINDS[name], Path(folder))


def on_vxvde() -> None:
    every_check("vxvde")


def on_tap() -> None:
    every_check("tap")


def on_pcap() -> None:
    every_check("pcap")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(on_vxvde, marks=pytest.mark.needs(*KINDS["vxvde"].needs)),
        pytest.param(on_tap, marks=pytest.mark.needs(*KINDS["tap"].needs)),
        pytest.param(on_pcap, marks=pytest.mark.needs(*KINDS["pcap"].needs)),
    ],
)
def test_any_two_ends_of_a_network_that_needs_a_namespace(body: Callable[[], None]) -> None:
    run_in_namespace(body)


# An end that is killed.

END = """
import sys
from vpoll_asyncio.links import open_link
link = open_link(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def end(vnl: str) -> Iterator[subprocess.Popen[str]]:
    """A process with an end of its own, which nobody reads."""
    with subprocess.Popen(
        [sys.executable, "-c", END, vnl],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "open\n"
            yield running
        finally:
            running.kill()


@contextlib.contextmanager
def place_of(scheme: str, path: Path) -> Iterator[tuple[Link, str]]:
    """An end that stays, and the locator of the one that goes and comes."""
    if scheme == "udp":
        a, b = free_udp_ports()
        with open_link(f"udp://127.0.0.1:{a}->127.0.0.1:{b}") as link:
            yield link, f"udp://127.0.0.1:{b}->127.0.0.1:{a}"
    elif scheme == "vde":
        with vde_switch(path / "s"), open_link(f"vde://{path}/s") as link:
            yield link, f"vde://{path}/s"
    elif scheme == "ptp":
        with open_link(f"ptp://{path}/p") as link:
            yield link, f"ptp://{path}/p"
    else:
        with open_link(f"{scheme}://{path}/s") as link:
            yield link, f"vde://{path}/s"


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize(
    "scheme",
    [
        "ptp",
        "udp",
        pytest.param("vde", marks=pytest.mark.needs("vde_switch")),
        "switch",
        "hub",
        "multi",
        "bonding",
    ],
)
def test_an_end_that_is_killed_may_come_back(scheme: str, tmp_path: Path) -> None:
    with place_of(scheme, tmp_path) as (link, vnl):
        is_node = scheme not in ("ptp", "udp", "vde")
        with pumped(link) if is_node else contextlib.nullcontext():
            with end(vnl) as running:
                running.kill()
                running.wait()
        for _ in range(3):
            link.send_batch(numbered(3, to=BROADCAST))
            link.recv_batch()
        with contextlib.ExitStack() as stack:
            with pumped(link) if is_node else contextlib.nullcontext():
                back = stack.enter_context(open_link(vnl))
            # A switch may still have some of those before.
            hello, answer = numbered(5, to=BROADCAST)[3:]
            send_all(link, [hello])
            get(back, hello)
            send_all(back, [answer])
            get(link, answer)


# The command connection: vde_ctlfd.

PLUGS = pytest.mark.parametrize(
    "form",
    [
        "vde://{}",
        pytest.param("vlan://3{{vde://{}}}", marks=pytest.mark.needs("vde_vlan")),
    ],
)


@PLUGS
@pytest.mark.needs("vde_switch")
@pytest.mark.usefixtures("no_fd_leak")
def test_a_switch_that_ends_wakes_whoever_waits_for_its_plug(form: str, tmp_path: Path) -> None:
    with vde_switch(tmp_path / "s") as running:
        with VdeLink(form.format(tmp_path / "s")) as link:
            assert link.recv_batch() == []
            running.kill()
            wait_link(link, EventMask.IN)
            with pytest.raises(ConnectionResetError, match="has gone"):
                link.recv_batch()


@pytest.mark.needs("vde_switch")
@pytest.mark.usefixtures("no_fd_leak")
def test_a_plug_that_closes_does_not_disturb_the_others(tmp_path: Path) -> None:
    with vde_switch(tmp_path / "a") as running, vde_switch(tmp_path / "b"):
        with open_link(f"{tmp_path}/a") as doomed, open_link(f"{tmp_path}/b") as one:
            with open_link(f"{tmp_path}/b") as other:
                close_in_a_child(other)
                running.kill()
                wait_link(doomed, EventMask.IN)
                send_all(one, numbered(1, to=BROADCAST))
                assert receive(other, 1) == numbered(1, to=BROADCAST)
            assert one.recv_batch() == []
    assert not any("vde-hangup" in thread.name for thread in threading.enumerate())


@pytest.mark.needs("vde_switch", "lwip")
@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_a_stack_that_is_idle_notices_that_its_switch_has_ended(loop: str, tmp_path: Path) -> None:
    async def main(running: subprocess.Popen[bytes]) -> None:
        lost = asyncio.Event()

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "has lost its link" in record.getMessage():
                    lost.set()

        listener = Listener()
        log = logging.getLogger("vpoll_asyncio.stacks.lwip")
        log.addHandler(listener)
        try:
            running.kill()
            async with asyncio.timeout(PATIENCE):
                await lost.wait()
        finally:
            log.removeHandler(listener)

    with vde_switch(tmp_path / "s") as running:
        with va.open_stack("lwip", vnl=f"vde://{tmp_path}/s", ip="10.0.0.1/24") as stack:
            va.run(main(running), loop=loop, stack=stack)
            error = getattr(stack, "link_error", None)
            assert isinstance(error, OSError)
            assert error.errno == errno.ECONNRESET


# Commands and lines.


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.parametrize("command", ["cat", "true", "exit 3", "exec sleep 0"])
@pytest.mark.usefixtures("no_fd_leak")
def test_a_commands_process_is_gone_when_its_link_is_closed(command: str) -> None:
    before = children()
    with open_link(f"cmd://{command}"):
        pass
    assert children() == before


@pytest.mark.needs("vde_vdesl")
@pytest.mark.usefixtures("no_fd_leak")
def test_a_line_that_is_cut_is_a_reset() -> None:
    ours, line = os.openpty()
    with open_link(f"vdesl://{os.ttyname(line)}") as link:
        os.close(line)
        os.close(ours)
        wait_link(link, EventMask.IN)
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="has gone"):
                link.recv_batch()


@pytest.mark.parametrize(
    ("vnl", "missing"), [("nosuch://x", "nosuch"), ("vlan://3{vlan://4{wire://lab}}", "wire")]
)
@pytest.mark.needs("vde_vlan")
def test_the_plugin_that_is_missing_is_named_however_deep_it_is(vnl: str, missing: str) -> None:
    with pytest.raises(OSError, match=f"no plugin for {missing}://") as caught:
        VdeLink(vnl)
    assert caught.value.errno == errno.EPROTONOSUPPORT


@pytest.mark.needs("vde_vlan")
def test_a_locator_that_lacks_the_inner_one_says_what_the_form_is() -> None:
    with pytest.raises(OSError, match=r"vlan://NUMBER\{LOCATOR\}"):
        open_link("vlan://3")


@pytest.mark.parametrize("inner", ["switch://{}/s", "ptp://{}/p"])
@pytest.mark.usefixtures("no_fd_leak")
def test_a_bad_network_and_a_capture_go_around_a_plug(inner: str, tmp_path: Path) -> None:
    vnl = f"netem://delay=5ms{{pcap://{tmp_path}/x.pcap{{{inner.format(tmp_path)}}}}}"
    with open_link(vnl) as link, contextlib.ExitStack() as stack:
        with pumped(link) if "switch" in inner else contextlib.nullcontext():
            far = stack.enter_context(
                open_link(inner.format(tmp_path).replace("switch://", "vde://"))
            )
        link.send_batch(numbered(1, to=BROADCAST))
        while not (got := link.recv_batch() or far.recv_batch()):
            wait_link(link, EventMask.IN)
        assert got == numbered(1, to=BROADCAST)
        send_all(far, numbered(2, to=BROADCAST))
        assert receive(link, 2) == numbered(2, to=BROADCAST)
    assert frames_of((tmp_path / "x.pcap").read_bytes())[:1] == numbered(1, to=BROADCAST)
