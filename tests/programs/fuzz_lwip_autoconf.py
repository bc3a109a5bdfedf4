"""Feed a stack that configures itself FRAMES frames of routers and servers from SEED on.

Advertisements, redirects, solicitations, ARP and answers of DHCP, more or less valid, while the
stack's interface goes down and up, time passes and datagrams are sent to where the routers lead.
Prints ``done``; an assertion of lwIP's, or of malloc's, aborts the process.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dpkt.dhcp

from advertisements import (
    FOREVER,
    advertised,
    domains,
    mtu,
    prefix,
    servers,
    source_address,
)
from lwip_frames import BROADCAST, MAC, arp, ethernet, frame, icmp, packed, udp
from lwip_fuzz import fitted, mended
from lwip_helpers import Peer, lwip_on_wire

OWN = "fd00:1::ff:fe00:1"
LOCAL = "fe80::ff:fe00:1"
ROUTERS = tuple(f"fe80::a{number:x}" for number in range(1, 7))
FAR = ("2001:db8::1", "2001:db8::2", "fd00:1::9", "fd00:2::9", "fd00:77::1", "ff05::1", ROUTERS[0])
SERVER = "10.0.0.1"
LIVES = (0, 0, 1, 2, 5, 30, 600, 7200, 7201, FOREVER - 1, FOREVER)


class Network:
    """Routers and a server that say this and that."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._asked: list[bytes] = []

    def hear(self, frames: list[bytes]) -> None:
        """Take what the stack has sent: questions of DHCP are answered later."""
        self._asked += [one[42:] for one in frames if one[34:38] == b"\0\x44\0\x43"]
        del self._asked[:-8]

    def _mac(self, address: str) -> bytes:
        return b"\2\0\0\0\0" + packed(address)[-1:]

    def _option(self) -> bytes:
        pick = self._random
        network = f"fd00:{pick.randint(1, 9):x}::"
        life = pick.choice(LIVES)
        kind = pick.randrange(7)
        if kind == 0:
            bits = pick.choice((64, 64, 64, 64, 0, 48, 65, 128, 129, 255))
            return prefix(
                network,
                life,
                pick.choice((life, 0, 1, FOREVER)),
                bits=bits,
                flags=pick.choice((0xC0, 0xC0, 0x80, 0x40, 0)),
            )
        if kind == 1:
            return mtu(pick.choice((0, 68, 1279, 1280, 1400, 1500, 65535, 65536, FOREVER)))
        if kind == 2:
            many = [f"fd00::{pick.randrange(1, 40):x}" for _ in range(pick.randint(1, 12))]
            return servers(*many, pick.choice(("fe80::53", "ff02::1", "::")), lifetime=life)
        if kind == 3:
            names = [f"d{pick.randrange(40)}.example" for _ in range(pick.randint(1, 12))]
            return domains(*names, lifetime=life)
        if kind == 4:
            return source_address(self._mac(pick.choice(ROUTERS)))
        if kind == 5:
            size = pick.choice((0, 0, 1, 2, 5, 200))
            return bytes([pick.choice((1, 2, 3, 4, 5, 24, 25, 31, 253)), size]) + pick.randbytes(
                max(0, min(size, 40) * 8 - 2)
            )
        return pick.randbytes(pick.choice((1, 2, 7, 8, 16)))

    def _advertisement(self) -> bytes:
        pick = self._random
        source = pick.choice((*ROUTERS, *ROUTERS, "fd00:1::a1", LOCAL, "::"))
        return advertised(
            *(self._option() for _ in range(pick.choice((0, 1, 2, 3, 8)))),
            source=source,
            mac=self._mac(source),
            lifetime=pick.choice((0, 1, 5, 30, 1800, 65535)),
            flags=pick.getrandbits(8),
            code=pick.choice((0, 0, 0, 0, 1)),
            hops=pick.choice((255, 255, 255, 255, 255, 64)),
            hop_limit=pick.choice((0, 1, 64, 255)),
            to=pick.choice(("ff02::1", "ff02::1", LOCAL, OWN)),
        )

    def _discovery(self) -> bytes:
        """A redirect, or a neighbour's solicitation or advertisement."""
        pick = self._random
        source = pick.choice((*ROUTERS, *FAR, "::"))
        about = pick.choice((*ROUTERS, *FAR, OWN, LOCAL))
        rest = pick.choice((b"\xe0", b"\x60", b"\x20", b"\0")) + b"\0\0\0" + packed(about)
        kind = pick.choice((135, 136, 136, 137))
        if kind == 137:
            rest += packed(pick.choice(FAR))
        rest += pick.choice((b"", bytes([pick.choice((1, 2)), 1]) + self._mac(source), b"\2\0"))
        to = pick.choice((OWN, LOCAL, "ff02::1", "ff02::1:ff00:1"))
        return frame(icmp(kind, 0, rest, source, to))

    def _address(self) -> bytes:
        pick = self._random
        asked = pick.choice((f"10.0.0.{pick.randrange(2, 20)}", SERVER))
        asker = pick.choice(("0.0.0.0", SERVER, asked))
        mac = pick.choice((self._mac(ROUTERS[0]), MAC))
        return ethernet(
            arp(pick.choice((1, 2, 2, 3)), asker, asked, src_mac=mac),
            0x0806,
            dst=pick.choice((MAC, BROADCAST)),
        )

    def _lease(self) -> bytes:
        pick = self._random
        question = dpkt.dhcp.DHCP(pick.choice(self._asked)) if self._asked else None
        if question is None:
            return self._address()
        asked = dict(question.opts).get(53, b"\1")
        said: list[tuple[int, bytes]] = [
            (53, pick.choice((b"\2" if asked == b"\1" else b"\5",) * 8 + (b"\6", b"\5", b"\2"))),
            (54, packed(SERVER)),
            (51, pick.choice((1, 2, 10, 120, FOREVER)).to_bytes(4, "big")),
            (1, packed("255.255.255.0")),
        ]
        extra: list[tuple[int, bytes]] = [
            (3, packed(SERVER)),
            (6, packed("10.0.0.53")),
            (26, struct.pack("!H", pick.choice((0, 575, 576, 1400, 9000)))),
            (121, b"\x18\x0a\1\1" + packed(SERVER)),
            (119, b"\3lab\7example\0"),
            (pick.randrange(1, 255), pick.randbytes(pick.randrange(12))),
        ]
        said += pick.sample(extra, pick.randrange(len(extra)))
        fields: dict[str, Any] = {
            "op": 2,
            "xid": question.xid,
            "yiaddr": int(ipaddress.ip_address(f"10.0.0.{pick.randrange(2, 20)}")),
            "chaddr": MAC.ljust(16, b"\0"),
            "opts": said,
        }
        packet = udp((SERVER, 67), ("255.255.255.255", 68), bytes(dpkt.dhcp.DHCP(**fields)))
        return ethernet(packet, 0x0800, dst=BROADCAST)

    def frame(self) -> bytes:
        """Return the next frame, often with a byte or two that are wrong."""
        pick = self._random
        made = bytearray(
            pick.choice(
                (self._advertisement, self._advertisement, self._discovery, self._address)
                + (self._lease, self._lease)
            )()
        )
        if pick.random() < 0.25:
            for _ in range(pick.choice((1, 2))):
                made[pick.randrange(14, len(made))] = pick.choice(
                    (0, 1, 2, 255, pick.getrandbits(8))
                )
            return mended(fitted(made))
        return bytes(made)


class Configured(Peer):
    """The other end of the wire, which answers for some of those who are asked for."""

    def reply(self, received: bytes) -> bytes | None:
        if received[20:21] == b"\x3a" and received[54:55] == b"\x87" and received[77] & 1:
            wanted = socket.inet_ntop(socket.AF_INET6, received[62:78])
            asker = socket.inet_ntop(socket.AF_INET6, received[22:38])
            if asker != "::" and wanted not in (OWN, LOCAL):
                rest = b"\xe0\0\0\0" + packed(wanted) + b"\2\1\2\0\0\0\0" + packed(wanted)[-1:]
                return frame(icmp(136, 0, rest, wanted, asker))
        return None


def use(peer: Peer, pick: random.Random, names: list[str]) -> None:
    """Do what a program and its administrator do."""
    stack = peer.stack
    name = names[0]
    for to in pick.sample(FAR, 3):
        with contextlib.suppress(OSError), stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(bytes(pick.choice((1, 1200, 1452, 5000))), (to, 9))
    with contextlib.suppress(OSError), stack.socket(socket.AF_INET6) as stream:
        stream.setblocking(False)
        stream.connect((pick.choice(FAR), 80))
    chance = pick.random()
    with contextlib.suppress(OSError):
        if chance < 0.05:
            stack.set_down(name)
        elif chance < 0.2:
            stack.set_up(name)
        elif chance < 0.23:
            stack.set_mtu(pick.choice((576, 1280, 1500)))
        elif chance < 0.26:
            stack.add_address(f"fd00:{pick.randint(1, 9):x}::{pick.randint(1, 3):x}/64")
        elif chance < 0.3 and (given := [one for one in stack.addresses if one.startswith("fd")]):
            stack.del_address(pick.choice(given))
        elif chance < 0.32:
            stack.add_route("fd00:77::/64", pick.choice((None, ROUTERS[0])), name)
        elif chance < 0.34:
            stack.del_route("fd00:77::/64")
        elif chance < 0.36:
            stack.add_interface(vnl="wire://beside", iface="beside", auto=True)
        elif chance < 0.4:
            stack.del_interface("beside")
    assert len(stack.routers.get(name, ())) <= 16


def main(seed: int, count: int) -> None:
    network, pick = Network(seed), random.Random(seed)
    with lwip_on_wire(ip=(), auto=True, dhcp_timeout=0) as opened:
        peer = Configured(opened.stack, opened.link)
        names = [peer.stack.interfaces[0].name]
        for _ in range(0, count, 32):
            network.hear(peer.send(*(network.frame() for _ in range(32))))
            peer.seen.clear()
            use(peer, pick, names)
            if pick.random() < 0.5:
                peer.stack.skip_time(pick.choice((0.1, 0.3, 1, 3, 12)))
        # What has been said holds no longer than the interface is up: then honest ones are heard.
        peer.stack.set_down(names[0])
        peer.stack.set_up(names[0])
        peer.send(advertised(source_address(), prefix("fd00:1::"), servers("fd00::53")))
        for _ in range(5):
            peer.stack.skip_time(1)
            peer.send()
        (router,) = peer.stack.routers[names[0]]
        assert peer.stack.resolver is not None
        assert "fd00::53" in peer.stack.resolver.conf.servers, peer.stack.resolver.conf
        with peer.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"far", ("2001:db8::77", 9))
        assert any(got.endswith(b"far") for got in peer.send()), "no way through a router"
        print("addresses", *peer.stack.addresses, "router", router.address)
        peer.seen.clear()
        peer.send(frame(icmp(128, 0, b"\0\1\0\1alive", ROUTERS[0], LOCAL)))
        assert any(got.endswith(b"alive") for got in peer.seen), "no answer to a ping"
    print("done", count, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
