"""Configuring a network interface by rtnetlink(7), over a socket of its namespace."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

from ..lwip.config import Interface, Route

__all__ = ["Netlink"]

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/sockios.h
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_NEWLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 20, 21, 24, 25
_IFLA_ADDRESS, _IFLA_MTU = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD: Final = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_LINK, _UNICAST = 254, 4, 253, 1
_IFF_UP: Final = 1
_SIOCGIFINDEX: Final = 0x8933
_LOOPBACK: Final = 1

_header: Final = struct.Struct("=IHHII")
_link: Final = struct.Struct("=BxHiII")
_addr: Final = struct.Struct("=BBBBI")
_route: Final = struct.Struct("=BBBBBBBBI")
_attribute: Final = struct.Struct("=HH")
_word: Final = struct.Struct("=I")
_ifreq: Final = struct.Struct("16si20x")


def _packed(kind: int, value: bytes) -> bytes:
    whole = _attribute.pack(_attribute.size + len(value), kind) + value
    return whole.ljust(len(whole) + 3 & ~3, b"\0")


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


class Netlink:
    """The configuration of one interface.

    Parameters:
    sock -- an AF_NETLINK socket (NETLINK_ROUTE) of the interface's namespace, which this owns
    probe -- any other socket of that namespace
    interface -- the name

    Not thread-safe.  Methods raise OSError with the kernel's errno.
    """

    def __init__(self, sock: socket.socket, probe: socket.socket, interface: str) -> None:
        self._sock = sock
        self._number = 0
        answer = fcntl.ioctl(probe, _SIOCGIFINDEX, _ifreq.pack(interface.encode(), 0))
        self.index: int = _ifreq.unpack(answer)[1]

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._number += 1
        size = _header.size + len(body)
        self._sock.send(_header.pack(size, kind, flags | _REQUEST | _ACK, self._number, 0) + body)
        while True:
            answer = self._sock.recv(65536)
            number = _header.unpack_from(answer)[3]
            if number == self._number:
                error = -struct.unpack_from("=i", answer, _header.size)[0]
                if error:
                    raise OSError(error, os.strerror(error))
                return

    def set_link(self, *, mtu: int | None = None, mac: bytes | None = None) -> None:
        """Set the interface's MTU and hardware address."""
        body = _link.pack(0, 0, self.index, 0, 0)
        if mtu is not None:
            body += _packed(_IFLA_MTU, _word.pack(mtu))
        if mac is not None:
            body += _packed(_IFLA_ADDRESS, mac)
        self._ask(_NEWLINK, 0, body)

    def up(self) -> None:
        """Bring the loopback interface and this one up."""
        for index in (_LOOPBACK, self.index):
            self._ask(_NEWLINK, 0, _link.pack(0, 0, index, _IFF_UP, _IFF_UP))

    def add_address(self, address: Interface) -> None:
        """Add an address, usable at once: without duplicate address detection."""
        body = self._address(address) + _packed(_IFA_FLAGS, _word.pack(_IFA_F_NODAD))
        if address.version == 4 and address.network.prefixlen < 31:
            body += _packed(_IFA_BROADCAST, address.network.broadcast_address.packed)
        self._ask(_NEWADDR, _CREATE | _EXCL, body)

    def del_address(self, address: Interface) -> None:
        """Take an address away.  Raises OSError (EADDRNOTAVAIL) when there is none like it."""
        self._ask(_DELADDR, 0, self._address(address))

    def _address(self, address: Interface) -> bytes:
        head = _addr.pack(_family(address.version), address.network.prefixlen, 0, 0, self.index)
        packed = address.ip.packed
        return head + _packed(_IFA_LOCAL, packed) + _packed(_IFA_ADDRESS, packed)

    def add_route(self, route: Route) -> None:
        """Add a route.  Raises OSError (EEXIST) when there is one like it."""
        self._ask(_NEWROUTE, _CREATE | _EXCL, self._routing(route))

    def del_route(self, route: Route) -> None:
        """Remove a route.  Raises OSError (ESRCH) when there is none like it."""
        self._ask(_DELROUTE, 0, self._routing(route))

    def _routing(self, route: Route) -> bytes:
        network, via = route.network, route.via
        scope = _SCOPE_LINK if via is None and network.version == 4 else 0
        body = _route.pack(
            _family(network.version),
            network.prefixlen,
            0,
            0,
            _TABLE_MAIN,
            _PROTO_STATIC,
            scope,
            _UNICAST,
            0,
        )
        if network.prefixlen:
            body += _packed(_RTA_DST, network.network_address.packed)
        if via is not None:
            body += _packed(_RTA_GATEWAY, via.packed)
        return body + _packed(_RTA_OIF, _word.pack(self.index))

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()
