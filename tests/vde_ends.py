"""Two ends of each kind of VDE network, and what must hold between any two.

The checks take frames one at a time where the kind drops what a slow port does not read.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from link_helpers import (
    BROADCAST,
    MAC,
    PEER_MAC,
    ip,
    numbered,
    receive_that,
    send_all,
)
from vpoll_asyncio.links import FdLink, Link, VdeLink

Ends = tuple[Link, Link]


class Kind(NamedTuple):
    """A kind of network."""

    open: Callable[[Path, int], contextlib.AbstractContextManager[Ends]]
    """Opens two ends, with that mtu, in a folder of their own."""
    lossless: bool
    """Whether a sender is held when the receiver does not read."""
    needs: tuple[str, ...]
    """Names of tests/needs.py; with ``netns`` among them it runs in a namespace."""
    mtu: int = 9000
    """What it can carry."""
    end: tuple[type[OSError], ...] = ()
    """What the other end may raise when one is closed."""


@contextlib.contextmanager
def pumped(link: Link) -> Iterator[None]:
    """Let a switch or hub answer newcomers from another thread, frames aside."""
    stop_read, stop_write = os.pipe()

    def pump() -> None:
        poll = select.poll()
        assert isinstance(link.pollable, int)
        poll.register(link.pollable, select.POLLIN)
        poll.register(stop_read, select.POLLIN)
        while stop_read not in {fd for fd, _ in poll.poll()}:
            link.recv_batch()

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        os.close(stop_write)
        thread.join()
        os.close(stop_read)


@contextlib.contextmanager
def vde_switch(path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        ["vde_switch", "-s", str(path), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                # There is nothing that tells of the socket: only trying does.
                while probe.connect_ex(f"{path}/ctl"):
                    assert running.poll() is None, "vde_switch ended"
            yield running
        finally:
            running.kill()


@contextlib.contextmanager
def two(one: str, other: str, mtu: int) -> Iterator[Ends]:
    with VdeLink(one, mtu=mtu) as near, VdeLink(other, mtu=mtu) as far:
        yield near, far


def same(form: str) -> Callable[[Path, int], contextlib.AbstractContextManager[Ends]]:
    """Both ends have one locator."""
    return lambda path, mtu: two(form.format(path), form.format(path), mtu)


@contextlib.contextmanager
def at_a_switch(path: Path, mtu: int) -> Iterator[Ends]:
    with vde_switch(path / "s"), two(f"vde://{path}/s", f"{path}/s", mtu) as ends:
        yield ends


def ours(scheme: str) -> Callable[[Path, int], contextlib.AbstractContextManager[Ends]]:
    """A node of this process, and a plug in it."""

    @contextlib.contextmanager
    def opened(path: Path, mtu: int) -> Iterator[Ends]:
        with VdeLink(f"{scheme}://{path}/s", mtu=mtu) as near:
            with contextlib.ExitStack() as stack:
                with pumped(near):
                    far = stack.enter_context(VdeLink(f"vde://{path}/s", mtu=mtu))
                yield near, far

    return opened


def free_udp_ports() -> tuple[int, int]:
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


def over_udp(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    a, b = free_udp_ports()
    return two(f"udp://127.0.0.1:{a}->127.0.0.1:{b}", f"udp://127.0.0.1:{b}->127.0.0.1:{a}", mtu)


def over_seqpacket(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return two(f"seqpacket://{one.detach()}", f"seqpacket://{other.detach()}", mtu)


def through_a_command(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    return two(f"cmd://vde_plug ptp://{path}/p", f"ptp://{path}/p", mtu)


@contextlib.contextmanager
def over_a_serial_line(path: Path, mtu: int) -> Iterator[Ends]:
    a_master, a = pty.openpty()
    b_master, b = pty.openpty()
    for fd in (a, b):
        tty.setraw(fd)
    stop_read, stop_write = os.pipe()

    def carry() -> None:
        poll = select.poll()
        for fd in (a_master, b_master, stop_read):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == stop_read:
                    return
                os.write(b_master if fd == a_master else a_master, os.read(fd, 4096))

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        with two(f"vdesl://{os.ttyname(a)}", f"vdesl://{os.ttyname(b)}", mtu) as ends:
            yield ends
    finally:
        os.close(stop_write)
        thread.join()
        for fd in (stop_read, a_master, b_master, a, b):
            os.close(fd)


def with_tags(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    nested = f"{{ptp://{path}/p}}"
    return two(f"vlan://3{nested}", f"vlan://3{nested}", mtu)


def encrypted(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    key = path / "key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    nested = f"{key}{{ptp://{path}/p}}"
    return two(f"agno://{nested}", f"agno://{nested}", mtu)


def number_of(path: Path) -> int:
    """What tells the networks of `several_are_apart` from each other, and from the others."""
    return {"a": 1, "b": 2}.get(path.name, 3)


def by_multicast(path: Path, mtu: int) -> contextlib.AbstractContextManager[Ends]:
    ip("link", "set", "lo", "up")
    ip("route", "replace", "224.0.0.0/4", "dev", "lo")
    group = f"vxvde://239.0.0.{number_of(path)}"
    return two(group, group, mtu)


def quiet(name: str, mtu: int) -> None:
    """Set an interface up that sends nothing by itself."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    ip("link", "set", name, "mtu", str(mtu), "up")


@contextlib.contextmanager
def at_interfaces(path: Path, mtu: int) -> Iterator[Ends]:
    one, other = f"vea{number_of(path)}", f"veb{number_of(path)}"
    ip("link", "add", one, "type", "veth", "peer", "name", other)
    try:
        for name in (one, other):
            quiet(name, mtu)
        with two(f"pcap://{one}", f"pcap://{other}", mtu) as ends:
            yield ends
    finally:
        ip("link", "delete", one)


@contextlib.contextmanager
def at_a_tap(path: Path, mtu: int) -> Iterator[Ends]:
    """libvdeplug's own plugin; what the kernel has of the interface is the other end."""
    name = f"vdetap{number_of(path)}"
    with VdeLink(f"tap://{name}", mtu=mtu) as near:
        quiet(name, mtu)
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind((name, 0))
        with FdLink(sock, mtu=mtu) as far:
            yield near, far


KINDS: dict[str, Kind] = {
    "ptp": Kind(same("ptp://{}/p"), True, ()),
    "udp": Kind(over_udp, False, ()),
    "vde": Kind(at_a_switch, False, ("vde_switch",), mtu=1500),
    "switch": Kind(ours("switch"), False, (), end=(ConnectionResetError,)),
    "hub": Kind(ours("hub"), False, (), end=(ConnectionResetError,)),
    "multi": Kind(ours("multi"), False, (), end=(ConnectionResetError,)),
    "bonding": Kind(ours("bonding"), False, (), end=(ConnectionResetError,)),
    "seqpacket": Kind(over_seqpacket, True, (), end=(ConnectionResetError,)),
    "cmd": Kind(through_a_command, True, ("vde_plug",), end=(ConnectionResetError,)),
    "vdesl": Kind(over_a_serial_line, True, ("vde_vdesl",), mtu=1500),
    "vlan": Kind(with_tags, True, ("vde_vlan",)),
    "agno": Kind(encrypted, True, ("vde_agno",)),
    "vxvde": Kind(by_multicast, False, ("netns", "ip")),
    "tap": Kind(at_a_tap, False, ("tap", "netns", "ip"), end=(OSError,)),
    "pcap": Kind(at_interfaces, False, ("vde_pcap", "root", "netns", "ip")),
}


def get(link: Link, frame: bytes) -> None:
    """Wait for `frame`, of which the kernel may have other ones before it."""
    assert receive_that(link, lambda found: found[:1] != b"" and found == frame) == frame


def frames_pass_both_ways(kind: Kind, path: Path) -> None:
    with kind.open(path, 1500) as (one, other):
        for n, size in enumerate((60, 61, 400, 1400, 1500) * 4):
            to = BROADCAST if n == 0 else PEER_MAC
            frame = numbered(n + 1, to=to, size=size)[n]
            send_all(one, [frame])
            get(other, frame)
            answer = numbered(n + 1, source=PEER_MAC, to=MAC, size=size)[n]
            send_all(other, [answer])
            get(one, answer)
        assert one.dropped == other.dropped == 0


def several_are_apart(kind: Kind, path: Path) -> None:
    (path / "a").mkdir()
    (path / "b").mkdir()
    with kind.open(path / "a", 1500) as (a, a_far), kind.open(path / "b", 1500) as (b, b_far):
        for link, far, byte in ((a, a_far, 1), (b, b_far, 2)):
            frame = numbered(1, to=BROADCAST)[0] + bytes([byte])
            send_all(link, [frame])
            get(far, frame)
        for link in (a, a_far, b, b_far):
            assert link.recv_batch() == []


def one_may_close_while_frames_wait(kind: Kind, path: Path) -> None:
    with kind.open(path, 1500) as (one, other):
        assert other.send_batch(numbered(5, to=BROADCAST)) == 5
        one.close()
        with contextlib.suppress(*kind.end):
            for _ in range(3):
                other.send_batch(numbered(5, to=BROADCAST))
                other.recv_batch()


def the_order_is_kept_when_it_is_full(kind: Kind, path: Path) -> None:
    *frames, last = numbered(1500, size=1000, to=BROADCAST)
    with kind.open(path, 1500) as (one, other):
        # Some plugins wait until the other side has read.
        sender = threading.Thread(target=send_all, args=(one, frames))
        sender.start()
        got = list[bytes]()
        while sender.is_alive() or got[-1:] != [last]:
            if not sender.is_alive():
                one.send_batch([last])
            got += [f for f in other.recv_batch() if f[12:14] == last[12:14]]
        sender.join()
        while got[-2:] == [last, last]:
            got.pop()
        assert got == sorted(set(got))
        if kind.lossless:
            assert got == [*frames, last]
            assert one.dropped == 0


def jumbo_frames_pass_and_longer_ones_are_counted(kind: Kind, path: Path) -> None:
    with kind.open(path, kind.mtu) as (one, other):
        [frame] = numbered(1, to=BROADCAST, size=kind.mtu)
        send_all(one, [frame])
        get(other, frame)
        before = one.dropped
        send_all(one, numbered(1, to=BROADCAST, size=kind.mtu + 100))
        assert one.dropped == before + 1
        assert all(len(found) <= kind.mtu for found in other.recv_batch())


CHECKS = (
    frames_pass_both_ways,
    several_are_apart,
    one_may_close_while_frames_wait,
    the_order_is_kept_when_it_is_full,
    jumbo_frames_pass_and_longer_ones_are_counted,
)
