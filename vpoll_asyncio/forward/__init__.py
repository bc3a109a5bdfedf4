"""Forwarding a port of one stack, or of the host, to an address on another."""

from __future__ import annotations

from typing import Literal

from ..stacks.base import Stack
from .address import AddressLike, parse_ends
from .base import Forward
from .tcp import TcpForward
from .udp import UdpForward

__all__ = ["Forward", "forward"]


async def forward(
    *ends: Stack | AddressLike,
    proto: Literal["tcp", "udp"] = "tcp",
    backlog: int = 100,
    idle_timeout: float = 60.0,
    max_clients: int = 1024,
) -> Forward:
    """Forward what arrives at one address to another; return the running `Forward`.

    Parameters:
    ends -- where from and where to: two addresses, each behind the stack that it is on;
        an address without a stack is the host's
    proto -- "tcp" or "udp"
    backlog -- TCP: connections that may wait to be accepted
    idle_timeout -- UDP: seconds after which a client that neither sent nor received
        anything is forgotten
    max_clients -- UDP: clients at a time; one more displaces the one that was idle longest

    An address is ``"host:port"``, ``"[::1]:port"``, ``":port"`` (TCP: every address of
    the stack) or a tuple ``(host, port)``.  Port 0 lets the stack choose where to listen:
    see `Forward.sockname`.

        await forward("127.0.0.1:8080", stack, "10.0.2.15:80")   # the host's port, into a stack
        await forward(stack, "10.0.2.15:80", "127.0.0.1:8080")   # the stack's port, to the host
        await forward(one, "10.1.0.1:53", two, "10.2.0.1:53", proto="udp")

    TCP: the end of each direction is passed on by itself, a sender is held back while
    the receiver does not read, and an error on one side resets the other, also when the
    target refuses the connection.  UDP: each client has a socket of its own towards the
    target, so replies go to who asked; what does not fit is dropped.

    Runs on whichever loop is running.  Raises ValueError for what is no address, TypeError
    for other than two addresses, OSError as bind(2) and listen(2) do, and OSError (ENETDOWN)
    when the stack listened on is closed.
    """
    source, target = parse_ends(ends)
    if proto == "tcp":
        running: Forward = await TcpForward.start(source, target, backlog)
    elif proto == "udp":
        running = await UdpForward.start(source, target, idle_timeout, max_clients)
    else:
        raise ValueError(f"proto {proto!r}: expected 'tcp' or 'udp'")
    return running
