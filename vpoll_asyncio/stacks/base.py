"""The interface of a stack: a factory of sockets with addresses of its own.

Its operations are those of a VUOS `vunet` module, with Python's names.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

from ..sockaddr import AddrInfo
from ..vpoll import VPoll
from .addrinfo import Question, ask, localhost, loopback_name
from .names import Addresses, Resolver

__all__ = ["AddrInfo", "Addresses", "Stack", "StackInfo", "activated", "attach"]

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)

# Taken before anybody replaces it: a stack's parsing never depends on another stack.
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


def attach(loop: asyncio.AbstractEventLoop, stack: Stack) -> None:
    """Let `loop` drive `stack`.  Loops of this package then detach it when they are closed.

    Raises RuntimeError as `Stack.attach` does.
    """
    own = getattr(loop, "attach_stack", None)
    if own is None:
        stack.attach(loop)
    else:
        own(stack)


def _overridden(method: Callable[..., Any], original: Callable[..., Any]) -> bool:
    """Return whether a bound `method` is another one than the base class's."""
    return getattr(method, "__func__", None) is not original


def _unknown(host: str, stack: str) -> socket.gaierror:
    text = (
        f"{host!r}: no such name on the {stack} stack, which has no DNS: "
        "open it with a name server (dns=ADDRESS), or use an address"
    )
    return socket.gaierror(socket.EAI_NONAME, text)


def _numeric_names(sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    flags = flags & ~socket.NI_NAMEREQD | socket.NI_NUMERICHOST
    return _kernel_getnameinfo(sockaddr, flags)


def _required(exc: socket.gaierror, flags: int) -> bool:
    """Return whether `exc` is an answer: without it the address stands for its name."""
    return bool(flags & socket.NI_NAMEREQD) or exc.errno != socket.EAI_NONAME


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

    @property
    def host_loopback(self) -> str | None:
        """The address under which the stack reaches this host's loopback, None where none is known.

        Through ``slirp://`` it is the link's (`Link.host_loopback`).  Errors of ``connect``
        to 127.0.0.1, which is the stack's own, name it.
        """
        return None

    resolver: Resolver | None = None
    """What asks name servers through the stack, None where it has none to ask."""

    def set_dns(self, servers: str | Iterable[str], domain: str | Iterable[str] = ()) -> None:
        """Ask the name servers `servers` from the next look-up on, and search in `domain`.

        servers -- numeric addresses, one or several, with a port where it is not 53
            (``"10.0.2.2:5353"``, ``"[fd00::3]:5353"``); none: nobody is asked (EAI_AGAIN)
        domain -- the domains of the search list, one or several

        Both take the place of what was given before; the other options stay.  Raises
        ValueError for what is no address and no domain and then changes nothing; OSError:
        EOPNOTSUPP where names are not the stack's to look up.  May be called from any thread.
        """
        resolver = self.resolver or Resolver(self)
        resolver.configure(servers, domain)
        self.resolver = resolver

    def lookup_hosts(self, host: str, family: int) -> Addresses | None:
        """Return the addresses of a name that the stack knows by itself, as hosts(5) has them.

        family -- AF_INET, AF_INET6, or 0 for both

        None for others, which are then asked for.  By default the machine's own name
        (`socket.gethostname`) has the stack's addresses, as nss-myhostname(8) has it.
        Must not wait.
        """
        if host.rstrip(".").lower() != socket.gethostname().lower():
            return None
        version = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}.get(family)
        own = [ipaddress.ip_interface(address).ip for address in self.addresses]
        found = [str(ip) for ip in own if version in (None, ip.version) and not ip.is_link_local]
        return Addresses(found) if found else None

    def if_nameindex(self) -> list[tuple[int, str]]:
        """Return index and name of every interface, as `socket.if_nameindex` does of the host's."""
        return [(1, "lo")]

    def resolve(self, host: str, family: int) -> list[str]:
        """Return the numeric addresses of the name `host`, for `family` or both when 0.

        What `getaddrinfo` calls with what is neither numeric nor ``localhost``: by
        default `lookup_hosts`, then `resolver`.  It may wait, driving the stack.  One
        that is overridden without `aresolve` runs in an executor where a loop asks.
        It may return `Addresses`, which tell canonical names too.

        Raises `socket.gaierror`: EAI_NONAME when there is no such name, EAI_NODATA when
        it has no address of `family`, EAI_AGAIN when nobody answers.
        """
        known = self.lookup_hosts(host, family)
        if known is not None:
            return known
        if self.resolver is None:
            raise _unknown(host, self.name)
        return self.resolver.lookup(host, family)

    async def aresolve(self, host: str, family: int) -> list[str]:
        """Return what `resolve` returns, without keeping the running loop from its work."""
        if _overridden(self.resolve, Stack.resolve):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self.resolve, host, family)
        known = self.lookup_hosts(host, family)
        if known is not None:
            return known
        if self.resolver is None:
            raise _unknown(host, self.name)
        attach(asyncio.get_running_loop(), self)
        return await self.resolver.alookup(host, family)

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddrInfo]:
        """Return what `socket.getaddrinfo` returns, by the stack's own names; may wait.

        Answers of families that the stack does not support are left out.  Raises
        `socket.gaierror`.
        """
        found = self._ask(host, port, family, type, proto, flags)
        if not isinstance(found, Question):
            return found
        known = localhost(found.host, found.family)
        return found.answers(self.resolve(found.host, found.family) if known is None else known)

    async def agetaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddrInfo]:
        """Return what `getaddrinfo` returns, without keeping the running loop from its work."""
        if _overridden(self.getaddrinfo, Stack.getaddrinfo):
            arguments = host, port, family, type, proto, flags
            return await asyncio.get_running_loop().run_in_executor(
                None, self.getaddrinfo, *arguments
            )
        found = self._ask(host, port, family, type, proto, flags)
        if not isinstance(found, Question):
            return found
        known: list[str] | None = localhost(found.host, found.family)
        if known is None:
            known = await self.aresolve(found.host, found.family)
        return found.answers(known)

    def _ask(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> list[AddrInfo] | Question:
        return ask(
            host,
            port,
            family,
            type,
            proto,
            flags,
            supported=self.resolves,
            own=lambda: self.addresses,
            stack=self.name,
        )

    def reverse(self, address: str) -> Addresses:
        """Return `address` with the name that it has; may wait, driving the stack.

        Not asked for ``127.0.0.1`` and ``::1``, which are ``localhost``.  By default
        `resolver` is asked.  Raises `socket.gaierror`: EAI_NONAME when it has
        none, EAI_AGAIN when nobody answers.
        """
        if self.resolver is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{address!r} has no name here")
        return self.resolver.reverse(address)

    async def areverse(self, address: str) -> Addresses:
        """Return what `reverse` returns, without keeping the running loop from its work."""
        if _overridden(self.reverse, Stack.reverse):
            return await asyncio.get_running_loop().run_in_executor(None, self.reverse, address)
        if self.resolver is None:
            return self.reverse(address)
        attach(asyncio.get_running_loop(), self)
        return await self.resolver.areverse(address)

    def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return (host, service) as `socket.getnameinfo`, by the stack's own names; may wait.

        Raises `socket.gaierror`: EAI_NONAME when NI_NAMEREQD asks for a name that the
        address does not have, EAI_AGAIN when nobody answers.
        """
        host, service = _numeric_names(sockaddr, flags)
        if not self._has_names(host, flags):
            return host, service
        if (known := loopback_name(host)) is not None:
            return known.canonname, service
        try:
            return self._short(self.reverse(host).canonname, flags), service
        except socket.gaierror as exc:
            if _required(exc, flags):
                raise
        return host, service

    async def agetnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Return what `getnameinfo` returns, without keeping the running loop from its work."""
        if _overridden(self.getnameinfo, Stack.getnameinfo):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self.getnameinfo, sockaddr, flags)
        host, service = _numeric_names(sockaddr, flags)
        if not self._has_names(host, flags):
            return host, service
        if (known := loopback_name(host)) is not None:
            return known.canonname, service
        try:
            return self._short((await self.areverse(host)).canonname, flags), service
        except socket.gaierror as exc:
            if _required(exc, flags):
                raise
        return host, service

    def _has_names(self, host: str, flags: int) -> bool:
        """Return whether the name of `host` is asked for.  Raises as `getnameinfo`."""
        if flags & socket.NI_NUMERICHOST:
            if flags & socket.NI_NAMEREQD:
                raise socket.gaierror(
                    socket.EAI_NONAME,
                    f"{host!r}: NI_NUMERICHOST and NI_NAMEREQD exclude each other",
                )
            return False
        if loopback_name(host) is not None:
            return True
        nobody = self.resolver is None and not _overridden(self.reverse, Stack.reverse)
        return bool(flags & socket.NI_NAMEREQD) or not nobody

    def _short(self, name: str, flags: int) -> str:
        """Return `name` without the stack's own domain where NI_NOFQDN asks for that."""
        if flags & socket.NI_NOFQDN and self.resolver is not None:
            for domain in self.resolver.conf.search[:1]:
                return name.removesuffix(f".{domain}")
        return name

    def gethostbyname_ex(self, host: str) -> tuple[str, list[str], list[str]]:
        """Return (name, aliases, IPv4 addresses) as `socket.gethostbyname_ex`; may wait.

        Raises `socket.gaierror`.
        """
        found = self._ask(host, None, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
        if not isinstance(found, Question):
            return host, [], [str(answer[4][0]) for answer in found]
        known: list[str] | None = localhost(found.host, found.family)
        if known is None:
            known = self.resolve(found.host, found.family)
        name = getattr(known, "canonname", "") or host
        addresses = [str(answer[4][0]) for answer in found.answers(known)]
        return name, list(getattr(known, "aliases", ())), addresses

    def gethostbyaddr(self, host: str) -> tuple[str, list[str], list[str]]:
        """Return (name, aliases, addresses) as `socket.gethostbyaddr`; may wait.

        Raises `socket.gaierror` for a name that is not known, `socket.herror` for an
        address that has none.
        """
        address = str(self.getaddrinfo(host, None, 0, socket.SOCK_STREAM)[0][4][0])
        try:
            found = loopback_name(address) or self.reverse(address)
        except socket.gaierror as exc:
            again = exc.errno == socket.EAI_AGAIN
            # <netdb.h>: HOST_NOT_FOUND and TRY_AGAIN.
            code, text = (2, "Host name lookup failure") if again else (1, "Unknown host")
            raise socket.herror(code, f"{text}: {exc}") from exc
        return found.canonname, found.aliases, [address]

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` drive the stack: its links, its timers.

        To be called in the loop's thread, or before it runs.  Attaching to the same
        loop again changes nothing.  Of several loops one that runs drives; the others are
        served as well, and one of them takes over when that one stops.  A stack that only
        one loop may use raises RuntimeError while another has it.
        """

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Undo `attach`; loops of this package call it when they are closed."""

    def wait(self, vpoll: VPoll, mask: int, timeout: float | None) -> int:
        """Block until an event of `mask`, ERR or HUP is pending on `vpoll`; return what is.

        Blocking sockets wait with this.  A stack that nobody drives meanwhile drives
        itself in here.  Returns 0 after `timeout` seconds (None: never).
        """
        return int(vpoll.wait(mask, timeout))

    def drain(self, timeout: float) -> bool:
        """Close every socket as the end of a process does, and wait until its data has arrived.

        timeout -- seconds to wait at most

        A kernel goes on sending when a process has ended, a stack that ends with its
        process cannot: this comes before `close`.  What was received and not read makes a
        connection end with a reset, as close(2) has it.  Returns whether every connection
        has ended or has had all its data acknowledged; True at once where nothing would
        be lost.  May be called from any thread, of the process that opened the stack.
        """
        return True

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
            raise OSError(
                errno.ENETDOWN,
                f"the {self.name} stack is closed: keep it open until its sockets are done with",
            )
