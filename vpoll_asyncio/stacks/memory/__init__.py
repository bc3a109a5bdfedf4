"""The `memory` stack: networks of hosts inside one process, with the kernel's behaviour.

`stack` is the stack, `network` and `ports` say who is where, `tcp` (with `queue` and
`opening`) and `udp` are the endpoints, `stream` and `datagram` the sockets over them.
"""

from __future__ import annotations

from .stack import MemoryStack

__all__ = ["MemoryStack"]
