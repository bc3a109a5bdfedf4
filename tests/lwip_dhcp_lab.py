"""A wire with a host of Linux's TCP/IP on it that can have a DHCP server, and lwIP stacks."""

from __future__ import annotations

import contextlib
import itertools
from types import TracebackType
from typing import Any, Self

import vpoll_asyncio as va
from dnsmasq import dnsmasq
from processes import Command
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.vdestack import VdeStack

WIRES = itertools.count()

OPTIONS = (
    "--no-ping",
    "--dhcp-authoritative",
    "--dhcp-leasefile=/dev/null",
    "--domain=lab.example",
    "--dhcp-option=option:dns-server,10.9.0.53",
    "--dhcp-option=option:mtu,1400",
    "--dhcp-option=option:domain-search,lab.example,more.lab.example",
)
RANGE = "--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,120"


class Lab:
    """A wire with a host on it that can have a server."""

    def __init__(self) -> None:
        self._stacks = contextlib.ExitStack()
        self.vnl = f"wire://dhcp{next(WIRES)}"
        host = self._stacks.enter_context(
            va.open_stack("vdestack", vnl=self.vnl, ip="10.9.0.53/24")
        )
        assert isinstance(host, VdeStack)
        self.host = host

    def serve(self, *options: str) -> contextlib.AbstractContextManager[Command]:
        """Run dnsmasq, with a range of addresses unless `options` have one."""
        ranges = () if any("dhcp-range" in option for option in options) else (RANGE,)
        return dnsmasq(self.host, *OPTIONS, *ranges, *options)

    def open(self, **options: Any) -> LwipStack:
        """Open an lwIP stack on the wire."""
        stack = va.open_stack("lwip", vnl=self.vnl, **{"dhcp": True, **options})
        assert isinstance(stack, LwipStack)
        self._stacks.enter_context(stack)
        return stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stacks.close()
