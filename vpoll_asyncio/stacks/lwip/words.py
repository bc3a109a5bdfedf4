"""iothconf's words for how an interface gets its addresses, and what they come to here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .config import parse_flag

__all__ = ["Words", "parse_words"]

_DHCP: Final = ("dhcp", "auto4")
_ROUTERS: Final = ("rd", "slaac", "auto6")
# An interface is up as soon as it is there: iothconf's other stacks are not.
_NOTHING: Final = ("eth",)
_WORDS: Final = (*_NOTHING, *_DHCP, "dhcpv6", *_ROUTERS, "auto")


class Words(NamedTuple):
    """Whom an interface asks; false where it asks nobody."""

    dhcp: bool = False
    """DHCP servers."""
    rd: bool = False
    """IPv6's routers."""
    needed: frozenset[str] = frozenset()
    """Which of ``"dhcp"`` and ``"rd"`` must have answered; none: either of them."""

    def __bool__(self) -> bool:
        return self.dhcp or self.rd

    def __str__(self) -> str:
        return " and ".join(sorted(self.needed)) or "auto"


def parse_words(words: Mapping[str, bool | int | str]) -> Words:
    """Return what the words that are on ask for.

    Raises ValueError for ``dhcpv6``, of which there is no client, and for what is neither on
    nor off; TypeError for other words.
    """
    for word in words:
        if word not in _WORDS:
            raise TypeError(f"unknown option {word!r}; expected one of {', '.join(_WORDS)}")
    on = {word for word, value in words.items() if parse_flag(word, value)}
    if "dhcpv6" in on:
        raise ValueError(
            "dhcpv6: there is no client of DHCPv6: expected rd (or slaac, auto6), which takes "
            "addresses and name servers from routers' advertisements"
        )
    needed = {name for name, same in (("dhcp", _DHCP), ("rd", _ROUTERS)) if not on.isdisjoint(same)}
    auto = "auto" in on
    return Words(auto or "dhcp" in needed, auto or "rd" in needed, frozenset(needed))
