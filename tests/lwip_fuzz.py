"""Frames that Linux sent, changed here and there: what a stack must survive."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Final

from lwip_frames import checksum

__all__ = ["Mutator", "captured", "fitted", "mended"]

CAPTURE: Final = Path(__file__).resolve().parent / "captures" / "linux.pcap"

_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP: Final = 6
# Where the checksum lies in a transport header: ICMP, TCP, UDP, ICMPv6.
_SUM_AT: Final = {1: 2, 6: 16, 17: 6, 58: 2}
_EDGES: Final = (0, 1, 2, 4, 5, 6, 7, 8, 15, 16, 20, 40, 60, 127, 128, 254, 255)
_WIDE_EDGES: Final = (0, 1, 2, 7, 8, 20, 40, 60, 576, 1279, 1280, 1460, 1500, 1514, 32767, 65535)


def captured(path: Path = CAPTURE) -> list[bytes]:
    """Return the frames of a classic pcap."""
    data = path.read_bytes()
    frames = []
    at = 24
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return frames


def _transport(frame: bytes | bytearray) -> tuple[int, int, int] | None:
    """Return (protocol, where its header begins, where the packet ends), None without one."""
    if len(frame) < 34:
        return None
    kind = frame[12] << 8 | frame[13]
    if kind == _IPV4:
        start = 14 + (frame[14] & 15) * 4
        end = 14 + (frame[16] << 8 | frame[17])
        protocol = frame[23]
    elif kind == _IPV6 and len(frame) >= 54:
        start = 54
        end = 54 + (frame[18] << 8 | frame[19])
        protocol = frame[20]
    else:
        return None
    return (protocol, start, end) if start <= end <= len(frame) else None


def fitted(frame: bytes | bytearray) -> bytearray:
    """Return `frame` with the IP packet's length that of what is there."""
    made = bytearray(frame)
    if made[12:14] == b"\x08\x00" and len(made) >= 34:
        made[16:18] = struct.pack("!H", len(made) - 14)
    elif made[12:14] == b"\x86\xdd" and len(made) >= 54:
        made[18:20] = struct.pack("!H", len(made) - 54)
    return made


def mended(frame: bytes | bytearray) -> bytes:
    """Return `frame` with right checksums as far as it has the headers for them.

    A stack drops what has wrong ones before it looks at the rest.
    """
    made = bytearray(frame)
    if made[12:14] == b"\x08\x00" and len(made) >= 34:
        start = 14 + (made[14] & 15) * 4
        if 34 <= start <= len(made):
            made[24:26] = b"\0\0"
            made[24:26] = struct.pack("!H", checksum(bytes(made[14:start])))
    found = _transport(made)
    if found is None:
        return bytes(made)
    protocol, start, end = found
    at = _SUM_AT.get(protocol)
    if at is None or start + at + 2 > end:
        return bytes(made)
    made[start + at : start + at + 2] = b"\0\0"
    body = bytes(made[start:end])
    if protocol != 1:
        addresses = made[26:34] if start < 54 or made[14] >> 4 == 4 else made[22:54]
        body = bytes(addresses) + struct.pack("!HH", protocol, end - start) + body
    made[start + at : start + at + 2] = struct.pack("!H", checksum(body))
    return bytes(made)


class Mutator:
    """A reproducible stream of changed frames.

    Parameters:
    frames -- what they are made of
    seed -- the same seed, the same frames
    """

    def __init__(self, frames: list[bytes], seed: int) -> None:
        self._frames = frames
        self._random = random.Random(seed)
        self.connections: list[tuple[bool, int, int, int]] = []
        """Live connections (IPv6?, the sender's port, seq, ack) that segments may be for."""

    def frame(self) -> bytes:
        """Return the next frame."""
        pick = self._random
        chance = pick.random
        made = bytearray(pick.choice(self._frames))
        if self.connections and chance() < 0.7:
            self._aim(made)
        for _ in range(pick.choice((0, 1, 1, 1, 2, 3))):
            self._spoil(made)
        if chance() < 0.08:
            other = pick.choice(self._frames)
            made[pick.randrange(14, len(made) + 1) :] = other[pick.randrange(14, len(other)) :]
            del made[1514:]
        if chance() < 0.1:
            del made[pick.randrange(len(made)) :]
        if chance() < 0.7:
            made = fitted(made)
        if chance() < 0.85 and made:
            return mended(made)
        return bytes(made) or b"\0"

    def _aim(self, made: bytearray) -> None:
        """Make a TCP segment one of a live connection, or nearly."""
        found = _transport(made)
        if found is None or found[0] != _TCP or found[2] - found[1] < 20:
            return
        pick = self._random
        six, port, seq, ack = pick.choice(self.connections)
        if six != (made[12:14] == b"\x86\xdd"):
            return
        start = found[1]
        seq += pick.choice((0, 0, 0, 0, 0, 1, -1, 100, 1460, 65535, -65535, 1 << 31, (1 << 31) - 1))
        ack += pick.choice((0, 0, 0, 0, 1, -1, 100, 1460, 65535, 1 << 31))
        struct.pack_into("!H", made, start, port)
        struct.pack_into("!II", made, start + 4, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)

    def _spoil(self, made: bytearray) -> None:
        pick = self._random
        # Headers matter more than what they carry.
        end = len(made) if pick.random() < 0.2 else min(len(made), 14 + 40 + 40)
        if end < 16:
            return
        at = pick.randrange(12 if pick.random() < 0.05 else 14, end)
        how = pick.randrange(7)
        if how == 0:
            made[at] ^= 1 << pick.randrange(8)
        elif how == 1:
            made[at] = pick.getrandbits(8)
        elif how == 2:
            made[at] = pick.choice(_EDGES)
        elif how == 3:
            made[at : at + 2] = struct.pack("!H", pick.choice(_WIDE_EDGES))
        elif how == 4:
            made[at:at] = pick.randbytes(pick.choice((1, 2, 4, 8)))
        elif how == 5:
            del made[at : at + pick.choice((1, 2, 4, 8))]
        else:
            made[at : at + 4] = pick.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0"))
