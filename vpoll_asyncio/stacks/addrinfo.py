"""getaddrinfo(3) around whatever finds the addresses of a name.

`ask` answers what needs no look-up; for the rest it returns a `Question`, whose
`answers` makes the addresses that were found into what `socket.getaddrinfo` returns.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from ..sockaddr import AddrInfo, numeric_answer
from .names import Addresses

__all__ = ["Question", "ask", "localhost", "loopback_name"]

_ADDRCONFIG: Final = int(socket.AI_ADDRCONFIG)
_CANONNAME: Final = int(socket.AI_CANONNAME)
_V4MAPPED: Final = int(socket.AI_V4MAPPED)
_ALL: Final = int(socket.AI_ALL)
_PASSIVE: Final = int(socket.AI_PASSIVE)
_INET: Final = int(socket.AF_INET)
_INET6: Final = int(socket.AF_INET6)
_NUMERICHOST: Final = int(socket.AI_NUMERICHOST)

# Taken before anybody replaces it: a stack's parsing never depends on another stack.
_kernel_getaddrinfo = socket.getaddrinfo


def _numeric(
    host: str | None, port: Any, family: int, type: int, proto: int, flags: int
) -> list[AddrInfo]:
    families: tuple[int, ...] = (family,)
    if host is None and not family:
        # Two addresses, which getaddrinfo(3) would put into an order (RFC 6724) by asking the
        # kernel's routes through sockets.  This is the order that they have with both families.
        families = (_INET, _INET6) if flags & _PASSIVE else (_INET6, _INET)
    return [
        info
        for each in families
        for info in _kernel_getaddrinfo(host, port, each, type, proto, flags | _NUMERICHOST)
    ]


def localhost(host: str, family: int) -> Addresses | None:
    """Return the addresses of ``localhost``, None for another name."""
    if host.rstrip(".").lower() not in ("localhost", "localhost.localdomain"):
        return None
    both = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    return Addresses([address for domain, address in both if family in (0, domain)])


def loopback_name(address: str) -> Addresses | None:
    """Return the numeric loopback address with its name, None for another address.

    It is what hosts(5) has on every machine and nss-myhostname(8) makes up: ``127.0.0.1`` and
    ``::1`` alone are ``localhost``.
    """
    return Addresses([address], "localhost") if address in ("127.0.0.1", "::1") else None


class Question(NamedTuple):
    """What is left to be looked up, and what was asked."""

    host: str
    """The name to look up."""
    family: int
    """The family that it is wanted for, 0 for any."""
    port: Any
    wanted: int
    type: int
    proto: int
    flags: int
    supported: Callable[[int], bool]
    stack: str

    def answers(self, found: Iterable[str]) -> list[AddrInfo]:
        """Return what `socket.getaddrinfo` returns for the addresses `found`.

        Raises `socket.gaierror`: EAI_ADDRFAMILY when none is of a family that the stack
        supports, EAI_SERVICE for a port that has no number.
        """
        addresses = list(found)
        if self.wanted == socket.AF_INET6 and self.family == 0:
            addresses = self._mapped(addresses)
        flags = self.flags & ~(_CANONNAME | _V4MAPPED | _ALL)
        infos: list[AddrInfo] = []
        for address in addresses:
            infos += _numeric(address, self.port, 0, self.type, self.proto, flags)
        infos = _fitting(self.host, infos, self.wanted, self.supported, self.stack)
        if self.flags & _CANONNAME:
            canonname = getattr(found, "canonname", "") or self.host
            family, kind, proto, _, address_ = infos[0]
            infos[0] = family, kind, proto, canonname, address_
        return infos

    def _mapped(self, addresses: list[str]) -> list[str]:
        six = [address for address in addresses if ":" in address]
        if six and not self.flags & _ALL:
            return six
        return [address if ":" in address else f"::ffff:{address}" for address in addresses]


def _fitting(
    host: object,
    infos: list[AddrInfo],
    family: int,
    supported: Callable[[int], bool],
    stack: str,
) -> list[AddrInfo]:
    infos = [info for info in infos if supported(info[0])]
    if family:
        infos = [info for info in infos if info[0] == family]
    if not infos:
        raise socket.gaierror(
            socket.EAI_ADDRFAMILY, f"{host!r}: no address of a family that {stack} supports"
        )
    return infos


def _configured(own: Iterable[str]) -> int:
    """Return the one family that the addresses `own` are of, 0 where they are of both or none."""
    versions = {ipaddress.ip_interface(text).version for text in own}
    if len(versions) != 1:
        return 0
    return int(socket.AF_INET if versions == {4} else socket.AF_INET6)


def ask(
    host: str | bytes | None,
    port: Any,
    family: int,
    type: int,
    proto: int,
    flags: int,
    *,
    supported: Callable[[int], bool],
    own: Callable[[], Iterable[str]],
    stack: str,
) -> list[AddrInfo] | Question:
    """Return the answers to a numeric question, and for a name the `Question` that is left.

    supported -- whether the stack has sockets of a family
    own -- gives the stack's addresses, which decide about AI_ADDRCONFIG
    stack -- its name, for errors

    Raises `socket.gaierror`, UnicodeError for a name that IDNA refuses.
    """
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("idna")
    # The stack's own addresses decide, not those that this machine has.
    plain_flags = flags & ~_ADDRCONFIG
    plain = numeric_answer(host, port, family, type, proto, plain_flags)
    if plain is not None and supported(plain[0]):
        return [plain]
    try:
        infos = _numeric(host, port, family, type, proto, plain_flags)
    except socket.gaierror as exc:
        if exc.errno != socket.EAI_NONAME or not host or flags & _NUMERICHOST:
            raise
    else:
        return _fitting(host, infos, family, supported, stack)
    mapped = family == socket.AF_INET6 and flags & _V4MAPPED
    wanted = 0 if mapped else family
    if flags & _ADDRCONFIG and not wanted:
        wanted = _configured(own())
    return Question(host, wanted, port, family, type, proto, plain_flags, supported, stack)
