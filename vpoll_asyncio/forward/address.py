"""The ends of a forward: an address and the stack that it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..stacks.base import Stack
from ..stacks.host import host_stack

__all__ = ["AddressLike", "End", "parse_address", "parse_ends"]

AddressLike = str | tuple[str | None, int]
"""``"host:port"``, ``"[IPv6 address]:port"``, ``":port"``, or a tuple of host and port."""


class End(NamedTuple):
    """One end of a forward."""

    stack: Stack
    host: str | None
    """None: every address of the stack."""
    port: int

    def __str__(self) -> str:
        host = self.host or ""
        return f"{self.stack.name} {f'[{host}]' if ':' in host else host}:{self.port}"


def parse_address(address: AddressLike) -> tuple[str | None, int]:
    """Return (host, port); the host is None when it is left out.

    Raises ValueError for what is not an address.
    """
    if isinstance(address, tuple):
        host, port = address[0] or None, address[1]
    else:
        name, colon, digits = address.rpartition(":")
        if name.startswith("[") and name.endswith("]"):
            name = name[1:-1]
        elif ":" in name:
            raise ValueError(
                f"address {address!r}: an IPv6 address goes in brackets, as in '[::1]:80'"
            )
        # str.isdigit alone takes other scripts' digits too.
        if not (colon and digits.isascii() and digits.isdigit()):
            raise ValueError(f"address {address!r}: expected 'host:port' with a port in digits")
        host, port = name or None, int(digits)
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"address {address!r}: the port must be within 0 to 65535")
    return host, port


def parse_ends(ends: Sequence[Stack | AddressLike]) -> tuple[End, End]:
    """Return the source and the target that the arguments of `forward` mean.

    Raises TypeError when they are not two addresses with at most one stack before each,
    ValueError for a bad address.
    """
    found: list[End] = []
    stack: Stack | None = None
    for item in ends:
        if isinstance(item, Stack):
            if stack is not None:
                raise TypeError("forward(): a stack must be followed by an address on it")
            stack = item
        elif isinstance(item, (str, tuple)):
            found.append(End(stack or host_stack(), *parse_address(item)))
            stack = None
        else:
            raise TypeError(f"forward(): expected a stack or an address, got {item!r}")
    if stack is not None or len(found) != 2:
        raise TypeError(
            "forward() takes two addresses, each behind the stack that it is on: "
            "forward('127.0.0.1:8080', stack, '10.0.2.15:80')"
        )
    source, target = found
    if target.host is None or not target.port:
        raise ValueError(f"target {target}: expected a host and a port to forward to")
    return source, target
