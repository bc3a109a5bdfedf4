"""Feed a stack FRAMES made-up frames from SEED on, while raw, ping and multicast sockets are used.

ICMP, ICMPv6, IGMP and MLD of all lengths, protocols that lwIP does not have, and what the raw
sockets send themselves, to the peer and to their own host.  Prints ``done``; an assertion of
lwIP's, or of malloc's, aborts the process.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lwip_frames import PEER_MAC, checksum, ethernet, icmp, ipv4, ipv6, packed, udp, with_checksum
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lwip_on_wire

GROUPS4 = ("224.0.0.1", "239.1.2.3", "239.255.255.250")
GROUPS6 = ("ff02::1", "ff05::1:2", "ff01::7", "ff02::1:ff00:1")
UNKNOWN = (2, 41, 47, 89, 132, 136, 253)
ROUTER_ALERT = b"\x94\x04\0\0"


class Sockets:
    """Sockets of every kind that is not TCP's."""

    def __init__(self, peer: Peer, pick: random.Random) -> None:
        self._pick = pick
        self._all: list[socket.socket] = []
        self._stack = peer.stack
        for protocol in (socket.IPPROTO_ICMP, 6, 17, 255, *UNKNOWN):
            self._add(socket.AF_INET, socket.SOCK_RAW, protocol)
        for protocol in (socket.IPPROTO_ICMPV6, 6, 17, 255, *UNKNOWN):
            self._add(socket.AF_INET6, socket.SOCK_RAW, protocol)
        self._add(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        self._add(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
        for family in (socket.AF_INET, socket.AF_INET6):
            for _ in range(3):
                sock = self._add(family, socket.SOCK_DGRAM, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", 5007))

    def _add(self, family: int, kind: int, protocol: int) -> socket.socket:
        sock = self._stack.socket(family, kind, protocol)
        sock.setblocking(False)
        self._all.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._all:
            sock.close()

    def use(self) -> None:
        """Receive, send, join, leave, and now and then replace a socket."""
        pick = self._pick
        for sock in self._all:
            with contextlib.suppress(OSError):
                while True:
                    sock.recv(pick.choice((1, 100, 65535)))
            if pick.random() < 0.3:
                with contextlib.suppress(OSError):
                    self._send(sock)
            if pick.random() < 0.2:
                with contextlib.suppress(OSError):
                    self._change(sock)
        at = pick.randrange(len(self._all))
        old = self._all[at]
        family, kind, protocol = old.family, old.type, old.proto
        if protocol:
            old.close()
            self._all[at] = self._stack.socket(family, kind, protocol)
            self._all[at].setblocking(False)
            with contextlib.suppress(OSError):
                self._all[at].connect((PEER6 if family == socket.AF_INET6 else PEER4, 0))

    def _send(self, sock: socket.socket) -> None:
        pick = self._pick
        six = sock.family == socket.AF_INET6
        hosts = (HOST6, PEER6, "::1", *GROUPS6) if six else (HOST4, PEER4, "127.0.0.1", *GROUPS4)
        to = pick.choice(hosts)
        size = pick.choice((0, 1, 7, 8, 20, 39, 40, 41, 100, 1400, 1472, 3000, 20000, 65495))
        data = pick.randbytes(size)
        if pick.random() < 0.5:
            data = bytes([pick.choice((0, 3, 8, 128, 129, 130, 131, 133, 134, 135, 136)), 0]) + data
        if sock.proto == 255:
            made = payload(pick, HOST6 if six else HOST4, to)
            data = bytes(made) if pick.random() < 0.6 else data
        if pick.random() < 0.3 and sock.type == socket.SOCK_RAW and not six:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, pick.random() < 0.5)
        sock.sendto(data, (to, 5007 if sock.proto == 0 else 0))

    def _change(self, sock: socket.socket) -> None:
        pick = self._pick
        if sock.family == socket.AF_INET6:
            value = packed(pick.choice(GROUPS6)) + struct.pack("i", pick.choice((0, 1, 2)))
            option = pick.choice((socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP))
            sock.setsockopt(socket.IPPROTO_IPV6, option, value)
        else:
            value = packed(pick.choice(GROUPS4)) + packed(pick.choice((HOST4, "127.0.0.1")))
            option = pick.choice((socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP))
            sock.setsockopt(socket.IPPROTO_IP, option, value)


def _igmp(pick: random.Random, to: str) -> bytes:
    body = bytearray(pick.choice((b"\x11", b"\x12", b"\x16", b"\x17", b"\x22", pick.randbytes(1))))
    body += pick.randbytes(1) + b"\0\0" + packed(to) + pick.randbytes(pick.choice((0, 0, 4, 30)))
    del body[pick.choice((100, 100, 100, 7, 3, 0)) :]
    if len(body) >= 4 and pick.random() < 0.9:
        body[2:4] = struct.pack("!H", checksum(bytes(body)))
    return bytes(body)


def payload(pick: random.Random, source: str, to: str) -> bytes:
    """Return an IP packet, more or less."""
    six = ":" in to
    size = pick.choice((0, 1, 3, 4, 7, 8, 11, 12, 16, 20, 24, 40, 60, 200, 1400))
    kind = pick.randrange(5)
    if kind == 0:
        types = (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143)
        number = pick.choice(types if six else (0, 3, 4, 5, 8, 11, 12, 13, 17))
        rest = pick.choice((pick.randbytes(size), bytes(4) + packed(to) + pick.randbytes(size)))
        made = icmp(number, pick.choice((0, 0, 1, 3)), rest, source, to)
        if pick.random() < 0.1:
            return made[: 40 + pick.randrange(8)] if six else made[: 20 + pick.randrange(8)]
        return made
    if kind == 1 and six:
        listener = bytes([pick.choice((130, 131, 132, 143)), 0, 0, 0]) + pick.randbytes(4)
        listener += packed(to) + pick.randbytes(pick.choice((0, 4, 20)))
        listener = listener[: pick.choice((100, 100, 24, 23, 8, 9))]
        body = with_checksum(listener, 2, source, to, 58)
        return ipv6(b"\x3a\0\5\2\0\0\1\0" + body, 0, source, to)
    if kind == 1:
        options = ROUTER_ALERT if pick.random() < 0.8 else b""
        return ipv4(_igmp(pick, to), 2, pick.choice((source, "0.0.0.0")), to, options=options)
    if kind == 2:
        return udp((source, 9), (to, 5007), pick.randbytes(size))
    protocol = pick.choice((*UNKNOWN, 1, 6, 17, 58))
    if six:
        return ipv6(pick.randbytes(size), protocol, source, to)
    return ipv4(pick.randbytes(size), protocol, source, to)


def main(seed: int, count: int) -> None:
    pick = random.Random(seed)
    with lwip_on_wire() as peer:
        sockets = Sockets(peer, pick)
        for done in range(0, count, 32):
            frames = []
            for _ in range(32):
                six = pick.random() < 0.5
                to = pick.choice((HOST6, *GROUPS6) if six else (HOST4, *GROUPS4, "255.255.255.255"))
                made = bytearray(payload(pick, PEER6 if six else PEER4, to))
                if pick.random() < 0.2 and made:
                    made[pick.randrange(len(made))] = pick.getrandbits(8)
                frames.append(ethernet(bytes(made), 0x86DD if six else 0x0800, src=PEER_MAC))
            peer.send(*frames)
            sockets.use()
            peer.send()
            if done % 4096 == 0:
                peer.stack.skip_time(11)
                peer.send()
                peer.seen.clear()
        peer.seen.clear()
        peer.send(ethernet(icmp(8, 0, b"\0\1\0\1alive", PEER4, HOST4), 0x0800))
        assert any(got.endswith(b"alive") for got in peer.seen), "no answer to a ping"
        sockets.close()
    print("done", count, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
