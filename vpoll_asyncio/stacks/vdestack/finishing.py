"""Ending the connections of a network namespace as the end of a process does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["close_sockets", "delivered", "finished"]

# <net/tcp_states.h>: with data in the queue, and while the end is not acknowledged.
_FIN_WAIT1: Final = 4
_OPEN: Final = (1, 8)
_ENDING: Final = (_FIN_WAIT1, 9, 11)


class _Row(NamedTuple):
    state: int
    unsent: int
    inode: str


def _rows(process: int) -> Iterator[_Row]:
    """The TCP sockets in the namespace of `process`, none when it has ended."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{process}/net/{name}") as table:
                lines = table.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _Row(int(fields[3], 16), int(fields[4].partition(":")[0], 16), fields[9])


def delivered(process: int) -> bool:
    """Return whether no connection that everybody has closed has data or its end to deliver."""
    return not any(
        # A socket that no descriptor has any more has no inode either.  Where the peer has
        # closed too, it need not know of this end, which counts as one byte.
        row.inode == "0" and (row.state == _FIN_WAIT1 or (row.state in _ENDING and row.unsent > 1))
        for row in _rows(process)
    )


def close_sockets(process: int) -> None:
    """Close this process's descriptors of TCP sockets in the namespace of `process`.

    Other files are put in their places, so that whoever owns one closes nobody else's.
    """
    names = {f"socket:[{row.inode}]" for row in _rows(process)}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}") in names:
                    os.dup2(null, int(name), inheritable=False)
            except OSError:
                continue
    finally:
        os.close(null)


def finished(process: int) -> bool:
    """Return whether no connection in the namespace has data or its end to deliver."""
    return not any(
        row.state in _ENDING or (row.state in _OPEN and row.unsent) for row in _rows(process)
    )
