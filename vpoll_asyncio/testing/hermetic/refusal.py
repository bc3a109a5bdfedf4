"""A stack that refuses, and says what to do instead."""

from __future__ import annotations

import errno
import socket
from typing import ClassVar, Final, NoReturn

from ...stacks.null import NullStack

__all__ = ["CLOSED_FAMILIES", "RefusingStack"]

CLOSED_FAMILIES: Final = frozenset((socket.AF_INET, socket.AF_INET6, socket.AF_PACKET))
"""The address families whose sockets lead to a network."""


class RefusingStack(NullStack):
    """Every socket is refused with OSError (ENETDOWN), whose text is `reason`.

    reason -- says why there is no network here, and how to get one

    Names are refused with `socket.gaierror` (EAI_AGAIN) and the same text; numeric
    addresses, ``localhost`` and the machine's own name resolve.  Under
    `vpoll_asyncio.install` it is asked for AF_INET, AF_INET6 and AF_PACKET; sockets of
    other families are the kernel's.  Every method may be called from any thread.
    """

    name: ClassVar[str] = "refusing"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def claims(self, family: int) -> bool:
        return family in CLOSED_FAMILIES

    def refuse_closed(self) -> NoReturn:
        """Raise OSError (ENETDOWN) with the text `reason`."""
        raise OSError(errno.ENETDOWN, self.reason)

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> NoReturn:
        """Raise OSError (ENETDOWN)."""
        self.refuse_closed()

    def resolve(self, host: str, family: int) -> list[str]:
        known = self.lookup_hosts(host, family)
        if known is None:
            raise socket.gaierror(socket.EAI_AGAIN, f"{host!r}: {self.reason}")
        return known

    async def aresolve(self, host: str, family: int) -> list[str]:
        return self.resolve(host, family)

    def __repr__(self) -> str:
        return "<RefusingStack>"
