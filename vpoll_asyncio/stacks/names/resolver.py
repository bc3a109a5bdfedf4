"""The stub resolver: whom to ask for what, and what an answer means to a program.

The rules are those of resolv.conf(5) and of the GNU C library: the servers in turn, the
search list, both address families at once, and which error a failure is.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from . import messages
from .addresses import Addresses
from .config import ResolvConf, parse_domains, parse_options, parse_servers
from .exchange import exchange
from .messages import Query, RecordType, Reply
from .order import sort_addresses
from .waits import BlockingWaits, LoopWaits, Waits, run_blocking

if TYPE_CHECKING:
    import dns.name

    from ..base import Stack

__all__ = ["Resolver"]

_TYPES: dict[int, tuple[RecordType, ...]] = {
    0: ("A", "AAAA"),
    socket.AF_INET: ("A",),
    socket.AF_INET6: ("AAAA",),
}


class Resolver:
    """Looks names up for a stack, through the stack.

    Parameters:
    stack -- whose sockets carry the questions
    dns -- addresses of name servers, one or several: ``10.0.2.3``, ``fd00::3``, with a port
        ``10.0.2.3:5353``, ``[fd00::3]:5353``
    domain -- the domains of the search list, one or several
    options -- as the line ``options`` of resolv.conf(5): ``ndots:n timeout:n attempts:n use-vc``

    Nothing is cached and hosts(5) is not read.  Every method may be called from any
    thread.  Raises ValueError for bad values; OSError (ENOPKG) when `dns` names a server
    and dnspython is not installed.
    """

    def __init__(
        self,
        stack: Stack,
        dns: str | Iterable[str] = (),
        domain: str | Iterable[str] = (),
        options: str | Iterable[str] = (),
    ) -> None:
        self._stack = stack
        given = ResolvConf(parse_servers(dns), parse_domains(domain))
        self._conf = parse_options(given, options)
        if given.servers:
            messages.require()

    @property
    def conf(self) -> ResolvConf:
        """What is in force."""
        return self._conf

    def configure(self, servers: str | Iterable[str], search: str | Iterable[str] = ()) -> None:
        """Ask `servers` and append `search` from the next look-up on.

        Raises ValueError for what is no address or no domain and then changes nothing.
        dnspython is missed by the look-ups only.
        """
        found, domains = parse_servers(servers), parse_domains(search)
        self._conf = self._conf._replace(servers=found, search=domains)

    # The two ways in.

    def lookup(self, host: str, family: int = 0) -> Addresses:
        """Return the addresses of `host`, best first; wait in this thread.

        family -- AF_INET, AF_INET6, or 0 for both

        Raises `socket.gaierror`: EAI_NONAME when there is no such name, EAI_NODATA when
        it has no address of `family`, EAI_AGAIN when no server has answered usefully;
        OSError: ENETDOWN when the stack is closed, ENOPKG without dnspython.
        """
        return run_blocking(self._lookup(BlockingWaits(self._stack), host, family))

    async def alookup(self, host: str, family: int = 0) -> Addresses:
        """Return what `lookup` returns; wait on the running loop, which drives the stack."""
        return await self._lookup(LoopWaits(), host, family)

    def reverse(self, address: str) -> Addresses:
        """Return `address` with the name that it has; wait in this thread.

        Raises `socket.gaierror`: EAI_NONAME when it has none, EAI_AGAIN; OSError as
        `lookup`; ValueError for what is no address.
        """
        return run_blocking(self._reverse(BlockingWaits(self._stack), address))

    async def areverse(self, address: str) -> Addresses:
        """Return what `reverse` returns; wait on the running loop, which drives the stack."""
        return await self._reverse(LoopWaits(), address)

    # Forward: names.

    def _candidates(self, host: str, conf: ResolvConf) -> Iterator[str | None]:
        """Yield the domains to look `host` up in; None stands for the name as it is."""
        if host.endswith("."):
            yield None
            return
        as_is_first = host.count(".") >= conf.ndots
        if as_is_first:
            yield None
        yield from conf.search
        if not as_is_first:
            yield None

    async def _lookup(self, waits: Waits, host: str, family: int) -> Addresses:
        messages.require()
        conf = self._conf
        name = host.encode("idna").decode()
        kinds = _TYPES.get(family)
        if kinds is None:
            raise socket.gaierror(socket.EAI_FAMILY, f"{host!r}: no family {family} in DNS")
        no_data = failed = False
        as_is: Exception | None = None
        for domain in self._candidates(name, conf):
            try:
                return await self._lookup_in(waits, conf, host, name, domain, kinds)
            except socket.gaierror as exc:
                no_data = no_data or exc.errno == socket.EAI_NODATA
                failed = failed or exc.errno == socket.EAI_AGAIN
                if domain is None:
                    as_is = exc
                if exc.errno == socket.EAI_AGAIN and not isinstance(exc, _ServersFailed):
                    # Nobody has answered: the others would take as long.
                    raise
        # As res_search(3): of several failures the one with the most to hope for.
        if no_data:
            _fail(socket.EAI_NODATA, host)
        if failed:
            _fail(socket.EAI_AGAIN, host)
        assert as_is is not None
        raise as_is

    async def _lookup_in(
        self,
        waits: Waits,
        conf: ResolvConf,
        host: str,
        name: str,
        domain: str | None,
        kinds: Sequence[RecordType],
    ) -> Addresses:
        target = messages.absolute(name, domain or "")
        if target is None:
            _fail(socket.EAI_NONAME, host)
        replies = await self._ask(waits, conf, host, target, kinds)
        addresses = [value for reply in replies if reply for value in reply.values]
        if addresses:
            own = self._stack.addresses
            best = next(reply for reply in replies if reply and reply.values)
            return Addresses(sort_addresses(addresses, own), best.canonname, best.aliases)
        if any(reply and reply.rcode == "NXDOMAIN" for reply in replies):
            _fail(socket.EAI_NONAME, host)
        if None in replies:
            _fail(socket.EAI_AGAIN, host)
        _fail(socket.EAI_NODATA, host)

    # Back: addresses.

    async def _reverse(self, waits: Waits, address: str) -> Addresses:
        messages.require()
        conf = self._conf
        parsed = ipaddress.ip_address(address.partition("%")[0])
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        target = messages.reverse_name(str(mapped or parsed))
        [reply] = await self._ask(waits, conf, address, target, ("PTR",))
        if reply is None:
            _fail(socket.EAI_AGAIN, address)
        if not reply.values:
            _fail(socket.EAI_NONAME, address)
        return Addresses([address], reply.values[0], reply.values[1:])

    # The servers.

    async def _ask(
        self,
        waits: Waits,
        conf: ResolvConf,
        host: str,
        target: dns.name.Name,
        kinds: Sequence[RecordType],
    ) -> list[Reply | None]:
        """Return what the first server that knows says for each of `kinds`.

        Raises `socket.gaierror` (EAI_AGAIN) when there is none.
        """
        queries = [messages.make_query(target, kind) for kind in kinds]
        replies: dict[Query, Reply] = {}
        answered = False
        for _ in range(conf.attempts):
            for index, server in enumerate(conf.servers):
                self._stack.refuse_closed()
                left = [query for query in queries if query not in replies]
                # As res_send(3) has it: later servers get a share of a longer time.
                seconds = conf.timeout
                if index:
                    seconds = conf.timeout * (1 << index) / len(conf.servers)
                try:
                    found = await exchange(
                        self._stack, waits, server, left, seconds, use_tcp=conf.use_vc
                    )
                except OSError:
                    continue
                answered = answered or bool(found)
                replies |= {query: reply for query, reply in found.items() if reply.usable}
                if len(replies) == len(queries):
                    return [replies[query] for query in queries]
        self._stack.refuse_closed()
        if not replies:
            asked = ", ".join(conf.servers) or "none is configured"
            kind = _ServersFailed if answered else socket.gaierror
            raise kind(socket.EAI_AGAIN, f"{host!r}: no answer from a name server ({asked})")
        return [replies.get(query) for query in queries]


class _ServersFailed(socket.gaierror):
    """Servers have answered, with errors of theirs."""


def _fail(code: int, host: str) -> NoReturn:
    texts = {
        int(socket.EAI_NONAME): "name or service not known",
        int(socket.EAI_NODATA): "no address associated with the name",
        int(socket.EAI_AGAIN): "temporary failure in name resolution",
    }
    raise socket.gaierror(code, f"{host!r}: {texts[int(code)]}")
