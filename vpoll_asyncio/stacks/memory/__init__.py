"""The `memory` stack: networks of hosts inside one process, with the kernel's behaviour.

`stack` is the stack, `network` and `ports` say who is where, `tcp` (with `queue` and
`opening`) and `udp` are the endpoints, `stream` and `datagram` the sockets over them.

`paths` is what a program says of the ways between hosts: `conditions` keeps it, a `path` is
one direction, a `wire` (with `handshake` and `sender`) carries a stream over two, and
`agenda` says when.
"""

from __future__ import annotations

from .agenda import ManualClock
from .paths import MemoryNetwork
from .stack import MemoryStack

__all__ = ["ManualClock", "MemoryNetwork", "MemoryStack"]
