"""A host with two interfaces, lwIP or the kernel, whose two networks are the test itself."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from link_helpers import PATIENCE, ip
from lwip_frames import ethernet, icmp, packed
from vpoll_asyncio.links import Link, TapLink, open_link, wire_pair
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack

NAMES = ("vde0", "vde1")
OWN4, NEAR4 = ("10.0.0.1", "10.1.0.1"), ("10.0.0.9", "10.1.0.9")
"""The host's addresses, and those of a neighbour in each network; all of them /24."""
OWN6, NEAR6 = ("fd00::1", "fd01::1"), ("fd00::9", "fd01::9")
"""The same in IPv6, /64."""
NEAR_LOCAL = "fe80::9"
"""A neighbour in either network."""
MACS = (bytes.fromhex("020000000010"), bytes.fromhex("020000000011"))
NEAR_MACS = (bytes.fromhex("0200000000a0"), bytes.fromhex("0200000000a1"))

Wanted = Callable[[bytes], bool]


class Configuration(Protocol):
    """What is different about the two hosts."""

    def socket(self, family: int, type: int) -> socket.socket: ...
    def index(self, name: str) -> int: ...
    def advance(self) -> None: ...
    def add_address(self, name: str, address: str) -> None: ...
    def add_route(self, network: str, via: str | None, name: str) -> None: ...
    def set_up(self, name: str, up: bool) -> None: ...
    def remove(self, name: str) -> None: ...


class Host:
    """The host, and the frames of its two networks.

    Whoever is asked for is there: neighbours' hardware addresses are told as in `NEAR_MACS`.
    """

    def __init__(self, host: Configuration, ends: tuple[Link, Link]) -> None:
        self.host = host
        self._ends = ends
        self.seen: tuple[list[bytes], list[bytes]] = ([], [])
        """What the host has sent into each network."""
        self._kept = contextlib.ExitStack()
        self._gone: set[int] = set()

    def close(self) -> None:
        self._kept.close()

    def open(self, type: int, family: int = socket.AF_INET) -> socket.socket:
        """A socket of the host, which does not block."""
        sock = self._kept.enter_context(self.host.socket(family, type))
        sock.setblocking(False)
        return sock

    def datagrams(self, family: int = socket.AF_INET, device: str = "") -> socket.socket:
        sock = self.open(socket.SOCK_DGRAM, family)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        return sock

    def remove(self, side: int) -> None:
        """Take the interface of a side away from the host."""
        self._gone.add(side)
        self.host.remove(NAMES[side])

    def send(self, side: int, packet: bytes) -> None:
        """Let the neighbour of a side send an IP packet."""
        kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        self.send_frame(side, ethernet(packet, kind, dst=MACS[side], src=NEAR_MACS[side]))

    def send_frame(self, side: int, sent: bytes) -> None:
        assert self._ends[side].send_batch([sent]) == 1
        self.host.advance()

    def pump(self) -> None:
        """Take what the host has sent, and answer its questions for neighbours."""
        self.host.advance()
        for side, end in enumerate(self._ends):
            if side in self._gone:
                continue
            for received in end.recv_batch(256):
                self.seen[side].append(received)
                if (answer := _answer(received, side)) is not None:
                    self.send_frame(side, answer)

    def sent(self, side: int, wanted: Wanted) -> bytes:
        """Wait for a frame of the host in the network of `side`, and return it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.pump()
            for one in self.seen[side]:
                if wanted(one):
                    return one
            assert time.monotonic() < deadline, [one.hex() for one in self.seen[side]]

    def settle(self) -> None:
        """Wait until the host has done what it was given before: it answers in order."""
        for side in (0, 1):
            if side not in self._gone:
                self.reply_to(side, NEAR4[side], OWN4[side])

    def never(self, side: int, wanted: Wanted) -> bool:
        """Whether the host has sent no such frame into the network of `side`."""
        self.settle()
        return not any(map(wanted, self.seen[side]))

    def forget(self) -> None:
        for side in self.seen:
            side.clear()

    def reply_to(self, side: int, source: str, to: str) -> bytes:
        """Ping the host, and return its reply."""
        kind = 128 if ":" in to else 8
        token = time.monotonic_ns().to_bytes(8, "big")
        self.send(side, icmp(kind, 0, b"\0\1\0\1" + token, source, to))
        return self.sent(side, lambda one: token in one)


def udp_to(address: str, payload: bytes) -> Wanted:
    """Whether a frame has a datagram with `payload` for `address`."""
    at = 38 if ":" in address else 30
    size = 16 if ":" in address else 4
    return lambda one: one[at : at + size] == packed(address) and one.endswith(payload)


def source_of(one: bytes) -> str:
    """The sender of the IP packet in a frame."""
    if one[12:14] == b"\x86\xdd":
        return socket.inet_ntop(socket.AF_INET6, one[22:38])
    return socket.inet_ntop(socket.AF_INET, one[26:30])


def asks_for(address: str) -> Wanted:
    """Whether a frame asks for the hardware address of `address`."""
    if ":" in address:
        return lambda one: (
            one[20:21] == b"\x3a" and one[54:55] == b"\x87" and one[62:78] == packed(address)
        )
    return lambda one: (
        one[12:14] == b"\x08\x06" and one[20:22] == b"\0\1" and one[38:42] == packed(address)
    )


def _answer(received: bytes, side: int) -> bytes | None:
    """The neighbour's answer to a question for a hardware address, None to anything else."""
    mac = NEAR_MACS[side]
    if received[12:14] == b"\x08\x06" and received[20:22] == b"\0\1":
        wanted, asker = received[38:42], received[28:32]
        if wanted == asker or wanted in map(packed, OWN4):
            return None
        body = received[14:20] + b"\0\2" + mac + wanted + received[22:28] + asker
        return ethernet(body, 0x0806, dst=received[6:12], src=mac)
    if received[12:14] == b"\x86\xdd" and received[20] == 58 and received[54] == 135:
        wanted6, asker6 = (
            socket.inet_ntop(socket.AF_INET6, received[at : at + 16]) for at in (62, 22)
        )
        if asker6 == "::" or wanted6 in OWN6:
            return None
        rest = b"\x60\0\0\0" + packed(wanted6) + b"\2\1" + mac
        advertised = icmp(136, 0, rest, wanted6, asker6)
        return ethernet(advertised, 0x86DD, dst=received[6:12], src=mac)
    return None


class _Lwip:
    def __init__(self, stack: LwipStack) -> None:
        self.stack = stack

    def socket(self, family: int, type: int) -> socket.socket:
        return self.stack.socket(family, type)

    def index(self, name: str) -> int:
        return self.stack.if_nametoindex(name)

    def advance(self) -> None:
        for _ in range(4):
            self.stack.core.turn(True)

    def add_address(self, name: str, address: str) -> None:
        self.stack.add_address(address, name)

    def add_route(self, network: str, via: str | None, name: str) -> None:
        self.stack.add_route(network, via, name)

    def set_up(self, name: str, up: bool) -> None:
        (self.stack.set_up if up else self.stack.set_down)(name)

    def remove(self, name: str) -> None:
        self.stack.del_interface(name)


@contextlib.contextmanager
def lwip_host() -> Iterator[Host]:
    """An lwIP stack on two wires."""
    pairs = [wire_pair() for _ in NAMES]
    options = [
        {"link": near, "iface": name, "mac": mac, "ip": [f"{four}/24", f"{six}/64"]}
        for (near, _), name, mac, four, six in zip(pairs, NAMES, MACS, OWN4, OWN6, strict=True)
    ]
    first, second = options
    ends = (pairs[0][1], pairs[1][1])
    with ends[0], ends[1], open_stack("lwip", **first, interfaces=[second]) as stack:
        assert isinstance(stack, LwipStack)
        host = Host(_Lwip(stack), ends)
        try:
            yield host
        finally:
            host.close()


class _Kernel:
    def __init__(self, taps: dict[str, TapLink]) -> None:
        self._taps = taps

    def socket(self, family: int, type: int) -> socket.socket:
        return socket.socket(family, type)

    def index(self, name: str) -> int:
        return socket.if_nametoindex(name)

    def advance(self) -> None:
        time.sleep(0)

    def add_address(self, name: str, address: str) -> None:
        ip("addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))

    def add_route(self, network: str, via: str | None, name: str) -> None:
        ip("route", "add", network, *(["via", via] if via else []), "dev", name)

    def set_up(self, name: str, up: bool) -> None:
        ip("link", "set", name, "up" if up else "down")

    def remove(self, name: str) -> None:
        ip("link", "del", name)


def _wait_for_link_local(name: str) -> None:
    """The kernel makes it when it gets round to it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            _, _, _, scope, flags, device = line.split()
            if device == name and scope == "20" and not int(flags, 16) & 0x40:  # IFA_F_TENTATIVE
                return
        assert time.monotonic() < deadline, f"{name} has no link-local address"
        time.sleep(0.001)


def _wait_for_ipv6(host: Host, side: int) -> None:
    """An address is not the kernel's at once."""
    deadline = time.monotonic() + PATIENCE
    while not any(one[20:21] == b"\x3a" and one[54:55] == b"\x81" for one in host.seen[side]):
        assert time.monotonic() < deadline, f"{OWN6[side]} does not answer"
        host.send(side, icmp(128, 0, bytes(4), NEAR6[side], OWN6[side]))
        host.pump()
        time.sleep(0.001)


def _sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


@contextlib.contextmanager
def kernel_host() -> Iterator[Host]:
    """The kernel of a network namespace, whose TAP devices the test has opened.

    Its IPv6 addresses stay when an interface goes down, as lwIP's do.
    """
    for family in ("all", "default"):
        _sysctl(f"ipv4/conf/{family}/rp_filter", 0)
        _sysctl(f"ipv6/conf/{family}/accept_dad", 0)
        _sysctl(f"ipv6/conf/{family}/keep_addr_on_down", 1)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with contextlib.ExitStack() as undo:
        taps: dict[str, TapLink] = {}
        for name, mac, four, six in zip(NAMES, MACS, OWN4, OWN6, strict=True):
            link = undo.enter_context(open_link(f"tap://{name}"))
            assert isinstance(link, TapLink)
            taps[name] = link
            ip("link", "set", name, "address", mac.hex(":"))
            ip("link", "set", name, "up")
            ip("addr", "add", f"{four}/24", "dev", name)
            ip("addr", "add", f"{six}/64", "dev", name, "nodad")
            _wait_for_link_local(name)
        host = Host(_Kernel(taps), (taps[NAMES[0]], taps[NAMES[1]]))
        undo.callback(host.close)
        for side in range(len(NAMES)):
            _wait_for_ipv6(host, side)
        host.forget()
        yield host
