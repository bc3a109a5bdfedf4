"""VdeLink over every plugin that can be had without leaving the machine."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from link_helpers import (
    BROADCAST,
    MAC,
    PATIENCE,
    PEER_MAC,
    close_in_a_child,
    ip,
    is_ready,
    numbered,
    receive,
    run_in_namespace,
    send_all,
    wait_link,
)
from vde_ends import pumped, vde_switch
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import VdeLink, open_link

pytestmark = pytest.mark.needs("vde")

TESTS = Path(__file__).parent

# A second process: sends every frame back with its addresses swapped.
ECHO = """
import sys
from link_helpers import receive, send_all
from vpoll_asyncio.links import open_link
with open_link(sys.argv[1]) as link:
    print("open", flush=True)
    for _ in range(int(sys.argv[2])):
        [frame] = receive(link, 1)
        send_all(link, [frame[6:12] + frame[:6] + frame[12:]])
    sys.stdin.read()
"""


@contextlib.contextmanager
def process(source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
    ) as child:
        try:
            yield child
            child.communicate(timeout=PATIENCE)
            assert child.returncode == 0
        finally:
            child.kill()


def swapped(frames: list[bytes]) -> list[bytes]:
    return [f[6:12] + f[:6] + f[12:] for f in frames]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_ptp_joins_two_processes_without_loss(tmp_path: Path) -> None:
    frames = numbered(500, size=1500)
    with (
        open_link(f"ptp://{tmp_path}/p") as link,
        process(ECHO, f"ptp://{tmp_path}/p", "500") as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        rest, got = frames, list[bytes]()
        while len(got) < len(frames):
            if rest and is_ready(link, EventMask.OUT):
                rest = rest[link.send_batch(rest) :]
            got += link.recv_batch()
        assert got == swapped(frames)
        assert link.dropped == 0


def test_ptp_without_a_peer_is_an_unplugged_cable(tmp_path: Path) -> None:
    with open_link(f"ptp://{tmp_path}/p") as link:
        assert link.send_batch(numbered(3)) == 3
        assert link.dropped == 3
        with open_link(f"ptp://{tmp_path}/p") as peer:
            assert link.send_batch(numbered(3)) == 3
            assert receive(peer, 3) == numbered(3)
        assert link.send_batch(numbered(3)) == 3
        assert link.recv_batch() == []
        with open_link(f"ptp://{tmp_path}/p") as peer:
            send_all(link, numbered(2))
            assert receive(peer, 2) == numbered(2)
        assert link.dropped == 6


def test_a_full_ptp_takes_fewer_and_becomes_writable_again(tmp_path: Path) -> None:
    with open_link(f"ptp://{tmp_path}/p") as link, open_link(f"ptp://{tmp_path}/p") as peer:
        frames = numbered(3000, size=1000)
        taken = link.send_batch(frames)
        assert 0 < taken < 3000
        assert not is_ready(link, EventMask.OUT)
        assert receive(peer, taken) == frames[:taken]
        wait_link(link, EventMask.OUT)
        assert link.dropped == 0


def test_udp_carries_frames_over_the_loopback() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        a, b = one.getsockname()[1], other.getsockname()[1]
    with open_link(f"udp://127.0.0.1:{a}->127.0.0.1:{b}") as link:
        # Nobody listens there yet: the refusals cost frames only.
        for _ in range(3):
            assert link.send_batch(numbered(1)) == 1
            link.recv_batch()
        with open_link(f"udp://127.0.0.1:{b}->127.0.0.1:{a}") as peer:
            send_all(peer, numbered(20))
            assert receive(link, 20) == numbered(20)


def test_null_takes_everything_and_gives_nothing() -> None:
    with open_link("null://") as link:
        assert link.send_batch(numbered(200)) == 200
        assert link.recv_batch() == []
        assert not is_ready(link, EventMask.IN)


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A vde_switch: its path and its process."""
    path = tmp_path / "switch"
    with vde_switch(path) as running:
        yield str(path), running


@pytest.mark.needs("vde_switch")
@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("form", ["vde://{}", "{}"])
def test_two_plugs_of_a_vde_switch_reach_each_other(
    switch: tuple[str, subprocess.Popen[bytes]], form: str
) -> None:
    vnl = form.format(switch[0])
    with open_link(vnl) as one, open_link(vnl) as other:
        for number in range(50):
            to = BROADCAST if number == 0 else PEER_MAC
            [frame] = numbered(1, to=to)
            send_all(one, [frame])
            assert receive(other, 1) == [frame]
            [answer] = numbered(1, source=PEER_MAC, to=MAC)
            send_all(other, [answer])
            assert receive(one, 1) == [answer]
        assert one.dropped == other.dropped == 0


@pytest.mark.needs("vde_switch")
def test_a_vde_switch_that_ends_is_a_reset(switch: tuple[str, subprocess.Popen[bytes]]) -> None:
    path, running = switch
    with open_link(path) as link:
        assert link.send_batch(numbered(1)) == 1
        running.kill()
        running.wait()
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="has gone"):
                link.send_batch(numbered(1))
        with pytest.raises(ConnectionResetError, match="has gone"):
            link.recv_batch()


@pytest.mark.needs("vde_switch")
def test_an_idle_plug_notices_that_its_switch_has_ended(
    switch: tuple[str, subprocess.Popen[bytes]],
) -> None:
    path, running = switch
    with open_link(path) as link:
        assert link.recv_batch() == []
        running.kill()
        running.wait()
        with pytest.raises(ConnectionResetError, match="has gone"):
            link.recv_batch()


def test_no_switch_at_that_path_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is vde_switch running"):
        open_link(f"vde://{tmp_path}/none")


@pytest.mark.parametrize("scheme", ["switch", "hub"])
def test_processes_join_a_switch_or_hub_of_ours(scheme: str, tmp_path: Path) -> None:
    frames = numbered(100)
    with open_link(f"{scheme}://{tmp_path}/s") as link:
        assert link.native is not None
        assert link.native.batch == 1
        with process(ECHO, f"vde://{tmp_path}/s", "100") as child:
            assert child.stdout is not None
            assert isinstance(link, VdeLink)
            with pumped(link):
                assert child.stdout.readline() == "open\n"
            for frame in frames:
                # One at a time: a switch drops what its port has no room for.
                send_all(link, [frame])
                assert receive(link, 1) == swapped([frame])
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("no_fd_leak")
def test_a_switch_goes_on_after_a_port_has_gone(tmp_path: Path) -> None:
    with open_link(f"switch://{tmp_path}/s") as link:
        assert isinstance(link, VdeLink)
        for _ in range(3):
            with contextlib.ExitStack() as ports:
                with pumped(link):
                    ports.enter_context(open_link(f"vde://{tmp_path}/s"))
                    port = ports.enter_context(open_link(f"vde://{tmp_path}/s"))
                send_all(port, numbered(1, to=BROADCAST))
                assert receive(link, 1) == numbered(1, to=BROADCAST)
            assert link.send_batch(numbered(5)) == 5
            while is_ready(link, EventMask.IN):
                link.recv_batch()
        assert link.send_batch(numbered(5)) == 5


@pytest.mark.parametrize("scheme", ["switch", "hub"])
def test_a_switch_needs_a_path_that_is_free(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(FileExistsError, match="must not exist"):
        open_link(f"{scheme}://{tmp_path}/s")


def test_a_blocking_plugin_is_never_entered_without_a_frame(tmp_path: Path) -> None:
    with open_link(f"hub://{tmp_path}/h") as link:
        assert link.recv_batch() == []
        assert link.recv_batch(limit=1) == []


def test_a_command_carries_frames() -> None:
    with open_link("cmd://cat") as link:
        for frame in numbered(20):
            send_all(link, [frame])
            assert receive(link, 1) == [frame]


@pytest.mark.usefixtures("no_fd_leak")
def test_a_command_that_ends_is_a_reset() -> None:
    with open_link("cmd://true") as link:
        wait_link(link, EventMask.IN)
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="has gone"):
                link.recv_batch()


def two_hosts_meet_over_vxvde() -> None:
    ip("link", "set", "lo", "up")
    ip("route", "add", "224.0.0.0/4", "dev", "lo")
    before = descriptors()
    for _ in range(3):
        with open_link("vxvde://239.0.0.1") as one, open_link("vxvde://239.0.0.1") as other:
            [hello] = numbered(1, to=BROADCAST)
            send_all(one, [hello])
            assert receive(other, 1) == [hello]
            [answer] = numbered(1, source=PEER_MAC, to=MAC)
            send_all(other, [answer])
            assert receive(one, 1) == [answer]
            assert one.recv_batch() == []
        assert descriptors() == before


@pytest.mark.needs("netns", "ip")
def test_vxvde_joins_hosts_by_multicast_in_a_namespace() -> None:
    run_in_namespace(two_hosts_meet_over_vxvde)


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("scheme", ["ptp", "switch", "hub", "multi", "bonding"])
def test_close_gives_back_descriptors_and_names(scheme: str, tmp_path: Path) -> None:
    for _ in range(5):
        link = open_link(f"{scheme}://{tmp_path}/x")
        link.close()
        link.close()
        assert link.closed
        assert list(tmp_path.iterdir()) == []


def test_a_closed_link_says_ebadf(tmp_path: Path) -> None:
    link = open_link(f"ptp://{tmp_path}/p")
    link.close()
    for use in (lambda: link.pollable, link.recv_batch, lambda: link.send_batch([])):
        with pytest.raises(OSError, match="is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert link.native is None
    assert "closed" in repr(link)


def test_the_native_port_is_vdeplugs_own_functions(tmp_path: Path) -> None:
    with open_link(f"ptp://{tmp_path}/p") as link, open_link(f"ptp://{tmp_path}/p") as peer:
        port = link.native
        assert port is not None
        assert port.fd == link.pollable
        [frame] = numbered(1)
        send = ctypes.CFUNCTYPE(
            ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
        )(port.send)
        assert send(port.context, frame, len(frame), 0) == len(frame)
        assert receive(peer, 1) == [frame]


@pytest.mark.parametrize("scheme", ["ptp", "switch"])
def test_a_child_that_closes_its_copy_leaves_the_name_in_place(scheme: str, tmp_path: Path) -> None:
    with open_link(f"{scheme}://{tmp_path}/x") as link:
        close_in_a_child(link)
        assert (tmp_path / "x").exists()
    assert not (tmp_path / "x").exists()


def test_one_that_is_collected_open_warns_and_closes(tmp_path: Path) -> None:
    held: list[object] = [open_link(f"ptp://{tmp_path}/p")]
    held.append(held)
    del held
    with pytest.warns(ResourceWarning, match=r"unclosed <VdeLink ptp://"):
        gc.collect()
    assert list(tmp_path.iterdir()) == []
