"""Process-wide: the `socket` module's makers dispatch on the current stack.

Unmodified programs make their sockets with ``socket.socket()`` and resolve names with
``socket.getaddrinfo()``.  Under `install` these ask `current_stack` each time: for
the address families that it claims (`Stack.claims`: AF_INET and AF_INET6, of some
stacks more) the current stack answers, everything else and everything where that is
the host's goes to the kernel as before.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from .descriptorcalls import ON_DESCRIPTORS
from .guards import GUARDED, socket_of_descriptor
from .kernel import KernelSocket
from .lookups import StackProtocol, asks_stacks
from .stacks.base import AddrInfo, Stack
from .stacks.current import current_stack
from .stacks.host import is_host

__all__ = ["install", "installed"]


class _DispatchType(type):
    """The class of what stands in for `socket.socket`.

    Calling it makes a socket of the current stack; ``isinstance`` and ``issubclass``
    ask the kernel's class, so that sockets made earlier and elsewhere still count.
    Classes that programs derive from it are ordinary.
    """

    def __call__(
        cls,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        **unknown: Any,
    ) -> Any:
        if cls is not _DispatchSocket:
            return super().__call__(family, type, proto, fileno, **unknown)
        if fileno is not None:
            sock = socket_of_descriptor(fileno)
            if sock is not None:
                return sock
        elif not unknown:
            wanted = socket.AF_INET if family == -1 else family
            stack = current_stack()
            if not is_host(stack) and stack.claims(wanted):
                kind = socket.SOCK_STREAM if type == -1 else type
                return stack.socket(wanted, kind, 0 if proto == -1 else proto)
        return KernelSocket(family, type, proto, fileno, **unknown)

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is _DispatchSocket:
            return isinstance(instance, KernelSocket)
        return super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls is _DispatchSocket:
            return issubclass(subclass, KernelSocket)
        return super().__subclasscheck__(subclass)


class _DispatchSocket(KernelSocket, metaclass=_DispatchType):
    __doc__ = KernelSocket.__doc__
    __slots__ = ()


_DispatchSocket.__name__ = "socket"
_DispatchSocket.__qualname__ = "socket"
_DispatchSocket.__module__ = "socket"


def _other_stack() -> Stack | None:
    stack = current_stack()
    return None if is_host(stack) else stack


_kernel: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(socket, name)
    for name in (
        "getaddrinfo",
        "getnameinfo",
        "gethostbyname",
        "gethostbyname_ex",
        "gethostbyaddr",
        "if_nameindex",
        "if_nametoindex",
        "if_indextoname",
    )
}


@asks_stacks
def _getaddrinfo(
    host: str | bytes | None,
    port: str | bytes | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[AddrInfo]:
    stack = proto.stack if isinstance(proto, StackProtocol) else _other_stack()
    if stack is None:
        found: list[AddrInfo] = _kernel["getaddrinfo"](host, port, family, type, proto, flags)
        return found
    return stack.getaddrinfo(host, port, family, type, proto, flags)


def _getnameinfo(sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    stack = _other_stack()
    if stack is None:
        found: tuple[str, str] = _kernel["getnameinfo"](sockaddr, flags)
        return found
    return stack.getnameinfo(sockaddr, flags)


def _gethostbyname(host: str) -> str:
    stack = _other_stack()
    if stack is None:
        return str(_kernel["gethostbyname"](host))
    return str(stack.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])


def _gethostbyname_ex(host: str) -> tuple[str, list[str], list[str]]:
    stack = _other_stack()
    if stack is None:
        found: tuple[str, list[str], list[str]] = _kernel["gethostbyname_ex"](host)
        return found
    return stack.gethostbyname_ex(host)


def _gethostbyaddr(host: str) -> tuple[str, list[str], list[str]]:
    stack = _other_stack()
    if stack is None:
        found: tuple[str, list[str], list[str]] = _kernel["gethostbyaddr"](host)
        return found
    return stack.gethostbyaddr(host)


def _if_nameindex() -> list[tuple[int, str]]:
    stack = _other_stack()
    if stack is None:
        found: list[tuple[int, str]] = _kernel["if_nameindex"]()
        return found
    return stack.if_nameindex()


def _if_nametoindex(name: str | bytes, /) -> int:
    stack = _other_stack()
    if stack is None:
        return int(_kernel["if_nametoindex"](name))
    wanted = os.fsdecode(name)
    for index, other in stack.if_nameindex():
        if other == wanted:
            return index
    raise OSError(errno.ENODEV, f"no interface {wanted!r} on the {stack.name} stack")


def _if_indextoname(index: int, /) -> str:
    stack = _other_stack()
    if stack is None or not 0 <= operator.index(index) < 1 << 32:
        # What is no interface's index anywhere is refused in the kernel function's own words.
        return str(_kernel["if_indextoname"](index))
    for other, name in stack.if_nameindex():
        if other == index:
            return name
    raise OSError(errno.ENXIO, f"no interface {index} on the {stack.name} stack")


_REPLACEMENTS: Final[tuple[tuple[Any, str, Any], ...]] = (
    (socket, "socket", _DispatchSocket),
    (socket, "getaddrinfo", _getaddrinfo),
    (socket, "getnameinfo", _getnameinfo),
    (socket, "gethostbyname", _gethostbyname),
    (socket, "gethostbyname_ex", _gethostbyname_ex),
    (socket, "gethostbyaddr", _gethostbyaddr),
    (socket, "if_nameindex", _if_nameindex),
    (socket, "if_nametoindex", _if_nametoindex),
    (socket, "if_indextoname", _if_indextoname),
    *GUARDED,
    *ON_DESCRIPTORS,
)

_lock: Final = threading.RLock()
_depth = 0
_saved: list[tuple[Any, str, Any]] = []


def installed() -> bool:
    """Return whether an `install` is in force.  May be called from any thread."""
    return _depth > 0


@contextlib.contextmanager
def install() -> Iterator[None]:
    """Make the `socket` module dispatch on the current stack, for the whole process.

    `socket.getaddrinfo` and `socket.if_nameindex`, and their like, are covered, too.  Stock
    asyncio loops call the first in an executor, which sees the process default rather than
    the context's stack, but the socket's own for `asyncio.loop.sock_connect`; stock uvloop
    makes sockets and resolves names without the module,
    so it is not covered: the loops of this package are.

    `ssl.SSLContext.wrap_socket` takes user sockets, and a descriptor of one, or a duplicate
    of it, is known by ``socket.socket(fileno=)`` and `socket.fromfd`.  What would read or
    write such a descriptor, which only signals events, or hand it to another process, raises
    OSError (ENOTSUP): `os.read`, `os.write`, `os.sendfile`, `os.fdopen`, `socket.send_fds`,
    `subprocess.Popen` and their like.  What concerns the descriptor itself is done to the
    socket: `os.close`, `os.set_blocking`, `fcntl.fcntl`, `fcntl.ioctl`.
    docs/reference/blocking.md has the table.

    Nests, and may be entered from several threads: the last one to leave puts the
    module back.  `socket.create_connection`, `socket.create_server` and whoever calls
    ``socket.socket`` through the module are covered; what took a name from the module
    before (``from socket import socket``) keeps the kernel's.
    """
    global _depth
    with _lock:
        if _depth == 0:
            for where, name, replacement in _REPLACEMENTS:
                # A name that a class inherits is taken away again.
                _saved.append((where, name, vars(where).get(name)))
                setattr(where, name, replacement)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                while _saved:
                    where, name, saved = _saved.pop()
                    if saved is None:
                        delattr(where, name)
                    else:
                        setattr(where, name, saved)
