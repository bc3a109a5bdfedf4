"""The `host` stack: the kernel's own sockets behind the interface of a stack."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import socket
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, NoReturn

from ..kernel import KernelSocket
from .base import AddrInfo, Stack

__all__ = ["HostStack", "host_is_meant", "host_stack", "is_host", "meaning_host"]

# Taken before `install` replaces the names in the socket module.
_kernel_getaddrinfo: Final = socket.getaddrinfo
_kernel_getnameinfo: Final = socket.getnameinfo
_kernel_gethostbyname_ex: Final = socket.gethostbyname_ex
_kernel_gethostbyaddr: Final = socket.gethostbyaddr
_kernel_if_nameindex: Final = socket.if_nameindex


class HostStack(Stack):
    """The kernel's sockets, names and routes.

    Its sockets are plain `socket.socket` objects, whatever that name stands for at
    the moment.  There is nothing to close and nothing to drive: `close` does nothing,
    `closed` stays false.  Every method may be called from any thread.
    """

    name: ClassVar[str] = "host"
    kernel: ClassVar[bool] = True

    def supported_domain(self, family: int) -> bool:
        """Return True: the kernel itself says which families it has."""
        return True

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        """Return a new kernel socket.  Raises OSError as `socket.socket` does."""
        return KernelSocket(family, type, proto)

    def if_nameindex(self) -> list[tuple[int, str]]:
        return list(_kernel_if_nameindex())

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddrInfo]:
        """Return what `socket.getaddrinfo` returns; may block.  Raises `socket.gaierror`."""
        return list(_kernel_getaddrinfo(host, port, family, type, proto, flags))

    def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return what `socket.getnameinfo` returns; may block.  Raises `socket.gaierror`."""
        return _kernel_getnameinfo(sockaddr, flags)

    def gethostbyname_ex(self, host: str) -> tuple[str, list[str], list[str]]:
        """Return what `socket.gethostbyname_ex` returns; may block.  Raises `socket.gaierror`."""
        return _kernel_gethostbyname_ex(host)

    def gethostbyaddr(self, host: str) -> tuple[str, list[str], list[str]]:
        """Return what `socket.gethostbyaddr` returns; may block.  Raises `socket.herror`."""
        return _kernel_gethostbyaddr(host)

    def set_dns(self, servers: str | Iterable[str], domain: str | Iterable[str] = ()) -> NoReturn:
        """Raise OSError (EOPNOTSUPP): the host's names are looked up as it says itself."""
        raise OSError(errno.EOPNOTSUPP, "the host's resolv.conf names its servers")

    def close(self) -> None:
        """Do nothing: the kernel stays."""

    @property
    def closed(self) -> bool:
        """False."""
        return False

    def __repr__(self) -> str:
        return "<HostStack>"


_host: Final = HostStack()

_meant: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar(
    "vpoll_asyncio.host_meant", default=False
)


@contextlib.contextmanager
def meaning_host() -> Iterator[None]:
    """Let no loop wonder at a kernel socket: whoever made it has named the host's stack.

    It says nothing about the current stack, as `Stack.activate` does.
    """
    token = _meant.set(True)
    try:
        yield
    finally:
        _meant.reset(token)


def host_is_meant() -> bool:
    """Return whether `meaning_host` is in force in this context."""
    return _meant.get()


def host_stack() -> HostStack:
    """Return the process's one `HostStack`."""
    return _host


def is_host(stack: Stack) -> bool:
    """Return whether `stack` is the host's: what a loop does by itself, it does on that one."""
    # isinstance would take ten times as long, as the class is abstract.
    return HostStack in type(stack).__mro__
