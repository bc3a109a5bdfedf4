"""Datagram endpoints: UDP without its packets."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

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

# Ethernet, IP and UDP; and an ICMP message with the headers of what it is about.
_HEADERS: Final = 42
_HEADERS_SIX: Final = 62
_ICMP: Final = 70

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
        self.check_native(address)
        if is_loopback(self.laddr) and not self.host.owns(address):
            raise oserror(errno.EINVAL)
        if self.host.is_broadcast(address) and not (self.options or {}).get(_BROADCAST):
            raise oserror(errno.EACCES)

    def _autobind(self) -> None:
        """Take a port, before anything else can fail (inet_autobind)."""
        if self.table is None:
            self.take_port(0)

    def connect(self, address: str, port: int) -> None:
        """Receive from and send to one peer only (ip4_datagram_connect)."""
        self._autobind()
        address = self.named(address)
        self.check_mapped(address)
        if not is_six(address) and is_six(self.laddr) and self.laddr != ANY6:
            raise oserror(errno.ENETUNREACH)
        self.host.route(address)
        self._check_target(address)
        if self.laddr in (ANY, ANY6):
            self.laddr = self.host.source(address)
        self.raddr = address
        self.rport = port

    def send_to(self, data: bytes, target: tuple[str, int] | None, touched: list[Pcb]) -> None:
        """Send one datagram to `target` or to the peer (udp_sendmsg)."""
        self._autobind()
        if target is None:
            if not self.raddr:
                raise oserror(errno.EDESTADDRREQ)
            address, port = self.raddr, self.rport
            if not port and self.six and not is_six(address):
                # udpv6_sendmsg() hands the peer on as if it had been named.
                raise oserror(errno.EINVAL)
        else:
            address = self.named(target[0])
            port = target[1]
            self.check_mapped(address)
            if not port:
                raise oserror(errno.EINVAL)
        if len(data) > (_LARGEST_SIX if is_six(address) else _LARGEST):
            raise oserror(errno.EMSGSIZE)
        host = self.host
        found = host.route(address)
        self._check_target(address)
        if self.error:
            touched.append(self)
            raise oserror(self.take_error())
        if self.shut & SND:
            raise oserror(errno.EPIPE)
        source = self.laddr
        if source in (ANY, ANY6) or is_six(source) != is_six(address):
            source = host.source(address)
        everybody = host.is_broadcast(address)
        if found is not None and host.network.conditions is None and not everybody:
            # What the rest comes to, most often.
            receiver = _find(found, address, port, source, self.lport)
            if receiver is not None:
                receiver.receive(data, source, self.lport, touched)
                return
        letter = _Letter(data, source, self.lport, address, port, host)
        if everybody:
            for each in host.everybody(address):
                _post(letter, each, _arrive_for_all, touched)
        elif found is not None:
            _post(letter, found, _arrive, touched)

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
        self.error = errno.ENETDOWN
        self.shut = BOTH
        self.refresh()
        touched.append(self)

    def _give_back(self) -> None:
        self.release_port()
        self.queue = None
        self.charged = 0


class _Letter(NamedTuple):
    """A datagram on its way, with what its headers say, and the host it comes from."""

    data: bytes
    source: str
    sport: int
    address: str
    port: int
    sender: Host


_Arrive = Callable[[tuple[_Letter, "Host"], int, list[Pcb]], None]


def _post(letter: _Letter, target: Host, arrive: _Arrive, touched: list[Pcb]) -> None:
    """Let `letter` arrive at `target`: at once, or when it has come along the path."""
    conditions = target.network.conditions
    if conditions is None or not conditions.bad(letter.sender, target):
        arrive((letter, target), 0, touched)
        return
    size = len(letter.data) + (_HEADERS_SIX if is_six(letter.address) else _HEADERS)
    conditions.post(letter.sender, target, size, arrive, (letter, target))


def _arrive_for_all(way: tuple[_Letter, Host], now: int, touched: list[Pcb]) -> None:
    letter, target = way
    for pcb in target.datagrams.users(letter.port):
        if _takes(pcb, letter.address, letter.source, letter.sport):
            pcb.receive(letter.data, letter.source, letter.sport, touched)


def _arrive(way: tuple[_Letter, Host], now: int, touched: list[Pcb]) -> None:
    letter, target = way
    if target.down:
        return
    receiver = _find(target, letter.address, letter.port, letter.source, letter.sport)
    if receiver is not None:
        receiver.receive(letter.data, letter.source, letter.sport, touched)
        return
    sender = letter.sender
    conditions = target.network.conditions
    if conditions is None or not conditions.bad(target, sender):
        _unreachable(letter, now, touched)
    else:
        conditions.post(target, sender, _ICMP, _unreachable, letter)


def _unreachable(letter: _Letter, now: int, touched: list[Pcb]) -> None:
    """The ICMP message has come.

    It goes to whom an answer would (__udp4_lib_err).  An unconnected socket is not told
    (RFC 1122, 4.1.3.3).
    """
    told = _find(letter.sender, letter.source, letter.sport, letter.address, letter.port)
    if told is not None and told.raddr:
        told.error = errno.ECONNREFUSED
        told.refresh()
        touched.append(told)


def _takes(pcb: DatagramPcb, address: str, source: str, sport: int) -> bool:
    """Return whether `pcb` gets a broadcast (__udp_is_mcast_sock)."""
    if pcb.raddr and (pcb.raddr != source or pcb.rport not in (sport, 0)):
        return False
    return pcb.laddr in (ANY, address) or (pcb.laddr == ANY6 and not pcb.v6only)


def _find(host: Host, address: str, port: int, source: str, sport: int) -> DatagramPcb | None:
    """Return who gets a datagram (__udp4_lib_lookup): connected before unconnected.

    Who is connected to port 0 hears every port of that address.
    """
    users = host.datagrams.users(port)
    for peer in (source, sport), (source, 0), ("", 0):
        found = host.datagrams.match(
            [pcb for pcb in users if (pcb.raddr, pcb.rport) == peer], address
        )
        if found:
            break
    else:
        return None
    if len(found) > 1 and all(pcb.reuseport for pcb in found):
        return found[hash((source, sport)) % len(found)]
    return found[-1]
