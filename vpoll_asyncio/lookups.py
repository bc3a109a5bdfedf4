"""Names that a stock asyncio loop looks up for a socket of a stack.

``loop.sock_connect`` of asyncio resolves the name in an address before the socket sees it:
it asks the socket for its ``proto``, and calls ``socket.getaddrinfo`` with that in a thread
of its executor, which knows neither the context nor the socket.  So the number that it is
told knows its stack, and under `install` that stack is asked.  Without `install` it would
be the host, whose answer is another network's: that is an error.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ._asyncio import address_to_look_up

if TYPE_CHECKING:
    from .stacks.base import Stack

__all__ = ["StackProtocol", "asks_stacks", "protocol_for"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Taken before anybody replaces it.
_kernel_getaddrinfo: Final = socket.getaddrinfo

_asking: Final[set[Any]] = set()


class StackProtocol(int):
    """A protocol number, told to `socket.getaddrinfo` by a socket of `stack`."""

    stack: Stack


def asks_stacks(function: _Function) -> _Function:
    """Declare that `function`, a ``getaddrinfo``, asks the stack of a `StackProtocol`."""
    _asking.add(function)
    return function


def protocol_for(caller: FrameType, proto: int, stack: Stack) -> int:
    """Return `proto` of a socket of `stack` for the code that runs in `caller`.

    Raises OSError (ENOTSUP) where that is asyncio's ``sock_connect`` and would look a name
    up on the host.
    """
    address = address_to_look_up(caller)
    if address is None:
        return proto
    told = StackProtocol(proto)
    told.stack = stack
    if socket.getaddrinfo in _asking or not _has_name(address):
        return told
    raise OSError(
        errno.ENOTSUP,
        f"sock_connect() would look {address[0]!r} up on the host, and the socket is of the "
        f"{stack.name} stack: give it an address (stack.agetaddrinfo() finds it), use "
        "vpoll_asyncio.EventLoop or open_connection(), or call it under vpoll_asyncio.install()",
    )


def _has_name(address: Any) -> bool:
    if not isinstance(address, tuple) or not address or not address[0]:
        return False
    try:
        _kernel_getaddrinfo(address[0], None, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return True
    except (TypeError, ValueError):
        # Not an address at all: asyncio says so.
        return False
    return False
