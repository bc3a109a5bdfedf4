"""What a stack does beside what the kernel does: the same steps on both, compared one by one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from ...stacks.host import host_stack
from .lab import BOUND, Hosts, Lab, mask_of, until

__all__ = ["Both", "Oracle", "Outcome", "free_ports", "outcome", "told"]

Outcome = tuple[str, Any]
"""``("returned", value)`` or ``("failed", errno)``."""

Both = tuple[socket.socket, socket.socket]
"""A socket of the stack, and the kernel's that has done the same."""


def _candidates() -> Iterator[int]:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    below = range(max(1024, int(first) - 16384), int(first))
    # Processes that run tests at the same time begin at different places.
    start = os.getpid() * 997
    while True:
        yield below[start % len(below)]
        start += 1


_ports = _candidates()

# Seconds.  With the usual ones the search for the shortest program would take longer than
# a test may.
_BOUND_ONCE_FAILED = 0.5


def free_ports(count: int) -> list[int]:
    """Return ports that no socket of the kernel has, nor a connection that has ended."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with contextlib.ExitStack() as probes:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                probe = probes.enter_context(socket.socket(socket.AF_INET6, kind))
                try:
                    probe.bind(("::", port))
                except OSError:
                    break
            else:
                found.append(port)
    return found


def outcome(call: Callable[..., Any], *args: Any) -> Outcome:
    """Return what `call` returns, or its errno, as a pair that can be compared."""
    try:
        return "returned", call(*args)
    except OSError as exc:
        return "failed", exc.errno


def told(result: Outcome) -> str:
    """Return `result` in words."""
    kind, value = result
    name = errno.errorcode.get(value, value) if kind == "failed" else repr(value)
    return f"{kind}: {name}"


class Oracle:
    """Sockets of a stack, each with one of the host's kernel that does the same.

    hosts -- the stack's two hosts, which may be one and the same
    bound -- seconds in which the event masks of both must have become the same, and in which
        the stack must have made what its lab is asked for, a connection for instance

    The kernel's sockets are at 127.0.0.1 whatever addresses `hosts` has; where those are
    not loopback's, names are not to be compared.  Every method raises AssertionError when
    the two differ.  For one thread at a time.
    It is a context manager that calls `close_all`.
    """

    failed: ClassVar[bool] = False
    """Whether a difference has been found: every shorter program with it waits for its end,
    and from now on for half a second at the most."""

    def __init__(self, hosts: Hosts, bound: float = BOUND) -> None:
        kernel = host_stack()
        self.labs: Final = [Lab(hosts, bound), Lab(Hosts(kernel, kernel, "127.0.0.1", "127.0.0.1"))]
        """The stack's sockets are made in the first, the kernel's in the second."""
        self.socks: Final[list[Both]] = []
        self._bound = bound

    def add(self, make: Callable[[Lab], socket.socket]) -> Both:
        """Let `make` make a socket in each lab; return both, which are compared from now on."""
        stack, host = self.labs
        both = make(stack), make(host)
        self.socks.append(both)
        return both

    def same(self, both: Both, call: Callable[[socket.socket], Any]) -> Outcome:
        """Do `call` on both and compare; return the common outcome."""
        on_stack, on_host = (outcome(call, sock) for sock in both)
        if on_stack != on_host:
            raise AssertionError(f"stack {told(on_stack)}, kernel {told(on_host)}")
        return on_stack

    def not_compared(self, both: Both) -> int:
        """Return the events that one of the two may have without the other."""
        return 0

    def masks_agree(self) -> None:
        """Wait until the event masks of all sockets are the same."""
        for both in self.socks:
            self.settle(both)

    @property
    def patience(self) -> float:
        """Seconds after which a state that should come has not come."""
        return min(self._bound, _BOUND_ONCE_FAILED) if Oracle.failed else self._bound

    def name(self, both: Both) -> str:
        """Return what the messages call the two sockets `both`."""
        return f"socket {self.socks.index(both)}"

    def settle(self, both: Both) -> None:
        """Wait until both show the same events."""
        on_stack, on_host = both
        compared = ~self.not_compared(both)

        def agree() -> bool:
            return not (mask_of(on_stack) ^ mask_of(on_host)) & compared

        try:
            until(agree, bound=self.patience, drive=self.labs[0].drive)
        except AssertionError:
            Oracle.failed = True
            raise AssertionError(
                f"{self.name(both)}: stack {mask_of(on_stack)!r}, kernel {mask_of(on_host)!r}"
            ) from None

    def close_all(self) -> None:
        """Close every socket, those of the labs that are not in `socks` too."""
        for lab in self.labs:
            lab.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close_all()
