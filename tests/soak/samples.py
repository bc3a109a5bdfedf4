"""What a process holds at a moment when nothing happens, and whether it grows.

Counts are taken between rounds, with every connection open and idle: what is left over
then was kept for good.  So two samples differ by little else than a leak, and a limit
can stay below one object an exchange, and one a connection, however short the run.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import dataclasses
import gc
import os
import resource
import sys
from pathlib import Path

from vpoll_asyncio import UserSocket, VPoll
from vpoll_asyncio.transports.base import SocketTransport

__all__ = ["Sample", "enough", "faults", "take"]


class _MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


_libc = ctypes.CDLL(None)
_libc.mallinfo2.restype = _MallInfo


@dataclasses.dataclass
class Sample:
    """What the process held, and what it had done by then."""

    exchanges: int
    connections: int
    """How many have been opened."""
    blocks: int
    """Of Python's own allocator: every small object, tracked by the collector or not."""
    malloc: int
    """Bytes in use in the C library's heap: large objects and all that C code holds."""
    resident: int
    """Bytes."""
    descriptors: int
    tasks: int
    transports: int
    """Those that are open, as sockets and vpolls."""
    sockets: int
    vpolls: int
    types: collections.Counter[type] = dataclasses.field(repr=False)
    """The collector's objects by type, to name a culprit: of the first sample and the last."""


def take(exchanges: int, connections: int) -> Sample:
    """Return what this process holds."""
    blocks = sys.getallocatedblocks()
    heap = _libc.mallinfo2()
    types: collections.Counter[type] = collections.Counter()
    transports = sockets = vpolls = 0
    for one in gc.get_objects():
        kind = type(one)
        types[kind] += 1
        if isinstance(one, SocketTransport):
            transports += not one.is_closing()
        elif isinstance(one, UserSocket):
            sockets += not one.vpoll.closed
        elif isinstance(one, VPoll):
            vpolls += not one.closed
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        exchanges,
        connections,
        blocks,
        heap.uordblks + heap.hblkhd,
        pages * resource.getpagesize(),
        len(os.listdir("/proc/self/fd")),
        len(asyncio.all_tasks()),
        transports,
        sockets,
        vpolls,
        types,
    )


def _thirds(samples: list[Sample]) -> tuple[list[Sample], list[Sample], int]:
    """Return the first third, the last, and how many exchanges were made in between."""
    third = max(1, len(samples) // 3)
    early, late = samples[:third], samples[-third:]
    return early, late, late[0].exchanges - early[-1].exchanges


def _allowed_blocks(clients: int, exchanges: int) -> int:
    # One connection fewer in a client's pool is some hundred objects less, and up to one
    # in fifty is (see `faults`).
    return 200 + 3 * clients + exchanges // 20


def enough(samples: list[Sample], clients: int) -> bool:
    """Return whether an object kept for each exchange would stand out by now."""
    exchanges = _thirds(samples)[2] if samples else 0
    return exchanges > _allowed_blocks(clients, exchanges)


def faults(samples: list[Sample], clients: int) -> list[str]:
    """Return what grew from the first third of `samples` to the last.

    The least of the last is compared with the most of the first: what comes and goes
    does not count.

    clients -- how many connections were open in each
    """
    early, late, exchanges = _thirds(samples)
    # A connection pool may have opened one less than there are clients.
    few = clients // 50
    allowed = {
        "blocks": _allowed_blocks(clients, exchanges),
        "malloc": 8192 * clients + 8 * exchanges,
        "resident": (16 << 20) + 8 * exchanges,
        "descriptors": 0,
        "tasks": few,
        "transports": few,
        "sockets": few,
        "vpolls": few,
    }
    wrong = []
    for name, limit in allowed.items():
        grown = min(getattr(one, name) for one in late) - max(getattr(one, name) for one in early)
        if grown > limit:
            wrong.append(f"{name}: {grown} more after {exchanges} exchanges, {limit} allowed")
    if wrong:
        wrong.append(f"grown most: {_grown(early[0], late[-1])}")
    return wrong


def _grown(before: Sample, after: Sample) -> str:
    more = after.types.copy()
    more.subtract(before.types)
    return ", ".join(
        f"{kind.__module__}.{kind.__qualname__} {count}"
        for kind, count in more.most_common(8)
        if count > 0
    )
