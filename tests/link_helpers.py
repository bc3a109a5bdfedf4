"""What the links' tests share: hand-made frames, waiting for states, namespaces."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.links import Link

MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
BROADCAST = b"\xff" * 6
PATIENCE = 20.0
"""Seconds after which a state that does not come is a failure."""


def wait_link(link: Link, mask: EventMask) -> None:
    """Wait until `link` shows an event of `mask`; fail the test if it never does."""
    pollable = link.pollable
    if isinstance(pollable, VPoll):
        assert pollable.wait(mask, PATIENCE), f"{link!r} never showed {mask!r}"
        return
    poll = select.poll()
    poll.register(pollable, int(mask))
    assert poll.poll(PATIENCE * 1000), f"{link!r} never showed {mask!r}"


def is_ready(link: Link, mask: EventMask) -> bool:
    pollable = link.pollable
    if isinstance(pollable, VPoll):
        return bool(pollable.events & mask)
    poll = select.poll()
    poll.register(pollable, int(mask))
    return any(events & mask for _, events in poll.poll(0))


def receive(link: Link, count: int) -> list[bytes]:
    """Return the next `count` frames of `link`."""
    frames: list[bytes] = []
    while len(frames) < count:
        wait_link(link, EventMask.IN)
        frames += link.recv_batch(count - len(frames))
    return frames


def receive_that(link: Link, wanted: Callable[[bytes], bool]) -> bytes:
    """Return the first frame that `wanted` accepts; a network has other traffic too."""
    while True:
        [frame] = receive(link, 1)
        if wanted(frame):
            return frame


def send_all(link: Link, frames: list[bytes]) -> int:
    """Send every frame, waiting where the link is full; return how often it was."""
    waits = 0
    while frames:
        frames = frames[link.send_batch(frames) :]
        if frames:
            waits += 1
            wait_link(link, EventMask.OUT)
    return waits


def numbered(
    count: int, *, size: int = 100, source: bytes = MAC, to: bytes = PEER_MAC
) -> list[bytes]:
    """Return Ethernet frames that carry their number, of an experimental EtherType."""
    head = to + source + b"\x88\xb5"
    return [(head + n.to_bytes(4, "big")).ljust(size, b".") for n in range(count)]


def packets(count: int, *, version: int = 6, size: int = 60) -> list[bytes]:
    """Return what passes for IP packets, numbered."""
    return [bytes([version << 4]) + n.to_bytes(4, "big") + b"." * (size - 5) for n in range(count)]


def ethernet(to: bytes, kind: int, payload: bytes) -> bytes:
    return to + MAC + struct.pack("!H", kind) + payload


def arp(operation: int, own_ip: str, ip: str, to: bytes = BROADCAST) -> bytes:
    """Return an ARP frame (1: who has `ip`?  2: `own_ip` is at `MAC`)."""
    target = b"\0" * 6 if operation == 1 else to
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += MAC + socket.inet_aton(own_ip) + target + socket.inet_aton(ip)
    return ethernet(to, 0x0806, body)


def is_arp(operation: int, sender: str) -> Callable[[bytes], bool]:
    """Return a test for ARP frames of `operation` that `sender` has sent."""

    def wanted(frame: bytes) -> bool:
        return (
            frame[12:14] == b"\x08\x06"
            and frame[20:22] == struct.pack("!H", operation)
            and frame[28:32] == socket.inet_aton(sender)
        )

    return wanted


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def echo_request(payload: bytes) -> bytes:
    """Return an ICMP echo request."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + payload
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def is_echo_reply(packet: bytes, source: str, payload: bytes) -> bool:
    return (
        packet[9:10] == b"\x01"
        and packet[12:16] == socket.inet_aton(source)
        and packet[20:21] == b"\x00"
        and packet[28:] == payload
    )


def udp(source: str, source_port: int, to: str, port: int, payload: bytes) -> bytes:
    """Return an IPv4 packet with a UDP datagram, without the optional checksum."""
    head = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    return ipv4(source, to, 17, head + payload)


def close_in_a_child(link: Link) -> None:
    """Fork, and let the child close its copy of `link`."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            link.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run_in_namespace(body: Callable[[], None], *, seconds: float = 120) -> None:
    """Run a module's function in a process of its own, in a network namespace of its own.

    Warnings are errors there, and one that is only printed fails the test too.  `seconds`
    is the longest that it may take.
    """
    tests = Path(__file__).parent
    command = ["unshare", "-n"]
    if os.geteuid() != 0:
        command += ["-U", "-r"]
    source = f"import {body.__module__} as m; m.{body.__name__}()"
    done = subprocess.run(
        [*command, sys.executable, "-X", "dev", "-W", "error", "-c", source],
        env=os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr


def ip(*arguments: str) -> None:
    """Run iproute2's ip, inside of a namespace."""
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)
