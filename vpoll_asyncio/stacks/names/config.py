"""What resolv.conf(5) says, as options of a stack."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = [
    "ResolvConf",
    "parse_domains",
    "parse_options",
    "parse_servers",
    "split_server",
    "told_domains",
]

_PORT: Final = 53
_WITH_PORT: Final = re.compile(
    r"(?:\[(?P<six>[^]]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})", re.ASCII
)
_MAX_NDOTS: Final = 15
_MAX_TIMEOUT: Final = 30.0
_MAX_ATTEMPTS: Final = 5


class ResolvConf(NamedTuple):
    """Whom to ask, for what, and how often; the defaults are those of resolv.conf(5)."""

    servers: tuple[str, ...] = ()
    """Name servers, asked in this order, as `split_server` takes them."""
    search: tuple[str, ...] = ()
    """Domains that are appended to names."""
    ndots: int = 1
    """A name with this many dots is tried as it is before anything is appended."""
    timeout: float = 5.0
    """Seconds to wait for the first server; a share of 2, 4 … times that for the others."""
    attempts: int = 2
    """How often each server is asked."""
    use_vc: bool = False
    """Whether to ask by TCP only."""


# Letters, digits and hyphens (RFC 952), and the underscores that are in use.
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


def _several(option: str, value: str | Iterable[str]) -> list[str]:
    if isinstance(value, str):
        return value.split()
    items: list[object]
    try:
        items = list(value)
    except TypeError:
        items = [value]
    for item in items:
        if not isinstance(item, (str, ipaddress.IPv4Address, ipaddress.IPv6Address)):
            raise ValueError(f"{option}={item!r}: expected a string, or several")
    return [str(item) for item in items]


def split_server(text: str) -> tuple[str, int]:
    """Return the address and the port of a name server, 53 unless told.

    text -- ``10.0.2.3``, ``10.0.2.3:5353``, ``fd00::3`` or ``[fd00::3]:5353``

    Raises ValueError for anything else.
    """
    address, port = text, _PORT
    found = _WITH_PORT.fullmatch(text)
    if found is not None:
        address, port = found["six"] or found["four"], int(found["port"])
    parsed = ipaddress.ip_address(address)
    if not 0 < port < 65536 or (found is not None and bool(found["six"]) != (parsed.version == 6)):
        raise ValueError(f"{text!r} is no address with a port")
    return address, port


def parse_servers(dns: str | Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that the option `dns` lists: one, several, or some with spaces between.

    Raises ValueError for what is no address that can be asked.
    """
    found: list[str] = []
    for text in _several("dns", dns):
        try:
            address = ipaddress.ip_address(split_server(text)[0])
        except ValueError:
            raise ValueError(
                f"dns={text!r}: expected the address of a name server, as 10.0.2.3, or with "
                "its port 10.0.2.3:5353, [fd00::3]:5353"
            ) from None
        if address.is_multicast or address.is_unspecified:
            raise ValueError(f"dns={text!r}: expected the address of a host")
        if text not in found:
            found.append(text)
    return tuple(found)


def parse_domains(domain: str | Iterable[str]) -> tuple[str, ...]:
    """Return the search list of the option `domain`, without dots around its items.

    Raises ValueError for what is no domain name.
    """
    found: list[str] = []
    for text in _several("domain", domain):
        name = text.strip(".")
        try:
            encoded = name.encode("idna").decode()
        except UnicodeError:
            encoded = ""
        if len(encoded) > 253 or not _DOMAIN.fullmatch(encoded):
            raise ValueError(f"domain={text!r}: expected the name of a domain, as lab.example")
        if encoded not in found:
            found.append(encoded)
    return tuple(found)


def told_domains(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of `names` that are names of domains, each once.

    For what comes over the network and may be anything: what is none is left out.
    """
    found: list[str] = []
    for name in names:
        try:
            parsed = parse_domains([name])
        except ValueError:
            continue
        found += [one for one in parsed if one not in found]
    return tuple(found)


def _number(option: str, value: str, least: float, most: float, *, whole: bool) -> float:
    try:
        number = float(int(value) if whole else float(value))
    except ValueError:
        number = math.nan
    if not least <= number:
        kind = "a whole number" if whole else "seconds"
        raise ValueError(f"dns_options {option!r}: expected {kind}, {least:g} to {most:g}")
    # As resolv.conf(5): silently capped.
    return min(number, most)


def parse_options(conf: ResolvConf, options: str | Iterable[str]) -> ResolvConf:
    """Return `conf` with what a line ``options`` of resolv.conf(5) says.

    It takes ``ndots:n``, ``timeout:n`` (seconds, fractions allowed), ``attempts:n`` and
    ``use-vc``.  Raises ValueError for others and for bad numbers.
    """
    for item in _several("dns_options", options):
        option, _, value = item.partition(":")
        match option:
            case "ndots":
                conf = conf._replace(ndots=int(_number(item, value, 0, _MAX_NDOTS, whole=True)))
            case "timeout":
                conf = conf._replace(timeout=_number(item, value, 0.01, _MAX_TIMEOUT, whole=False))
            case "attempts":
                attempts = int(_number(item, value, 1, _MAX_ATTEMPTS, whole=True))
                conf = conf._replace(attempts=attempts)
            case "use-vc" if not value:
                conf = conf._replace(use_vc=True)
            case _:
                raise ValueError(
                    f"dns_options {item!r}: expected ndots:n, timeout:n, attempts:n or use-vc"
                )
    return conf
