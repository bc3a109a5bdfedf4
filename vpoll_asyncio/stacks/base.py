"""The interface of a stack: a factory of sockets with addresses of its own.

Its operations are those of a VUOS `vunet` module, with Python's names.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import errno
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

from ..sockaddr import AddrInfo, numeric_answer
from ..vpoll import VPoll

__all__ = ["AddrInfo", "Stack", "StackInfo", "activated"]

_ADDRCONFIG: Final = int(socket.AI_ADDRCONFIG)
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)

# Taken before anybody replaces them: a stack's parsing never depends on another stack.
_kernel_getaddrinfo = socket.getaddrinfo
_kernel_getnameinfo = socket.getnameinfo

activated: contextvars.ContextVar[Stack | None] = contextvars.ContextVar(
    "vpoll_asyncio.activated", default=None
)
"""The stack of the context, set by `Stack.activate`."""


class StackInfo(NamedTuple):
    """A stack as the command line's `info` lists it."""

    name: str
    available: bool
    why: str
    """What is missing, when it is not available; else empty."""


class Stack(abc.ABC):
    """A network stack: makes sockets, resolves names, runs on a loop.

    A stack's author implements `supported_domain`, `socket` and `close`, and where
    the stack needs driving, `attach`, `detach` and `wait`.  A stack is a context
    manager that closes itself.
    """

    name: ClassVar[str]
    """The name under which `open_stack` finds it."""

    kernel: ClassVar[bool] = False
    """Whether its sockets are the kernel's own: loops then carry them with transports of theirs."""

    @classmethod
    def missing(cls) -> str:
        """Return why the stack cannot be opened here and what to install, or ``""``."""
        return ""

    @abc.abstractmethod
    def supported_domain(self, family: int) -> bool:
        """Return whether `socket` makes sockets of the address family `family`."""

    def claims(self, family: int) -> bool:
        """Return whether, under `install`, this stack is asked for sockets of `family`.

        What it does not claim goes to the kernel.  By default it claims AF_INET and
        AF_INET6, whether or not it has them.
        """
        return family in _INTERNET

    def resolves(self, family: int) -> bool:
        """Return whether `getaddrinfo` answers with addresses of `family`."""
        return self.supported_domain(family)

    @abc.abstractmethod
    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        """Return a new socket, blocking as `socket.getdefaulttimeout` says.

        Raises OSError: EAFNOSUPPORT for an address family and EPROTONOSUPPORT or
        ESOCKTNOSUPPORT for a type that the stack does not have, ENETDOWN when the
        stack is closed.  May be called from any thread.
        """

    @property
    def addresses(self) -> list[str]:
        """The stack's own addresses with their prefix lengths, ``"10.0.2.15/24"``."""
        return []

    def resolve(self, host: str, family: int) -> list[str]:
        """Return the numeric addresses of the name `host`, for `family` or both when 0.

        Called by `getaddrinfo` with what is neither numeric nor ``localhost``.
        Raises `socket.gaierror` (EAI_NONAME) when there is no such name.
        """
        raise socket.gaierror(
            socket.EAI_NONAME, f"{host!r}: no such name on the {self.name} stack, which has no DNS"
        )

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddrInfo]:
        """Return what `socket.getaddrinfo` returns, by the stack's own names.

        Answers of families that the stack does not support are left out.  Raises
        `socket.gaierror`.
        """
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("idna")
        # The stack's own addresses decide, not those that this machine has.
        flags &= ~_ADDRCONFIG
        plain = numeric_answer(host, port, family, type, proto, flags)
        if plain is not None and self.resolves(plain[0]):
            return [plain]
        answers: list[AddrInfo]
        try:
            answers = self._numeric(host, port, family, type, proto, flags)
        except socket.gaierror as exc:
            if exc.errno != socket.EAI_NONAME or not host or flags & socket.AI_NUMERICHOST:
                raise
            answers = []
            for address in self._lookup(host, family):
                answers += self._numeric(address, port, 0, type, proto, flags)
        answers = [answer for answer in answers if self.resolves(answer[0])]
        if family:
            answers = [answer for answer in answers if answer[0] == family]
        if not answers:
            raise socket.gaierror(
                socket.EAI_ADDRFAMILY, f"{host!r}: no address of a family that {self.name} supports"
            )
        return answers

    def _lookup(self, host: str, family: int) -> list[str]:
        if host.rstrip(".").lower() in ("localhost", "localhost.localdomain"):
            wanted = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
            return [address for domain, address in wanted if family in (0, domain)]
        return self.resolve(host, family)

    @staticmethod
    def _numeric(
        host: str | None, port: Any, family: int, type: int, proto: int, flags: int
    ) -> list[AddrInfo]:
        found = _kernel_getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        return list(found)

    def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return (host, service) as `socket.getnameinfo`; hosts stay numeric.

        Raises `socket.gaierror` (EAI_NONAME) when NI_NAMEREQD asks for a name.
        """
        if flags & socket.NI_NAMEREQD:
            raise socket.gaierror(socket.EAI_NONAME, f"{sockaddr[0]!r} has no name here")
        return _kernel_getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` drive the stack: its links, its timers.

        To be called in the loop's thread, or before it runs.  Attaching to the same
        loop again changes nothing.  While another loop runs and drives a stack that
        only one loop can drive, the stack serves this one as well, which takes over when
        that one stops.  Raises RuntimeError when that other loop does not run at the
        moment, and is not closed.
        """

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Undo `attach`; loops of this package call it when they are closed."""

    def wait(self, vpoll: VPoll, mask: int, timeout: float | None) -> int:
        """Block until an event of `mask`, ERR or HUP is pending on `vpoll`; return what is.

        Blocking sockets wait with this.  A stack that nobody drives meanwhile drives
        itself in here.  Returns 0 after `timeout` seconds (None: never).
        """
        return int(vpoll.wait(mask, timeout))

    @abc.abstractmethod
    def close(self) -> None:
        """Close the stack and its links.  Closing twice is allowed.

        Sockets that are still open become dead: HUP and ERR are pending, calls raise
        OSError (ENETDOWN).
        """

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether `close` has been called."""

    @contextlib.contextmanager
    def activate(self) -> Iterator[Self]:
        """Make this the current stack of the context: of this task and those it starts.

        It sets the context variable and nothing else.  Programs that make their own
        ``socket.socket()``, aiohttp's client among them, need `vpoll_asyncio.install`
        besides, which `vpoll_asyncio.run` with a stack has in force: without it those
        sockets are the kernel's and reach the real network.
        """
        token = activated.set(self)
        try:
            yield self
        finally:
            activated.reset(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def refuse_closed(self) -> None:
        """Raise OSError (ENETDOWN) when the stack is closed."""
        if self.closed:
            raise OSError(errno.ENETDOWN, f"the {self.name} stack is closed")
