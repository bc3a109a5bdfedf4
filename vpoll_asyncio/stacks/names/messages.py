"""DNS messages, by dnspython: questions, and what the answers to them say."""

from __future__ import annotations

import dataclasses
import errno
import re
import secrets
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import dns.message
    import dns.name

__all__ = ["Query", "Reply", "absolute", "make_query", "read_reply", "require", "reverse_name"]

RecordType = Literal["A", "AAAA", "PTR"]

_TRUNCATED: Final = 0x0200
# res_hnok(3): what may be the name of a host, and so be given to programs as one.
_HOSTNAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.(?!-)[A-Za-z0-9_-]+)*")
_USABLE: Final = frozenset({"NOERROR", "NXDOMAIN"})


def require() -> None:
    """Raise OSError (ENOPKG) when dnspython is not installed."""
    try:
        import dns.message
        import dns.reversename  # noqa: F401
    except ImportError as exc:
        raise OSError(
            errno.ENOPKG,
            f"names are looked up with dnspython ({exc}): pip install 'vpoll-asyncio[dns]'",
        ) from exc


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Query:
    """A question as it is sent."""

    message: dns.message.Message
    wire: bytes
    rdtype: RecordType


class Reply(NamedTuple):
    """What an answer says."""

    rcode: str
    """``NOERROR``, ``NXDOMAIN`` or an error of the server's."""
    truncated: bool = False
    """Whether the rest is to be had by TCP."""
    values: tuple[str, ...] = ()
    """Addresses, or the names that PTR records hold."""
    canonname: str = ""
    """The name at the end of the chain of CNAMEs."""
    aliases: tuple[str, ...] = ()
    """The names before."""

    @property
    def usable(self) -> bool:
        """Whether the server knew: another may where it did not."""
        return self.rcode in _USABLE


def absolute(host: str, domain: str = "") -> dns.name.Name | None:
    """Return the absolute name of `host` in `domain`, None where no name is that long.

    host -- in ASCII; its characters mean themselves, backslashes too
    """
    import dns.exception
    import dns.name

    labels = host.rstrip(".").encode().split(b".")
    if domain:
        labels += domain.encode().split(b".")
    try:
        return dns.name.Name([*labels, b""])
    except dns.exception.DNSException:
        return None


def reverse_name(address: str) -> dns.name.Name:
    """Return the name that the PTR records of a numeric address without scope are at."""
    import dns.reversename

    return dns.reversename.from_address(address)


def make_query(name: dns.name.Name, rdtype: RecordType) -> Query:
    """Return a recursive question for the records of `name`, with an identifier by chance."""
    import dns.message

    message = dns.message.make_query(name, rdtype, id=secrets.randbelow(1 << 16))
    return Query(message, message.to_wire(), rdtype)


def read_reply(query: Query, wire: bytes) -> Reply | None:
    """Return what `wire` says, or None where it does not answer `query`.

    An answer has the identifier and the question of its query.  One that is malformed
    besides counts as a server's FORMERR.
    """
    import dns.exception
    import dns.message
    import dns.rcode

    try:
        message = dns.message.from_wire(wire, ignore_trailing=True, continue_on_error=True)
    except (dns.exception.DNSException, ValueError, IndexError):
        return None
    if not query.message.is_response(message):
        return None
    if message.flags & _TRUNCATED:
        return Reply("NOERROR", truncated=True)
    if message.errors:
        return Reply("FORMERR")
    rcode = dns.rcode.to_text(message.rcode())
    if rcode not in _USABLE or not isinstance(message, dns.message.QueryMessage):
        return Reply(rcode)
    return _chain(message, rcode, query.rdtype)


def _chain(message: dns.message.QueryMessage, rcode: str, rdtype: RecordType) -> Reply:
    import dns.exception

    try:
        chain: Any = message.resolve_chaining()
    except dns.exception.DNSException:
        return Reply("FORMERR")
    names = [str(rrset.name).rstrip(".") for rrset in chain.cnames]
    names.append(str(chain.canonical_name).rstrip("."))
    values: list[str] = []
    for record in chain.answer or ():
        value = record.target if rdtype == "PTR" else record.address
        text = str(value).rstrip(".") if rdtype == "PTR" else str(value)
        if rdtype != "PTR" or _HOSTNAME.fullmatch(text):
            values.append(text)
    if not all(map(_HOSTNAME.fullmatch, names)):
        return Reply(rcode, values=tuple(values))
    return Reply(rcode, False, tuple(values), names[-1], tuple(names[:-1]))
