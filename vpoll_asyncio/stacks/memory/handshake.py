"""How a stream opens that has conditions on its path: SYN, SYN/ACK and ACK, and trying again.

What an end of a wire has of its stages, its packets and its timer is here too; the data are
the subclass's, `WireEnd`.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from .agenda import SECOND
from .opening import StreamPcb, find_listener
from .path import Arrive
from .sender import RTO_MAX, Sender
from .tcp import ESTABLISHED, LISTEN, SYN_SENT, WIRE, Touched

if TYPE_CHECKING:
    from .conditions import Conditions
    from .network import Host
    from .wire import WireEnd

__all__ = ["KNOCKING", "LEFT", "NEW", "OPEN", "OVER", "Handshake"]

# Ethernet, IP and TCP with timestamps: what netem counts of a segment besides its data.
_HEADERS: Final = 66
_HEADERS_SIX: Final = 86
_MTU: Final = 1514

_SYNCNT: Final = (socket.IPPROTO_TCP, socket.TCP_SYNCNT)
_USER_TIMEOUT: Final = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

# net.ipv4.tcp_synack_retries
_SYNACK_RETRIES: Final = 5

# Nothing yet; the SYN or the SYN/ACK has been sent; connected; ended; the endpoints have
# each other again.
NEW: Final = 0
KNOCKING: Final = 1
OPEN: Final = 2
OVER: Final = 3
LEFT: Final = 4


class Handshake(StreamPcb):
    """An end of a wire, as far as opening it goes.  Called under the network's lock.

    host -- that of `peer`, the endpoint which has this in place of the one on the other host
    conditions -- the network's
    six -- whether the packets are of IPv6
    """

    __slots__ = (
        "_conditions",
        "_deadline",
        "_headers",
        "_scheduled",
        "_stage",
        "_started",
        "_tries",
        "other",
        "request",
        "sender",
    )

    other: WireEnd
    """The end on the other side."""

    def __init__(self, host: Host, conditions: Conditions, six: bool) -> None:
        super().__init__(host, six)
        self._conditions = conditions
        self._headers = _HEADERS_SIX if six else _HEADERS
        self.sender = Sender(_MTU - self._headers)
        """What `peer` sends."""
        self.state = WIRE
        self.mask = 0
        self.rcvbuf = 0
        self.request: StreamPcb | None = None
        """The listener that has been knocked at, until the connection is its."""
        self._stage = NEW
        self._tries = 0
        self._deadline: int | None = None
        self._scheduled: int | None = None
        self._started = 0

    @property
    def attached(self) -> bool:
        """Whether the endpoint still is this end's."""
        peer = self.peer
        return peer is not None and peer.peer is self

    def _dispatch(self, now: int, arrive: Arrive, argument: object = None, size: int = 0) -> None:
        path = self._conditions.path(self.host, self.other.host)
        path.send(self._headers + size, arrive, argument, now)

    def _reset_back(self, now: int) -> None:
        self._dispatch(now, self.other.reset_came)

    def _acknowledge(self, now: int) -> None:
        """Tell what has come, and how much more may."""
        raise NotImplementedError

    def due(self, now: int, touched: Touched) -> None:
        """The timer has run out, unless it has been set anew meanwhile."""
        raise NotImplementedError

    def knock(self, touched: Touched) -> None:
        """`peer` begins to connect (tcp_connect)."""
        self._stage = KNOCKING
        self._started = self._conditions.now()
        self._send_syn(self._started)

    def _send_syn(self, now: int) -> None:
        self._dispatch(now, self.other.syn_came)
        self._deadline = now + min(SECOND << self._tries, RTO_MAX)
        self._set_timer()

    def syn_came(self, argument: object, now: int, touched: Touched) -> None:
        """Somebody knocks at this end's host (tcp_v4_conn_request)."""
        if self._stage >= OVER or self.host.down:
            return
        if self._stage == OPEN or self.request is not None:
            # It has been answered, and the answer may have got lost.
            self._dispatch(now, self.other.syn_answered)
            return
        key = (self.raddr, self.rport, self.laddr, self.lport)
        if key in self.host.connections:
            # The one before between the same ports has not heard of its end.
            for user in self.host.streams.users(self.rport):
                if user.key == key and isinstance(user, StreamPcb):
                    user.receive_reset(touched)
            return
        listener = find_listener(self.host, self)
        if listener is None:
            self._reset_back(now)
        elif not listener.full():
            self.request = listener
            self._stage = KNOCKING
            self._send_syn_answer(now)

    def _send_syn_answer(self, now: int) -> None:
        self._dispatch(now, self.other.syn_answered)
        self._deadline = now + min(SECOND << self._tries, RTO_MAX)
        self._set_timer()

    def syn_answered(self, argument: object, now: int, touched: Touched) -> None:
        """The SYN/ACK has come (tcp_rcv_synsent_state_process)."""
        peer = self.peer
        if self._stage >= OVER or self.host.down:
            return
        if peer is None or peer.peer is not self:
            self._reset_back(now)
            return
        if peer.state == SYN_SENT:
            peer.state = ESTABLISHED
            self._opened(self.other.window)
            if not self._tries:
                self.sender.round_trip.sample(now - self._started)
            peer.refresh()
            touched.append(peer)
        self._acknowledge(now)

    @property
    def window(self) -> int:
        """How much the endpoint on this side has room for before anything has come."""
        return (self.request or self.peer or self).rcvbuf

    def _opened(self, edge: int) -> None:
        self._stage = OPEN
        self._deadline = None
        self.sender.edge = edge

    def _complete(self, now: int, touched: Touched) -> None:
        """The handshake is over: the connection waits to be accepted (tcp_check_req)."""
        listener = self.request
        assert listener is not None
        if listener.state != LISTEN:
            self.request = None
            self._reset_back(now)
            self._end()
        elif not listener.full():
            self._opened(self.other.window)
            self.request = None
            self.establish(listener, touched)
            self.state = WIRE
            self.mask = 0

    def reset_came(self, argument: object, now: int, touched: Touched) -> None:
        """The other side has ended the connection."""
        if self._stage >= OVER:
            return
        peer = self.peer
        if peer is not None and peer.peer is self:
            peer.receive_reset(touched)
        self._end()

    # The timer.

    def _next_deadline(self) -> int | None:
        if self._stage == KNOCKING:
            deadline, again, since = self._deadline, self._tries, self._started
        elif self._stage == OPEN:
            sender = self.sender
            deadline, again, since = sender.deadline, sender.unanswered, sender.since
        else:
            return None
        limit = self._user_timeout()
        if deadline is None or not again or not limit or self.request is not None:
            return deadline
        # As tcp_clamp_rto_to_user_timeout() has it.
        return min(deadline, since + limit)

    def _user_timeout(self) -> int:
        peer = self.peer
        own = peer.options.get(_USER_TIMEOUT, 0) if peer is not None and peer.options else 0
        return int(own) * (SECOND // 1000) or round(self._conditions.tcp_user_timeout * SECOND)

    def _set_timer(self) -> None:
        due = self._next_deadline()
        if due is not None and (self._scheduled is None or due < self._scheduled):
            # In this order, as in `Path`.
            self._conditions.agenda.add(due, self)
            self._scheduled = due

    def _knock_again(self, now: int, touched: Touched) -> None:
        if self.request is not None:
            if self._tries >= _SYNACK_RETRIES or self.request.state != LISTEN:
                self._end()
                return
            self._tries += 1
            self._send_syn_answer(now)
            return
        peer = self.peer
        assert peer is not None
        options = peer.options or {}
        most = int(options.get(_SYNCNT, 0)) or self._conditions.tcp_syn_retries
        limit = self._user_timeout()
        timed_out = limit and self._tries and now - self._started >= limit
        if self._tries >= most or timed_out:
            peer.fail(errno.ETIMEDOUT, touched)
            self._end()
            return
        self._tries += 1
        self._send_syn(now)

    def _end(self, stage: int = OVER) -> None:
        self._stage = stage
        self._deadline = None
        self.request = None
        self.sender.purge()
        self.used = 0
