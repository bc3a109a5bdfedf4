"""The `unixpair` backend: IN and OUT by an AF_UNIX socket pair, on any Linux."""

from __future__ import annotations

import socket
from typing import Final

from ..events import IN, OUT
from .base import SET, Backend, Mirror
from .pair import PairMirror

__all__ = ["UnixPairBackend"]

# Below the least size that the kernel allows (SOCK_MIN_SNDBUF), hence that size: OUT is
# then one small message away.
_LEAST: Final = 1


class UnixPairBackend(Backend):
    """A local stream socket pair; needs nothing of the machine."""

    name = "unixpair"
    exact = IN | OUT

    def missing(self) -> str:
        return ""

    def create(self, mask: int) -> Mirror:
        front, back = socket.socketpair()
        try:
            front.setblocking(False)
            front.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LEAST)
            mirror = PairMirror(front, back, self.exact)
            mirror.apply(SET, mask, mask)
        except BaseException:
            front.close()
            back.close()
            raise
        return mirror
