"""Captures as the tests read them: by a parser of their own, and by tshark."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from vpoll_asyncio.links import PcapLink


class Record(NamedTuple):
    time_ns: int
    length: int
    """Bytes that the frame had."""
    frame: bytes
    """Bytes that were kept of it."""


def read_pcap(data: bytes) -> tuple[int, list[Record]]:
    """Return the link type and the records of a capture, which must be whole."""
    magic, major, minor, zone, accuracy, _snaplen, linktype = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, zone, accuracy) == (0xA1B23C4D, 2, 4, 0, 0)
    records = []
    at = 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        at += 16
        assert at + kept <= len(data), "the last record is cut off"
        records.append(Record(seconds * 10**9 + nanoseconds, length, data[at : at + kept]))
        at += kept
    return linktype, records


def frames_of(data: bytes) -> list[bytes]:
    return [record.frame for record in read_pcap(data)[1]]


def tshark(capture: Path | bytes, *fields: str, only: str = "") -> list[tuple[str, ...]]:
    """Return the fields of every packet that passes the display filter `only`."""
    command = ["tshark", "-n", "-T", "fields", "-r", "-" if isinstance(capture, bytes) else capture]
    for field in fields:
        command += ["-e", field]
    if only:
        command += ["-Y", only]
    done = subprocess.run(
        command,
        input=capture if isinstance(capture, bytes) else None,
        stdin=None if isinstance(capture, bytes) else subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"cut short" not in done.stderr
    return [tuple(line.split("\t")) for line in done.stdout.decode().splitlines()]


def ended(link: PcapLink) -> int | None:
    """The errno that ended a capture."""
    return None if link.error is None else link.error.errno
