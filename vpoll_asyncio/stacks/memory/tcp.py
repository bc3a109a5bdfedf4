"""Stream endpoints: TCP's states without its packets.

Two connected endpoints refer to each other, and sending puts the data into the
receiver's queue.  Of what waits there, the first `rcvbuf` bytes have arrived; what
is beyond them is the sender's, counts against its `sndbuf`, and is lost if the
sender resets the connection.  A FIN follows the data in the same order.

States are the kernel's with what takes no time left out: FIN_WAIT is both of them, and
a socket in TIME_WAIT is in CLOSE, while a record keeps its port.  Comments name the
kernel's function where a rule comes from.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from ...events import ERR, HUP, OUT, PRI, RDHUP
from ...hot.pipe import CLOSE_WAIT, ESTABLISHED, FIN_CAME, FIN_WAITS, NO_FIN
from .addresses import ANY, ANY6, oserror
from .pcb import ADDR_LOCKED, BOTH, PORT_LOCKED, RCV, SND, Pcb, R, W
from .queue import URG_VALID, StreamQueue

if TYPE_CHECKING:
    from .network import Host
    from .opening import StreamPcb
    from .ports import PortTable
    from .timewait import TimeWait

__all__ = [
    "CLOSE",
    "CLOSE_WAIT",
    "CLOSING",
    "CONNECTED",
    "CONNECTING",
    "DISCONNECTING",
    "ESTABLISHED",
    "FIN_CAME",
    "FIN_WAIT",
    "LISTEN",
    "SYN_SENT",
    "UNCONNECTED",
    "WIRE",
    "Connection",
    "Touched",
]

CLOSE: Final = 0
LISTEN: Final = 1
SYN_SENT: Final = 2
# ESTABLISHED and CLOSE_WAIT are the two in between.
FIN_WAIT: Final = 5
LAST_ACK: Final = 6
CLOSING: Final = 7
# No state of the kernel's: what stands for an endpoint on another host (`wire`).
WIRE: Final = 8

# enum socket_state: what connect(2) makes of a further call.
UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3

# Linux shows twice what is asked for, and these without being asked.
DEFAULT_SNDBUF: Final = 131072
DEFAULT_RCVBUF: Final = 131072

Touched = list[Pcb]
"""Blocks whose masks have changed, for `publish` once the lock is released."""


class Connection(StreamQueue):
    """One end of a stream.  Called under the network's lock.

    Methods that take `touched` append the blocks whose vpolls are to be set.
    """

    __slots__ = (
        "backlog",
        "linger",
        "phase",
        "queue",
        "server",
        "syns",
    )

    peer: StreamPcb | None
    queue: deque[StreamPcb] | None
    """A listener's established connections, until somebody accepts them."""
    syns: deque[StreamPcb] | None
    """Who tries to connect to a listener whose queue is full."""
    server: StreamPcb | None
    """The listener in whose `queue` or `syns` this block is."""

    def __init__(self, host: Host, six: bool) -> None:
        super().__init__(host, six)
        self.urg_at = 0
        self.urg_byte = b""
        self.oobinline = False
        self.phase = UNCONNECTED
        self.server = None
        self.queue = self.syns = None
        self.backlog = 0
        self.linger: tuple[int, int] = (0, 0)
        self.sndbuf = DEFAULT_SNDBUF
        self.rcvbuf = DEFAULT_RCVBUF
        self.mask = W | HUP

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self.state == LISTEN

    # The mask: tcp_poll().

    def refresh(self) -> None:
        """Compute `mask` anew: what the kernel's socket would show."""
        # No call from the first look to the assignment: no signal handler comes in between.
        state = self.state
        if state == LISTEN:
            self.mask = R if self.queue else 0
            return
        shut = self.shut
        mask = 0
        if shut == BOTH or state == CLOSE:
            mask = HUP
        if shut & RCV:
            mask |= R | RDHUP
        if state != SYN_SENT:
            used = self.used
            urg = self.urg
            if used:
                target = self.lowat
                if urg and not self.urg_at and not self.oobinline:
                    target += 1
                if used >= target or used >= self.rcvbuf:
                    mask |= R
            peer = self.peer
            # As `writable`.
            if shut & SND or peer is None or 3 * (peer.used - peer.rcvbuf) <= 2 * self.sndbuf:
                mask |= W
            if urg == URG_VALID and self.urg_at < self.rcvbuf:
                mask |= PRI
        if self.error:
            mask |= ERR
        self.mask = mask

    def changed(self) -> bool:
        """Compute `mask` anew; return whether it is another one."""
        before = self.mask
        self.refresh()
        return self.mask != before

    def writable(self) -> bool:
        peer = self.peer
        return peer is None or 3 * (peer.used - peer.rcvbuf) <= 2 * self.sndbuf

    # Ports.

    def ports(self) -> PortTable[StreamPcb | TimeWait]:
        """Return the host's table of stream ports."""
        return self.host.streams

    def take_port(self, port: int) -> None:
        """Take `port`, or a free one for 0; ports of connections long ended are free."""
        self.host.waits.expire()
        super().take_port(port)

    def closed_to_bind(self) -> bool:
        """Return whether the socket listens, connects or is connected."""
        return self.state != CLOSE

    def _drop_key(self) -> None:
        if self.key is not None:
            self.host.connections.discard(self.key)
            self.key = None

    def stop_knocking(self) -> None:
        """Wait no longer for room with a listener."""
        raise NotImplementedError

    def stop_listening(self, touched: Touched) -> None:
        """End being a listener."""
        raise NotImplementedError

    # Ending.

    def shutdown(self, how: int, touched: Touched) -> None:
        """Shut down the directions in `how`, RCV and SND (inet_shutdown)."""
        if self.phase == CONNECTING:
            ended = self.state in (SYN_SENT, CLOSE)
            self.phase = DISCONNECTING if ended else CONNECTED
        state = self.state
        touched.append(self)
        if state == LISTEN:
            if how & RCV:
                self.disconnect(touched)
                self.phase = UNCONNECTED
            return
        if state == SYN_SENT:
            self.disconnect(touched)
            self.phase = UNCONNECTED
            return
        self.shut |= how
        if how & SND:
            self.send_fin(touched)
        peer = self.peer
        if (
            peer is not None
            and self.shut == BOTH
            and self.state == FIN_WAIT
            and self.used > self.rcvbuf
        ):
            # What the peer still holds will find nobody who reads it (TCPAbortOnData).
            self.receive_reset(touched)
            peer.receive_reset(touched)
        self.refresh()
        if state == CLOSE:
            raise oserror(errno.ENOTCONN)

    def send_fin(self, touched: Touched) -> None:
        """Send a FIN after the data, if the state has one to send (tcp_close_state)."""
        peer = self.peer
        if peer is None or self.state not in (ESTABLISHED, CLOSE_WAIT):
            return
        self.state = FIN_WAIT if self.state == ESTABLISHED else LAST_ACK
        peer.fin_waits(touched)

    def fin_waits(self, touched: Touched) -> None:
        """The peer has sent its FIN, after the data that wait."""
        self.fin = FIN_WAITS
        if self.used <= self.rcvbuf:
            self.receive_fin(touched)

    def receive_fin(self, touched: Touched) -> None:
        """Take the peer's FIN, which nothing precedes any more (tcp_fin)."""
        sender = self.peer
        self.fin = FIN_CAME
        self.shut |= RCV
        if self.state == ESTABLISHED:
            self.state = CLOSE_WAIT
        elif self.state == FIN_WAIT:
            assert sender is not None
            if sender.fin == FIN_CAME:
                self._time_wait()
            else:
                self.state = CLOSING
        if not self.orphan:
            self.refresh()
            touched.append(self)
        if sender is not None:
            sender.fin_acknowledged(touched)

    def fin_acknowledged(self, touched: Touched) -> None:
        """The peer has taken the FIN (tcp_rcv_state_process)."""
        if self.state == LAST_ACK:
            self._done()
        elif self.state == CLOSING:
            self._time_wait()
        else:
            if self.orphan and self.state == FIN_WAIT:
                self._keep_port()
            return
        if self.vpoll is not None or not self.orphan:
            self.refresh()
            touched.append(self)

    def receive_reset(self, touched: Touched) -> None:
        """Take a RST (tcp_reset)."""
        if self.state == CLOSE:
            return
        if self.orphan:
            self.host.waits.remove((self.laddr, self.held, self.raddr, self.rport))
        if self.state == SYN_SENT:
            number = errno.ECONNREFUSED
        elif self.state == CLOSE_WAIT:
            number = errno.EPIPE
        else:
            number = errno.ECONNRESET
        self.fail(number, touched)

    def fail(self, number: int, touched: Touched) -> None:
        """End with `number` as the pending error (tcp_done_with_error)."""
        self.error = number
        self._purge_sent()
        self._done()
        self.refresh()
        touched.append(self)

    def send_reset(self, touched: Touched) -> None:
        """Reset the connection from this end; the state becomes CLOSE."""
        peer = self.peer
        self._purge_sent()
        self._leave()
        if peer is not None and peer is not self:
            peer.receive_reset(touched)

    def _purge_sent(self) -> None:
        """Drop what the peer has not received yet (tcp_write_queue_purge)."""
        peer = self.peer
        if peer is None:
            return
        if peer.fin == FIN_WAITS:
            peer.fin = NO_FIN
        if peer.used > peer.rcvbuf:
            peer.cut(peer.rcvbuf)

    def _done(self) -> None:
        """tcp_done(): both directions are over."""
        self._leave()
        self.shut = BOTH

    def _time_wait(self) -> None:
        """tcp_time_wait(): this end was the first to close, and the port stays its own."""
        self.host.waits.add(self)
        self._done()

    def _keep_port(self) -> None:
        """Nobody has the socket, and only the peer's FIN is missing: that ends by itself."""
        self.host.waits.add(self)
        self._drop_key()
        self.release_port()

    def _leave(self) -> None:
        """tcp_set_state(TCP_CLOSE): the connection is out of the tables."""
        self.state = CLOSE
        self.peer = None
        if self.key is not None:
            self._drop_key()
        if self.server is not None:
            self.stop_knocking()
        if self.table is not None and (self.orphan or not self.locked & PORT_LOCKED):
            self.release_port()

    def disconnect(self, touched: Touched) -> None:
        """Abort whatever there is; the block may connect again (tcp_disconnect)."""
        state = self.state
        peer = self.peer
        if state == LISTEN:
            self.stop_listening(touched)
            if not self.locked & PORT_LOCKED:
                self.release_port()
        elif state in (ESTABLISHED, CLOSE_WAIT, FIN_WAIT) or (
            state in (CLOSING, LAST_ACK) and peer is not None and peer.fin == FIN_WAITS
        ):
            self.send_reset(touched)
            self.error = errno.ECONNRESET
        elif state == SYN_SENT:
            self._leave()
            self.error = errno.ECONNRESET
        elif state != CLOSE:
            self._leave()
        self.raddr = ""
        self.rport = 0
        if not self.locked & ADDR_LOCKED:
            self.laddr = ANY6 if self.six else ANY
        self.shut = 0
        self.fin = NO_FIN
        self.drop()
        self.refresh()
        touched.append(self)

    def close(self, touched: Touched) -> None:
        """The socket is gone (__tcp_close)."""
        state = self.state
        unread = self.used
        self.shut = BOTH
        self.vpoll = None
        if state == LISTEN:
            self.stop_listening(touched)
        elif state not in (CLOSE, SYN_SENT):
            if unread:
                self.send_reset(touched)
            elif self.linger[0] and not self.linger[1]:
                self.disconnect(touched)
            else:
                self.send_fin(touched)
        self.destroy()

    def destroy(self) -> None:
        """Give back everything but what the peer still needs."""
        self.orphan = True
        self.drop()
        state = self.state
        if state == SYN_SENT:
            self._leave()
        elif state == FIN_WAIT and self.peer is not None and self.peer.fin == FIN_CAME:
            self._keep_port()
        elif state not in (FIN_WAIT, CLOSING, LAST_ACK):
            if self.key is not None:
                self._drop_key()
            if self.table is not None:
                self.release_port()
        self.host.open.discard(self)

    def abandon(self, touched: Touched) -> None:
        """The stack is closed under the socket."""
        server = self.server
        if self.state == LISTEN:
            self.stop_listening(touched)
        elif self.state not in (CLOSE, SYN_SENT):
            self.send_reset(touched)
        self._leave()
        self.drop()
        self.release_port()
        self.error = errno.ENETDOWN
        self.shut = BOTH
        self.phase = DISCONNECTING
        self.refresh()
        touched.append(self)
        if server is not None:
            server.refresh()

    # Data.

    def room_made(self, touched: Touched) -> None:
        sender = self.peer
        if self.fin == FIN_WAITS and self.used <= self.rcvbuf:
            self.receive_fin(touched)
        if sender is not None and not sender.orphan and not sender.mask & OUT and sender.changed():
            touched.append(sender)
