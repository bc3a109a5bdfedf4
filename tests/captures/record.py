"""Record what Linux sends to a host: ``unshare -n python tests/captures/record.py FILE``.

As root.  The kernel talks to lwIP over a TAP, and every frame that it sends is written to
FILE, a classic pcap.  ``linux.pcap`` beside this file was made so; tests mutate its frames.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import vpoll_asyncio as va
from vpoll_asyncio.links import Link, TapLink

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lwip_frames import MAC, PEER_MAC
from lwip_helpers import HOST4, HOST6, PEER4, PEER6

ECHO, DISCARD, CLOSED = 80, 53, 9


class Recorder(Link):
    """A TAP whose incoming frames are kept."""

    def __init__(self, link: TapLink) -> None:
        self._link = link
        self.frames: list[bytes] = []

    @property
    def pollable(self) -> int:
        return self._link.pollable

    def recv_batch(self, limit: int = 64) -> list[bytes]:
        frames = self._link.recv_batch(limit)
        self.frames += frames
        return frames

    def send_batch(self, frames: Sequence[bytes]) -> int:
        return self._link.send_batch(frames)

    def close(self) -> None:
        self._link.close()

    @property
    def closed(self) -> bool:
        return self._link.closed


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _serve(listener: socket.socket) -> None:
    """Echo what comes, one connection after the other, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(1000):
                    connection.sendall(data)


@contextlib.contextmanager
def _lwip() -> Iterator[Recorder]:
    recorder = Recorder(TapLink("tap0"))
    _ip("link", "set", "tap0", "address", PEER_MAC.hex(":"))
    Path("/proc/sys/net/ipv4/tcp_ecn").write_text("1")
    _ip("address", "add", f"{PEER4}/24", "dev", "tap0")
    _ip("address", "add", f"{PEER6}/64", "dev", "tap0", "nodad")
    _ip("link", "set", "tap0", "up")
    with va.open_stack("lwip", link=recorder, ip=[f"{HOST4}/24", f"{HOST6}/64"], mac=MAC) as stack:
        with (
            stack.socket(socket.AF_INET6) as listener,
            stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sink,
        ):
            listener.bind(("::", ECHO))
            listener.listen()
            sink.bind(("::", DISCARD))
            threading.Thread(target=_serve, args=(listener,), daemon=True).start()
            yield recorder


def _talk(six: bool) -> None:
    family, host = (socket.AF_INET6, HOST6) if six else (socket.AF_INET, HOST4)
    for payload in (b"hello", bytes(5000), b""):
        with socket.create_connection((host, ECHO), timeout=20) as sock:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    with socket.create_connection((host, ECHO), timeout=20) as sock:
        sock.send(b"!", socket.MSG_OOB)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(ConnectionError):
        socket.create_connection((host, CLOSED), timeout=20).close()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for size in (0, 1, 100, 1400, 4000):
            sock.sendto(bytes(size), (host, DISCARD))
        sock.settimeout(20)
        sock.connect((host, CLOSED))
        sock.send(b"nobody")
        with contextlib.suppress(ConnectionError):
            sock.recv(1)
        # IGMP and MLD.
        if six:
            group = socket.inet_pton(family, "ff02::42") + struct.pack("@I", 0)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        else:
            group = socket.inet_aton("239.1.2.3") + socket.inet_aton(PEER4)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(20)
        for size in (8, 1000, 4000):
            echo = bytes([128 if six else 8, 0, 0, 0]) + bytes(size)
            if not six:
                total = sum(struct.unpack(f"!{len(echo) // 2}H", echo))
                total = (total & 0xFFFF) + (total >> 16)
                echo = echo[:2] + struct.pack("!H", ~total & 0xFFFF) + echo[4:]
            sock.sendto(echo, (host, 0))
        sock.recv(65536)


def main(path: str) -> None:
    with _lwip() as recorder:
        _talk(False)
        _talk(True)
        # The kernel takes its time with IGMP.
        for _ in range(100):
            if any(frame[12:14] == b"\x08\x00" and frame[23] == 2 for frame in recorder.frames):
                break
            time.sleep(0.1)
        frames = recorder.frames[:]
    # The same frame twice says nothing new.
    frames = list(dict.fromkeys(frames))
    with Path(path).open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("<IIII", 0, number, len(frame), len(frame)) + frame)
    sys.stdout.write(f"{len(frames)} frames, {sum(map(len, frames))} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1])
