"""What an error of a stack's socket means there, as a note beneath the kernel's own words.

Programs compare the number and the text of what bind(2) and connect(2) raise, so both stay
the kernel's.  What the stack knows besides, its addresses and the loopback that is its own,
goes into a note (`BaseException.add_note`), which tracebacks show.

Nothing here raises or blocks; every function may be called from any thread.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .stacks.base import Stack

__all__ = ["copy_notes", "explain_bind", "explain_connect", "explain_send"]


def explain_bind(error: OSError, stack: Stack, address: Any) -> OSError:
    """Return `error`, with which a socket of `stack` was not bound to `address`, with a note."""
    return _explain(error, stack, address, _BIND)


def explain_connect(error: OSError, stack: Stack, address: Any) -> OSError:
    """Return `error`, with which `stack` has not connected to `address`, with a note."""
    return _explain(error, stack, address, _CONNECT)


def explain_send(error: OSError, stack: Stack, address: Any) -> OSError:
    """Return `error`, with which a datagram of `stack` to `address` was refused, with a note."""
    return _explain(error, stack, address, _SEND)


def copy_notes(source: BaseException, target: BaseException) -> None:
    """Give `target` the notes of `source` that it does not have."""
    for note in getattr(source, "__notes__", ()):
        _add(target, note)


def _add(error: BaseException, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _explain(error: OSError, stack: Stack, address: Any, notes: dict[int, _Note]) -> OSError:
    note = notes.get(error.errno or 0)
    if note is None or stack.closed or not (isinstance(address, tuple) and len(address) >= 2):
        return error
    try:
        host = ipaddress.ip_address(address[0])
        own = [ipaddress.ip_interface(text) for text in stack.addresses]
    except (OSError, ValueError):
        # A name, or a stack that is being closed by another thread.
        return error
    # Of the host's own stack this process knows no more than the kernel has said.
    if own or not stack.kernel:
        _add(error, note(stack, _Where(host, int(address[1]), own)))
    return error


class _Where:
    """An address and port that a socket of a stack was asked for."""

    def __init__(
        self,
        host: ipaddress.IPv4Address | ipaddress.IPv6Address,
        port: int,
        own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
    ) -> None:
        self.host = host
        self.port = port
        self.same = [one for one in own if one.version == host.version]
        """The stack's addresses of the same family."""

    @property
    def listed(self) -> str:
        """The stack's addresses of that family, in words."""
        return ", ".join(map(str, self.same)) or f"no IPv{self.host.version} address"

    @property
    def alone(self) -> str:
        """An address that has nobody beside it, since it was given without prefix length."""
        if self.host.version == 6:
            return ""
        return next((str(one.ip) for one in self.same if one.network.num_addresses == 1), "")


def _not_ours(stack: Stack, where: _Where) -> str:
    everything = "0.0.0.0" if where.host.version == 4 else "::"
    return (
        f"{where.host} is no address of the {stack.name} stack, which has {where.listed}: "
        f"bind one that it has, or {everything} for all of them"
    )


def _taken(stack: Stack, where: _Where) -> str:
    return (
        f"another socket of the {stack.name} stack, or a connection that has just ended, has port "
        f"{where.port}: close that one, or bind another port; 0 lets the stack choose a free one"
    )


def _no_route(stack: Stack, where: _Where) -> str:
    note = (
        f"the {stack.name} stack has {where.listed} and no route to {where.host}: open it with a "
        "gateway (gw=ADDRESS), or with an address in that network (ip=ADDRESS/PREFIX)"
    )
    if where.alone:
        note += (
            f"; {where.alone} without a prefix length is a network of its own, "
            f"which ip='{where.alone}/24' is not"
        )
    return note


def _refused(stack: Stack, where: _Where) -> str:
    if not where.host.is_loopback:
        return (
            f"nothing listens on port {where.port} of {where.host}, as the {stack.name} stack "
            "reaches it: start the server first, on that network and not on this host's own"
        )
    note = (
        f"{where.host} is the {stack.name} stack's own loopback, not this host's, and nothing "
        f"listens there on port {where.port}: "
    )
    outside = stack.host_loopback
    if outside is not None:
        return note + f"this host's own loopback is {outside} from here"
    return note + (
        "for a server of the host, connect without the stack "
        "(vpoll_asyncio.open_connection(..., stack=vpoll_asyncio.open_stack('host')))"
    )


def _silent(stack: Stack, where: _Where) -> str:
    return (
        f"{where.host} has not answered the {stack.name} stack, which has {where.listed}: see "
        "whether that host is up and on the same network, or behind the stack's gateway"
    )


_Note = Callable[["Stack", _Where], str]

_BIND: Final[dict[int, _Note]] = {
    errno.EADDRNOTAVAIL: _not_ours,
    errno.EADDRINUSE: _taken,
}
_CONNECT: Final[dict[int, _Note]] = {
    errno.ECONNREFUSED: _refused,
    errno.EHOSTUNREACH: _silent,
    errno.ENETUNREACH: _no_route,
    errno.ETIMEDOUT: _silent,
}
# A datagram may be refused for what became of an earlier one: that is not to be explained.
_SEND: Final[dict[int, _Note]] = {
    errno.ENETUNREACH: _no_route,
}
