"""The `memory` stack: a network inside the process."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from ...ending import unclosed
from ..base import Stack
from ..names import Addresses, Resolver
from .addresses import (
    LINK,
    canonical_name,
    is_link_local,
    oserror,
    parse_interface,
    parse_name,
)
from .datagram import DatagramSocket
from .network import Host, network
from .opening import StreamPcb
from .paths import MemoryNetwork
from .pcb import Pcb, publish
from .stream import StreamSocket
from .udp import DatagramPcb

__all__ = ["MemoryStack"]

_SCHEME: Final = "mem://"
_TYPE_FLAGS: Final = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
# Plain ints: comparing with an enumeration's members costs a call.
_STREAM: Final = int(socket.SOCK_STREAM)
_PROTOCOLS: Final = {
    _STREAM: (0, int(socket.IPPROTO_TCP)),
    int(socket.SOCK_DGRAM): (0, int(socket.IPPROTO_UDP)),
}
_SIX: Final = {int(socket.AF_INET): False, int(socket.AF_INET6): True}


class MemoryStack(Stack):
    """One host on a network in this process's memory: streams and datagrams, IPv4 and IPv6.

    Parameters:
    vnl -- ``"mem://NAME"``: all stacks of the process with that name share a network
        and reach each other by any of their addresses; None for a network of its own
    ip -- addresses with their prefix lengths, ``"10.0.0.1/24"``; one or several
    gw -- the default routers, one or several.  Nothing is sent to them: with one, an
        address that nobody has is unreachable as a host, without one as a network
    hostname -- a name by which stacks of the same network find this one, in any case
    dns, domain, dns_options -- name servers for all other names, the search list and how
        to ask, as `Resolver` has them

    Every host has 127.0.0.0/8 and ::1 of its own, whatever `ip` says, and may bind
    every port.  Sockets behave as Linux's do, errors, event masks and buffers
    included; docs/reference/memory.md lists what is different.  Nothing needs driving:
    data are with the receiver when `send` returns, unless `network` has conditions on the
    path between them, so `attach` does nothing and any number of loops and threads may
    use one stack.

    Raises ValueError for a malformed argument, and OSError: EADDRINUSE when another
    stack of the network has the address or the name, ENOPKG for `dns` without dnspython.
    """

    name: ClassVar[str] = "memory"

    def __init__(
        self,
        *,
        vnl: str | None = None,
        ip: str | Sequence[str] = (),
        gw: str | Sequence[str] | None = None,
        hostname: str = "",
        dns: str | Sequence[str] = (),
        domain: str | Sequence[str] = (),
        dns_options: str | Sequence[str] = (),
    ) -> None:
        self._closed = True
        if vnl is not None and (not vnl.startswith(_SCHEME) or vnl == _SCHEME):
            raise ValueError(f"vnl {vnl!r} names no memory network: expected 'mem://NAME'")
        interfaces = [parse_interface(text) for text in _several(ip)]
        gateways = [_gateway(text) for text in _several(gw or ())]
        if len({interface.ip for interface in interfaces}) < len(interfaces):
            raise ValueError(f"ip {ip!r} has an address twice")
        if dns or domain or dns_options:
            self.resolver = Resolver(self, dns, domain, dns_options)
        self._vnl = vnl
        self._host = Host(network(vnl), interfaces, gateways, parse_name(hostname))
        self._host.network.join(self._host)
        self._closed = False

    def supported_domain(self, family: int) -> bool:
        """Return whether `family` is AF_INET or AF_INET6."""
        return family in _SIX

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> socket.socket:
        """Return a new socket: SOCK_STREAM or SOCK_DGRAM, AF_INET or AF_INET6."""
        if self._closed:
            self.refuse_closed()
        six = _SIX.get(family)
        if six is None:
            raise oserror(errno.EAFNOSUPPORT)
        kind = type & ~_TYPE_FLAGS
        protocols = _PROTOCOLS.get(kind)
        if protocols is None:
            raise oserror(errno.ESOCKTNOSUPPORT)
        if proto not in protocols:
            raise oserror(errno.EPROTONOSUPPORT)
        host = self._host
        with host.network.lock:
            if host.down:
                raise oserror(errno.ENETDOWN)
            if kind == _STREAM:
                stream = StreamPcb(host, six)
                host.open.add(stream)
                return StreamSocket(self, family, type, proto, stream)
            datagram = DatagramPcb(host, six)
            host.open.add(datagram)
            return DatagramSocket(self, family, type, proto, datagram)

    @property
    def network(self) -> MemoryNetwork:
        """The network of this stack: what goes wrong between its hosts is set there."""
        return MemoryNetwork.of(self._host.network)

    @property
    def host(self) -> Host:
        """The stack's place in the network: of the memory stack, not for programs."""
        return self._host

    @property
    def addresses(self) -> list[str]:
        """The stack's own addresses with their prefix lengths, without loopback."""
        return [str(interface) for interface in self._host.interfaces]

    def lookup_hosts(self, host: str, family: int) -> Addresses | None:
        """Return the addresses of the stack of this network whose `hostname` is `host`.

        The machine's own name is the stack's where no `hostname` is like it.
        """
        net = self._host.network
        with net.lock:
            found = net.names.get(canonical_name(host))
            if found is None:
                return super().lookup_hosts(host, family)
            version = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}.get(family)
            addresses = [
                _with_scope(str(interface.ip))
                for interface in found.interfaces
                if version in (None, interface.version)
            ]
        return Addresses(addresses) if addresses else None

    def close(self) -> None:
        """Leave the network.  Closing twice is allowed.

        Connections of sockets that are still open are reset; the sockets become dead,
        with ENETDOWN pending, and refuse every call with it.
        """
        host = self._host
        touched: list[Pcb] = []
        with host.network.lock:
            if self._closed:
                return
            self._closed = True
            host.down = True
            host.network.leave(host)
            for pcb in list(host.open):
                pcb.abandon(touched)
            if host.network.conditions is not None:
                host.network.conditions.forget(host)
            if not host.network.hosts:
                host.network.agenda.clear()
        publish(*touched)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        addresses = ", ".join(self.addresses) or "loopback only"
        return f"<MemoryStack{state} {self._vnl or 'private'}: {addresses}>"

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if not getattr(self, "_closed", True):
            _unclosed(self, self.close)


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def _with_scope(address: str) -> str:
    return f"{address}%{LINK}" if is_link_local(address) else address


def _gateway(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"gw {text!r} is no IP address") from None
