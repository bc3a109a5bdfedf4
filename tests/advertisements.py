"""Router advertisements made by hand (RFC 4861, 4191, 8106)."""

from __future__ import annotations

import struct

from lwip_frames import PEER_MAC, ethernet, ipv6, packed, with_checksum

ROUTER, OTHER = "fe80::a1", "fe80::a2"
ROUTER_MAC, OTHER_MAC = bytes.fromhex("0200000000a1"), bytes.fromhex("0200000000a2")
ALL_NODES = "ff02::1"
FOREVER = 0xFFFFFFFF
HIGH, MEDIUM, LOW = 0x08, 0x00, 0x18
MANAGED, OTHER_CONFIG = 0x80, 0x40


def prefix(
    network: str,
    valid: int = 7200,
    preferred: int | None = None,
    *,
    bits: int = 64,
    flags: int = 0xC0,
) -> bytes:
    """Prefix information: on-link and autonomous unless told."""
    told = valid if preferred is None else preferred
    return struct.pack("!BBBBIII", 3, 4, bits, flags, valid, told, 0) + packed(network)


def mtu(size: int) -> bytes:
    return struct.pack("!BBHI", 5, 1, 0, size)


def source_address(mac: bytes = ROUTER_MAC) -> bytes:
    return b"\1\1" + mac


def servers(*addresses: str, lifetime: int = 600) -> bytes:
    """RDNSS."""
    body = b"".join(map(packed, addresses))
    return struct.pack("!BBHI", 25, 1 + len(body) // 8, 0, lifetime) + body


def domains(*names: str, lifetime: int = 600) -> bytes:
    """DNSSL."""
    body = b"".join(
        b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
        for name in names
    )
    body += bytes(-len(body) % 8)
    return struct.pack("!BBHI", 31, 1 + len(body) // 8, 0, lifetime) + body


def message(
    *options: bytes, lifetime: int = 1800, flags: int = 0, code: int = 0, hop_limit: int = 64
) -> bytes:
    """An advertisement from its ICMPv6 type on, without a checksum."""
    return struct.pack("!BBHBBHII", 134, code, 0, hop_limit, flags, lifetime, 0, 0) + b"".join(
        options
    )


def advertised(
    *options: bytes,
    source: str = ROUTER,
    mac: bytes = ROUTER_MAC,
    lifetime: int = 1800,
    flags: int = 0,
    code: int = 0,
    hops: int = 255,
    hop_limit: int = 64,
    to: str = ALL_NODES,
) -> bytes:
    """The frame that a router sends to everybody."""
    body = message(*options, lifetime=lifetime, flags=flags, code=code, hop_limit=hop_limit)
    packet = ipv6(with_checksum(body, 2, source, to, 58), 58, source, to, hops=hops)
    return ethernet(packet, 0x86DD, dst=b"\x33\x33\0\0\0\1", src=mac or PEER_MAC)
