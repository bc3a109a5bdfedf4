"""Datagram endpoints: UDP without its packets."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from ...events import ERR, HUP, RDHUP, WRBAND
from .addresses import ANY, ANY6, is_loopback, is_six, oserror
from .pcb import BOTH, RCV, SND, Pcb, R, W

if TYPE_CHECKING:
    from .network import Host
    from .ports import PortTable

__all__ = ["DatagramPcb"]

# 65535 less the headers: IPv6 does not count its own.
_LARGEST: Final = 65507
_LARGEST_SIX: Final = 65527
# What a waiting datagram costs besides its bytes, about as in the kernel (truesize).
_OVERHEAD: Final = 768

_BROADCAST: Final = (socket.SOL_SOCKET, socket.SO_BROADCAST)

Datagram = tuple[bytes, str, int]
"""Data, and the sender's address and port."""


class DatagramPcb(Pcb):
    """A datagram endpoint.  Called under the network's lock."""

    __slots__ = ("charged", "queue")

    def __init__(self, host: Host, six: bool) -> None:
        super().__init__(host, six)
        self.queue: deque[Datagram] | None = None
        self.charged = 0
        self.sndbuf = 212992
        self.rcvbuf = 212992
        self.mask = W | WRBAND

    def refresh(self) -> None:
        """Compute `mask` anew (datagram_poll)."""
        shut = self.shut
        mask = W | WRBAND
        if self.queue or shut & RCV:
            mask |= R
        if shut & RCV:
            mask |= RDHUP
        if shut == BOTH:
            mask |= HUP
        if self.error:
            mask |= ERR
        self.mask = mask

    def ports(self) -> PortTable[DatagramPcb]:
        """Return the host's table of datagram ports."""
        return self.host.datagrams

    def may_bind(self, address: str) -> bool:
        """Return whether `address` is a broadcast or multicast one, which anybody may bind."""
        return self.host.is_broadcast(address) or ipaddress.ip_address(address).is_multicast

    def _check_target(self, address: str) -> None:
        if self.six and self.v6only and not is_six(address):
            raise oserror(errno.ENETUNREACH)
        if self.laddr not in (ANY, ANY6):
            if is_six(self.laddr) != is_six(address):
                raise oserror(errno.ENETUNREACH)
            if is_loopback(self.laddr) and not self.host.owns(address):
                raise oserror(errno.EINVAL)
        if self.host.is_broadcast(address) and not (self.options or {}).get(_BROADCAST):
            raise oserror(errno.EACCES)

    def connect(self, address: str, port: int) -> None:
        """Receive from and send to one peer only (ip4_datagram_connect)."""
        address, _ = self.host.route(address)
        self._check_target(address)
        if self.table is None:
            self.take_port(0)
        if self.laddr in (ANY, ANY6):
            self.laddr = self.host.source(address)
        self.raddr = address
        self.rport = port

    def send_to(self, data: bytes, target: tuple[str, int] | None, touched: list[Pcb]) -> None:
        """Send one datagram to `target` or to the peer (udp_sendmsg)."""
        if target is None:
            if not self.raddr:
                raise oserror(errno.EDESTADDRREQ)
            address, port = self.raddr, self.rport
        else:
            address, port = target
            if not port:
                raise oserror(errno.EINVAL)
        if len(data) > (_LARGEST_SIX if is_six(address) else _LARGEST):
            raise oserror(errno.EMSGSIZE)
        host = self.host
        address, found = host.route(address)
        self._check_target(address)
        if self.table is None:
            self.take_port(0)
        if self.error:
            touched.append(self)
            raise oserror(self.take_error())
        if self.shut & SND:
            raise oserror(errno.EPIPE)
        source = self.laddr
        if source in (ANY, ANY6):
            source = host.source(address)
        if host.is_broadcast(address):
            for each in host.everybody(address):
                for pcb in each.datagrams.users(port):
                    if _takes(pcb, address, source, self.lport):
                        pcb.receive(data, source, self.lport, touched)
            return
        if found is None:
            return
        receiver = _find(found, address, port, source, self.lport)
        if receiver is not None:
            receiver.receive(data, source, self.lport, touched)
        elif self.raddr == address and self.rport == port:
            # An unconnected socket is not told (RFC 1122, 4.1.3.3).
            self.error = errno.ECONNREFUSED
            self.refresh()
            touched.append(self)

    def receive(self, data: bytes, address: str, port: int, touched: list[Pcb]) -> None:
        """Queue a datagram, or drop it when the buffer is full (__udp_enqueue_schedule_skb)."""
        if self.charged > self.rcvbuf:
            return
        cost = len(data) + _OVERHEAD
        if self.queue is None:
            self.queue = deque()
        self.queue.append((data, address, port))
        self.charged += cost
        self.mask |= R
        touched.append(self)

    def next(self, peek: bool) -> Datagram:
        """Return the next datagram.  Raises the pending error, or EAGAIN."""
        if self.error:
            raise oserror(self.take_error())
        queue = self.queue
        if not queue:
            raise oserror(errno.EAGAIN)
        if peek:
            return queue[0]
        datagram = queue.popleft()
        cost = len(datagram[0]) + _OVERHEAD
        self.charged -= cost
        if not queue:
            self.refresh()
        return datagram

    def shutdown(self, how: int) -> None:
        """Shut down the directions in `how`, RCV and SND (inet_shutdown)."""
        self.shut |= how
        self.refresh()
        if not self.raddr:
            raise oserror(errno.ENOTCONN)

    def close(self) -> None:
        """The socket is gone."""
        self.vpoll = None
        self._give_back()
        self.host.open.discard(self)

    def abandon(self, touched: list[Pcb]) -> None:
        """The stack is closed under the socket."""
        self._give_back()
        self.down = True
        self.error = errno.ENETDOWN
        self.shut = BOTH
        self.refresh()
        touched.append(self)

    def _give_back(self) -> None:
        self.release_port()
        self.queue = None
        self.charged = 0


def _takes(pcb: DatagramPcb, address: str, source: str, sport: int) -> bool:
    """Return whether `pcb` gets a broadcast (__udp_is_mcast_sock)."""
    if pcb.raddr and (pcb.raddr, pcb.rport) != (source, sport):
        return False
    return pcb.laddr in (ANY, address) or (pcb.laddr == ANY6 and not pcb.v6only)


def _find(host: Host, address: str, port: int, source: str, sport: int) -> DatagramPcb | None:
    """Return who gets a datagram (__udp4_lib_lookup): connected before unconnected."""
    users = host.datagrams.users(port)
    if not users:
        return None
    mine = [pcb for pcb in users if pcb.raddr and (pcb.raddr, pcb.rport) == (source, sport)]
    found = host.datagrams.match(mine, address)
    if not found:
        found = host.datagrams.match([pcb for pcb in users if not pcb.raddr], address)
    if not found:
        return None
    if len(found) > 1 and all(pcb.reuseport for pcb in found):
        return found[hash((source, sport)) % len(found)]
    return found[-1]
