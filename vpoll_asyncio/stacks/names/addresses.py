"""What a name stands for."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Addresses"]


class Addresses(list[str]):
    """The numeric addresses of a host, best first, with its names.

    Parameters:
    addresses -- numeric, link-local ones of IPv6 with their scope (``"fe80::1%2"``)
    canonname -- the official name of the host, which AI_CANONNAME asks for
    aliases -- its other names, ``h_aliases`` of gethostbyname(3)
    """

    def __init__(
        self, addresses: Iterable[str] = (), canonname: str = "", aliases: Iterable[str] = ()
    ) -> None:
        super().__init__(addresses)
        self.canonname = canonname
        """The official name, ``""`` where it is the one that was asked for."""
        self.aliases = list(aliases)
        """Other names of the host."""
