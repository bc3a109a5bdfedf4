"""Addresses and errors on their way between Python and C."""

from __future__ import annotations

import os
import socket
from typing import Any

from ...sockaddr import Address

__all__ = ["from_native", "raise_errno", "to_native"]


def raise_errno(number: int) -> None:
    """Raise OSError for a negative result of the C side."""
    if number < 0:
        raise OSError(-number, os.strerror(-number))


def to_native(ffi: Any, address: Address) -> Any:
    """Return `address` as the C side's ``struct vp_addr``."""
    out = ffi.new("struct vp_addr *")
    out.port = address[1]
    if len(address) == 4:
        out.family = 6
        out.scope = address[3]
        ffi.memmove(out.ip, socket.inet_pton(socket.AF_INET6, address[0]), 16)
    else:
        out.family = 4
        ffi.memmove(out.ip, socket.inet_pton(socket.AF_INET, address[0]), 4)
    return out


def from_native(ffi: Any, address: Any) -> Address:
    """Return a ``struct vp_addr`` as Python writes addresses."""
    packed = ffi.buffer(address.ip, 16)[:]
    if address.family == 6:
        return socket.inet_ntop(socket.AF_INET6, packed), address.port, 0, address.scope
    return socket.inet_ntop(socket.AF_INET, packed[:4]), address.port
