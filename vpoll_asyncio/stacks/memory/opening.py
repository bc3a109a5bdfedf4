"""How streams begin: listening, connecting, and who is connected to whom."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from .addresses import ANY, ANY6, is_loopback, is_multicast, oserror
from .pcb import ADDR_LOCKED, SND, R, W
from .tcp import (
    CLOSE,
    CONNECTED,
    CONNECTING,
    DISCONNECTING,
    ESTABLISHED,
    LISTEN,
    SYN_SENT,
    UNCONNECTED,
    Touched,
)
from .transfer import Transfer

if TYPE_CHECKING:
    from .network import Host

__all__ = ["StreamPcb", "find_listener"]


class StreamPcb(Transfer):
    """One end of a stream, or a listener.  Called under the network's lock."""

    __slots__ = ()

    def listen(self, backlog: int) -> None:
        """Begin to accept connections, or change the backlog (inet_listen)."""
        if self.phase != UNCONNECTED or self.state not in (CLOSE, LISTEN):
            raise oserror(errno.EINVAL)
        self.backlog = backlog
        if self.state == LISTEN:
            return
        if self.table is None:
            self.take_port(0)
        elif self.host.streams.conflict(self, self.lport):
            raise oserror(errno.EADDRINUSE)
        self.state = LISTEN
        self.queue = deque()
        self.syns = deque()
        self.host.listeners.setdefault(self.lport, []).append(self)
        self.refresh()

    def connect(self, address: str, port: int, touched: Touched) -> None:
        """Begin to connect; always raises unless an earlier attempt has succeeded."""
        if not self.begin(address, port, touched):
            raise oserror(errno.EINPROGRESS)

    def begin(self, address: str, port: int, touched: Touched) -> bool:
        """Begin to connect; return whether an earlier attempt has succeeded."""
        if self.phase != UNCONNECTED:
            self._begin_again(touched)
            return True
        if self.state != CLOSE:
            raise oserror(errno.EISCONN)
        target: Host | None
        if address == "127.0.0.1" and not self.six:
            # What the rest comes to, most often.
            target = self.host
        else:
            address = self.named(address)
            self.check_mapped(address)
            self.check_native(address)
            target = self.host.route(address)
            if self.host.is_broadcast(address) or is_multicast(address):
                raise oserror(errno.ENETUNREACH)
        self._choose_local(address, port)
        self.raddr = address
        self.rport = port
        self.state = SYN_SENT
        self.phase = CONNECTING
        if target is None:
            self.fail(errno.EHOSTUNREACH, touched)
        else:
            self._knock(target, touched)
        if self not in touched:
            self.refresh()
            touched.append(self)
        return False

    def _begin_again(self, touched: Touched) -> None:
        if self.phase == CONNECTED:
            raise oserror(errno.EISCONN)
        if self.phase == DISCONNECTING:
            raise oserror(errno.EINVAL)
        if self.state == SYN_SENT:
            raise oserror(errno.EALREADY)
        self.finish_connect(touched)

    def finish_connect(self, touched: Touched) -> None:
        """Take the result of an attempt that has ended (inet_stream_connect)."""
        if self.phase != CONNECTING or self.state == SYN_SENT:
            return
        if self.state != CLOSE:
            self.phase = CONNECTED
            return
        number = self.take_error() or errno.ECONNABORTED
        self.phase = UNCONNECTED
        self.disconnect(touched)
        raise oserror(number)

    def _choose_local(self, address: str, port: int) -> None:
        laddr = self.laddr
        if laddr in (ANY, ANY6):
            laddr = address if address == "127.0.0.1" else self.host.source(address)
        elif is_loopback(laddr) and not self.host.owns(address):
            raise oserror(errno.EINVAL)
        connections = self.host.connections
        if self.table is not None:
            key = (laddr, self.lport, address, port)
            if key in connections:
                raise oserror(errno.EADDRNOTAVAIL)
        else:
            self.host.waits.expire()
            table = self.host.streams
            lport = table.unused()
            if not lport:
                lport = table.choose(
                    lambda candidate: (
                        (laddr, candidate, address, port) not in connections
                        and all(user.key is not None for user in table.users(candidate))
                    )
                )
            if not lport:
                raise oserror(errno.EADDRNOTAVAIL)
            table.add(self, lport)
            self.table = table
            self.lport = self.held = lport
            key = (laddr, lport, address, port)
        self.host.waits.remove(key)
        self.laddr = laddr
        self.key = key
        connections.add(key)

    def _knock(self, target: Host, touched: Touched) -> None:
        """Send the SYN: to a listener, to oneself, or to a closed port."""
        if target is self.host and (self.laddr, self.lport) == (self.raddr, self.rport):
            # Simultaneous open with oneself, whoever listens (__inet_lookup_established).
            self.peer = self
            self.state = ESTABLISHED
            if self.shut & SND:
                self.send_fin(touched)
            return
        conditions = target.network.conditions
        if conditions is not None and conditions.bad(self.host, target):
            conditions.knock(self, target, touched)
            return
        listener = find_listener(target, self)
        if listener is None:
            self.receive_reset(touched)
        elif listener.full():
            listener.syns.append(self)  # type: ignore[union-attr]
            self.server = listener
        else:
            self.establish(listener, touched)

    def stop_knocking(self) -> None:
        """Wait no longer for room with a listener."""
        server = self.server
        if server is not None and server.syns and self in server.syns:
            server.syns.remove(self)
            self.server = None

    def full(self) -> bool:
        """Return whether a listener has no room for another connection (sk_acceptq_is_full)."""
        assert self.queue is not None
        return len(self.queue) > self.backlog

    def show_queue(self) -> None:
        """Compute the mask of a listener anew, in one step as `refresh` does in several."""
        if self.state == LISTEN:
            self.mask = R if self.queue else 0
        else:
            self.refresh()

    def establish(self, listener: StreamPcb, touched: Touched) -> None:
        """Make the other end at `listener`, to be accepted, and connect it with this one."""
        assert listener.queue is not None
        child = StreamPcb(listener.host, listener.six)
        child.laddr = self.raddr
        child.lport = port = self.rport
        child.raddr = self.laddr
        child.rport = self.lport
        child.key = (child.laddr, child.lport, child.raddr, child.rport)
        child.v6only = listener.v6only
        child.reuse = listener.reuse
        child.reuseport = listener.reuseport
        child.oobinline = listener.oobinline
        child.linger = listener.linger
        child.lowat = listener.lowat
        child.sndbuf = listener.sndbuf
        child.rcvbuf = listener.rcvbuf
        child.locked = listener.locked & ADDR_LOCKED
        child.options = listener.options
        child.table = listener.host.streams
        child.held = port
        child.table.add(child, port)
        listener.host.waits.remove(child.key)
        listener.host.connections.add(child.key)
        listener.host.open.add(child)
        # No call from here to the last mask: a handler finds all of it, or nothing.
        child.state = self.state = ESTABLISHED
        child.phase = CONNECTED
        child.peer = self
        self.peer = child
        self.server = None
        child.mask = self.mask = W
        child.server = listener
        listener.queue.append(child)
        if listener.shut:
            # What was shut down before listen(2) is inherited, with a FIN (tcp_shutdown).
            child.shut = listener.shut
            if child.shut & SND:
                child.send_fin(touched)
            child.refresh()
        if self.shut or self.error:
            self.refresh()
        listener.show_queue()
        touched += (listener, self)

    def accept(self, touched: Touched) -> StreamPcb:
        """Return the next connection (inet_csk_accept).  Raises EINVAL, EAGAIN."""
        if self.state != LISTEN:
            raise oserror(errno.EINVAL)
        assert self.queue is not None
        assert self.syns is not None
        try:
            child = self.queue.popleft()
        except IndexError:
            raise oserror(errno.EAGAIN) from None
        child.server = None
        while self.syns and not self.full():
            self.syns.popleft().establish(self, touched)
        self.show_queue()
        touched.append(self)
        return child

    def stop_listening(self, touched: Touched) -> None:
        """inet_csk_listen_stop(): who waits to be accepted is reset, who knocks refused."""
        queue, syns = self.queue, self.syns
        self.queue = self.syns = None
        self.state = CLOSE
        listeners = self.host.listeners
        others = [pcb for pcb in listeners.get(self.lport, ()) if pcb is not self]
        if others:
            listeners[self.lport] = others
        else:
            listeners.pop(self.lport, None)
        for child in queue or ():
            child.server = None
            child.disconnect(touched)
            child.destroy()
        for knocking in syns or ():
            knocking.server = None
            knocking.receive_reset(touched)


def find_listener(target: Host, knocking: StreamPcb) -> StreamPcb | None:
    """Return the listener of `target` that a SYN goes to (__inet_lookup_listener)."""
    users = target.listeners.get(knocking.rport)
    if not users:
        return None
    if len(users) == 1 and users[0].laddr == knocking.raddr:
        return users[0]
    found = target.streams.match(users, knocking.raddr)
    if not found:
        return None
    if len(found) > 1 and all(pcb.reuseport for pcb in found):
        return found[hash((knocking.laddr, knocking.lport)) % len(found)]
    return found[-1]
