"""Frames made by hand: what a peer on the wire, honest or not, can send."""

from __future__ import annotations

import ipaddress
import random
import struct

MAC = bytes.fromhex("020000000001")
"""Hardware address of the stack in these tests."""
PEER_MAC = bytes.fromhex("0200000000aa")
BROADCAST = b"\xff" * 6

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ethernet(payload: bytes, ethertype: int, *, dst: bytes = MAC, src: bytes = PEER_MAC) -> bytes:
    return dst + src + struct.pack("!H", ethertype) + payload


def ipv4(
    payload: bytes,
    protocol: int,
    src: str,
    dst: str,
    *,
    ident: int = 1,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    header = bytearray(
        struct.pack(
            "!BBHHHBBH",
            0x40 | (5 + len(options) // 4),
            0,
            20 + len(options) + len(payload),
            ident,
            fragment,
            64,
            protocol,
            0,
        )
        + packed(src)
        + packed(dst)
        + options
    )
    header[10:12] = struct.pack("!H", checksum(bytes(header)))
    return bytes(header) + payload


def ipv6(payload: bytes, next_header: int, src: str, dst: str, *, hops: int = 64) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), next_header, hops)
        + packed(src)
        + packed(dst)
        + payload
    )


def _pseudo(src: str, dst: str, protocol: int, length: int) -> bytes:
    if ":" in src:
        return packed(src) + packed(dst) + struct.pack("!IHBB", length, 0, 0, protocol)
    return packed(src) + packed(dst) + struct.pack("!BBH", 0, protocol, length)


def with_checksum(segment: bytes, at: int, src: str, dst: str, protocol: int) -> bytes:
    """`segment` with the right checksum at offset `at`, of a transport header."""
    body = bytearray(segment)
    body[at : at + 2] = b"\0\0"
    total = checksum(_pseudo(src, dst, protocol, len(body)) + bytes(body))
    body[at : at + 2] = struct.pack("!H", total)
    return bytes(body)


def tcp(
    src: tuple[str, int],
    dst: tuple[str, int],
    flags: int,
    seq: int,
    ack: int = 0,
    payload: bytes = b"",
    *,
    window: int = 65535,
    options: bytes = b"",
) -> bytes:
    """A TCP segment with its IP header."""
    options += b"\0" * (-len(options) % 4)
    segment = (
        struct.pack(
            "!HHIIBBHHH",
            src[1],
            dst[1],
            seq & 0xFFFFFFFF,
            ack & 0xFFFFFFFF,
            (5 + len(options) // 4) << 4,
            flags,
            window,
            0,
            0,
        )
        + options
        + payload
    )
    segment = with_checksum(segment, 16, src[0], dst[0], 6)
    if ":" in src[0]:
        return ipv6(segment, 6, src[0], dst[0])
    return ipv4(segment, 6, src[0], dst[0])


def udp(src: tuple[str, int], dst: tuple[str, int], payload: bytes) -> bytes:
    """A UDP datagram with its IP header."""
    datagram = struct.pack("!HHHH", src[1], dst[1], 8 + len(payload), 0) + payload
    datagram = with_checksum(datagram, 6, src[0], dst[0], 17)
    if ":" in src[0]:
        return ipv6(datagram, 17, src[0], dst[0])
    return ipv4(datagram, 17, src[0], dst[0])


def icmp(kind: int, code: int, rest: bytes, src: str, dst: str) -> bytes:
    """An ICMP or ICMPv6 message with its IP header; `rest` begins at the fifth byte."""
    message = struct.pack("!BBH", kind, code, 0) + rest
    if ":" in src:
        return ipv6(with_checksum(message, 2, src, dst, 58), 58, src, dst, hops=255)
    body = bytearray(message)
    body[2:4] = struct.pack("!H", checksum(message))
    return ipv4(bytes(body), 1, src, dst)


def arp(operation: int, src: str, dst: str, *, src_mac: bytes = PEER_MAC) -> bytes:
    """An ARP packet without its Ethernet header."""
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
        + src_mac
        + packed(src)
        + (MAC if operation == 2 else bytes(6))
        + packed(dst)
    )


def frame(packet: bytes, *, dst: bytes = MAC) -> bytes:
    """An IP packet in an Ethernet frame."""
    return ethernet(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD, dst=dst)


def parse_tcp(received: bytes) -> dict[str, int | bytes] | None:
    """The fields of the TCP segment in an Ethernet frame, or None for anything else."""
    if received[12:14] == b"\x08\x00" and received[23] == 6:
        start = 14 + (received[14] & 15) * 4
        end = 14 + struct.unpack_from("!H", received, 16)[0]
    elif received[12:14] == b"\x86\xdd" and received[20] == 6:
        start = 54
        end = 54 + struct.unpack_from("!H", received, 18)[0]
    else:
        return None
    sport, dport, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", received, start)
    return {
        "sport": sport,
        "dport": dport,
        "seq": seq,
        "ack": ack,
        "flags": flags,
        "window": window,
        "payload": received[start + (offset >> 4) * 4 : end],
    }


class Fuzzer:
    """Frames that look more or less like traffic for a stack, from a seed."""

    def __init__(self, seed: int, four: str, six: str, ports: tuple[int, ...]) -> None:
        self.random = random.Random(seed)
        self.four, self.six = four, six
        self.ports = ports
        self.peer4 = str(ipaddress.ip_address(four) + 1)
        self.peer6 = str(ipaddress.ip_address(six) + 1)

    def noise(self, low: int, high: int) -> bytes:
        return self.random.randbytes(self.random.randint(low, high))

    def _ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        pick = self.random
        six = pick.random() < 0.5
        src = self.peer6 if six else self.peer4
        dst = self.six if six else self.four
        return (src, pick.randint(1, 65535)), (dst, pick.choice((*self.ports, 9)))

    def _options(self) -> bytes:
        pick = self.random
        known = (
            b"\1",
            b"\2\4\5\xb4",
            b"\2\4\0\1",
            b"\3\3\7",
            b"\4\2",
            b"\x08\x0a" + bytes(8),
            b"\2\3\0",
            b"\xfe\0",
            b"\2",
        )
        return b"".join(pick.choice(known) for _ in range(pick.randint(0, 4)))[:36]

    def _tcp(self) -> bytes:
        pick = self.random
        src, dst = self._ends()
        flags = pick.choice((SYN, ACK, SYN | ACK, RST, RST | ACK, FIN | ACK, PSH | ACK, 0, 0xFF))
        return tcp(
            src,
            dst,
            flags,
            pick.getrandbits(32),
            pick.getrandbits(32),
            self.noise(0, 60),
            window=pick.choice((0, 1, 100, 65535)),
            options=self._options(),
        )

    def _udp(self) -> bytes:
        return udp(*self._ends(), self.noise(0, 300))

    def _icmp(self) -> bytes:
        pick = self.random
        src, dst = self._ends()
        if ":" in src[0]:
            kind = pick.choice((1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143))
        else:
            kind = pick.choice((0, 3, 4, 5, 8, 11, 12, 13))
        inner = pick.choice((self._udp(), self._tcp(), self.noise(0, 80)))
        rest = pick.choice((bytes(4) + inner[:60], self.noise(0, 80), bytes(4) + packed(dst[0])))
        return icmp(kind, pick.randint(0, 5), rest, src[0], dst[0])

    def _fragment(self) -> bytes:
        pick = self.random
        src, dst = self._ends()
        ident = pick.randint(1, 3)
        offset, more = pick.choice((0, 0, 8, 16, 24, 8184)), pick.random() < 0.7
        body = bytes(8) + self.noise(0, 40)
        body = body[: len(body) // 8 * 8] if pick.random() < 0.9 else body
        if ":" in src[0]:
            header = struct.pack("!BBHI", pick.choice((6, 17, 58)), 0, offset * 8 | more, ident)
            return ipv6(header + body, 44, src[0], dst[0])
        return ipv4(
            body,
            pick.choice((1, 6, 17)),
            src[0],
            dst[0],
            ident=ident,
            fragment=(0x2000 if more else 0) | offset,
        )

    def _extended(self) -> bytes:
        pick = self.random
        header = bytes([pick.choice((58, 17, 6, 0, 43, 44, 59, 60)), pick.randint(0, 3)])
        options = pick.choice((b"\5\2\0\0\1\0", b"\1\4\0\0\0\0", self.noise(6, 30)))
        return ipv6(
            header + options + self.noise(0, 40),
            pick.choice((0, 43, 44, 60)),
            self.peer6,
            pick.choice((self.six, "ff02::1")),
        )

    def frame(self) -> bytes:
        """The next frame."""
        pick = self.random
        kind = pick.randint(0, 9)
        if kind == 0:
            return self.noise(0, 80)
        if kind == 1:
            return ethernet(self.noise(0, 100), pick.choice((0x0800, 0x0806, 0x86DD, 0x8100)))
        if kind == 2:
            made = arp(pick.randint(0, 3), self.peer4, self.four)
            return ethernet(made[: pick.randint(0, 28)] if pick.random() < 0.3 else made, 0x0806)
        maker = pick.choice(
            (self._tcp, self._udp, self._icmp, self._fragment, self._extended, self._tcp)
        )
        made = frame(maker())
        if pick.random() < 0.3:
            spoilt = bytearray(made)
            for _ in range(pick.randint(1, 4)):
                spoilt[pick.randrange(12, len(spoilt))] = pick.getrandbits(8)
            made = bytes(spoilt)
        if pick.random() < 0.1:
            made = made[: pick.randrange(len(made))]
        return made
