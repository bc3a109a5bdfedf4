"""A stream between two hosts with conditions on the path between them.

Endpoints of a healthy path refer to each other, and what one sends is in the other's queue.
Here each refers to a `WireEnd` instead, which has no socket and stands for the other endpoint:
what is sent to it is cut into segments, which travel to the end on the other side, and that
one sends them to its endpoint.  So neither endpoint knows of conditions, and those that have
none pay nothing for them.

An end counts in `used` what has been sent and not acknowledged, and its `rcvbuf` is 0, so
that the send buffer is filled and emptied as the kernel's.  What has arrived is beyond the
receiver's `rcvbuf` by less than a segment when its window is closed, so that `room_made`
tells of the next read, which is when the window opens.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from ...hot.pipe import FIN_CAME, FIN_WAITS, NO_FIN, Chunk
from .addresses import is_six
from .agenda import SECOND
from .opening import StreamPcb, find_listener
from .path import Arrive
from .pcb import RCV, Pcb, publish
from .sender import Acknowledgement, Segment, Sender
from .tcp import ESTABLISHED, FIN_WAIT, LISTEN, SYN_SENT, WIRE, Touched

if TYPE_CHECKING:
    from .conditions import Conditions
    from .network import Host

__all__ = ["WireEnd", "wire"]

# Ethernet, IP and TCP with timestamps: what netem counts of a segment besides its data.
_HEADERS: Final = 66
_HEADERS_SIX: Final = 86
_MTU: Final = 1514
_OPEN_WINDOW: Final = 1 << 62

_TCP: Final = socket.IPPROTO_TCP
_NODELAY: Final = (_TCP, socket.TCP_NODELAY)
_SYNCNT: Final = (_TCP, socket.TCP_SYNCNT)
_USER_TIMEOUT: Final = (_TCP, socket.TCP_USER_TIMEOUT)

# Nothing yet; the SYN or the SYN/ACK has been sent; connected; ended; the endpoints have
# each other again.
_NEW: Final = 0
_KNOCKING: Final = 1
_OPEN: Final = 2
_OVER: Final = 3
_LEFT: Final = 4

# FIN_WAITS that has been handed to the sender: no reset takes it back.
_FIN_SENT: Final = 3

# net.ipv4.tcp_synack_retries, and tcp_orphan_retries as tcp_orphan_retries() reads its 0.
_SYNACK_RETRIES: Final = 5
_ORPHAN_RETRIES: Final = 8


class WireEnd(StreamPcb):
    """What an endpoint, `peer`, has in place of the one on the other host.

    host -- the endpoint's
    conditions -- the network's
    six -- whether the packets are of IPv6
    """

    __slots__ = (
        "_again",
        "_came",
        "_conditions",
        "_deadline",
        "_early",
        "_expected",
        "_headers",
        "_last",
        "_pumping",
        "_scheduled",
        "_stage",
        "_started",
        "_tries",
        "_urgent",
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
        self._stage = _NEW
        self._tries = 0
        self._deadline: int | None = None
        self._scheduled: int | None = None
        self._started = 0
        self._urgent = False
        self._pumping = self._again = False
        # What comes for `peer`.
        self._expected = 0
        self._came = 0
        self._early: dict[int, Segment] = {}
        self._last: tuple[int, list[Acknowledgement]] | None = None

    # What an endpoint asks of its peer.

    def refresh(self) -> None:
        self.mask = 0

    def recount(self) -> None:
        self.used = self.sender.held
        # Whatever has been interrupted may have been about to send.
        self._pump(self._conditions.now())

    def drop(self) -> None:
        self.cut(0)

    def cut(self, count: int) -> None:
        """What the endpoint has sent is not to be sent any more."""
        self.sender.purge()
        self.used = 0

    def mark_urgent(self, data: bytes) -> None:
        self._urgent = True

    def append(self, data: Chunk) -> None:
        with self.lock:
            peer = self.peer
            moved = None
            if peer is not None and peer.peer is self:
                urgent, self._urgent = self._urgent, False
                count = len(data)
                self.sender.put(data, urgent)
                self.used += count
                self._pump(self._conditions.now())
            elif peer is not None and peer.peer is not None:
                # The connection has left the wire since the sender has looked.
                moved = peer.peer
                moved.append(data)
                moved.refresh()
        if moved is not None:
            publish(moved)

    def fin_waits(self, touched: Touched) -> None:
        self.fin = _FIN_SENT
        self.sender.finish()
        self._pump(self._conditions.now())

    def fin_acknowledged(self, touched: Touched) -> None:
        """`peer` has taken the FIN that came for it."""
        segment = self._early.get(self._expected)
        if segment is not None and segment.fin:
            del self._early[self._expected]
            self._expected += 1
            self._acknowledge(self._conditions.now())

    def receive_reset(self, touched: Touched) -> None:
        """`peer` resets the connection."""
        self._reset_back(self._conditions.now())
        self._end()

    def changed(self) -> bool:
        """`peer` has read what it had no room for (tcp_cleanup_rbuf)."""
        if self._stage == _OPEN:
            self._acknowledge(self._conditions.now())
        return False

    # Packets out.

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
        peer = self.peer
        edge = _OPEN_WINDOW
        if peer is not None and self.attached:
            edge = self._came + peer.rcvbuf - peer.used
        told = Acknowledgement(self._expected, edge, tuple(sorted(self._early)))
        path = self._conditions.path(self.host, self.other.host)
        due = path.surely_due(now)
        if self._last is not None and self._last[0] == due:
            # One that arrives at the same time says it.
            self._last[1][0] = told
            return
        letter = [told]
        sent = path.send_surely(self.other.acknowledgement_came, letter, now)
        self._last = (due, letter) if sent else None

    def _pump(self, now: int) -> None:
        """Send what may be sent."""
        if self._stage != _OPEN:
            return
        if self._pumping:
            # A signal handler or a finalizer has interrupted what follows.
            self._again = True
            return
        self._pumping = True
        try:
            while True:
                self._again = False
                peer = self.peer
                options = (peer.options if peer is not None else None) or {}
                for segment in self.sender.take(now, bool(options.get(_NODELAY))):
                    self._dispatch(now, self.other.segment_came, segment, len(segment.data))
                if not self._again:
                    break
        finally:
            self._pumping = False
        self._set_timer()

    # Packets in.

    def segment_came(self, segment: Segment, now: int, touched: Touched) -> None:
        """A segment has arrived for `peer`."""
        if self._stage == _LEFT or self.host.down:
            return
        if self.request is not None:
            # It has the acknowledgement in it that the connection waits for.
            self._complete(now, touched)
            if self.request is not None:
                return
        if segment.number >= self._expected:
            if self._stage == _OVER or not self.attached:
                self._reset_back(now)
                return
            self._early.setdefault(segment.number, segment)
            self._deliver(now, touched)
        if self._stage == _OPEN:
            self._acknowledge(now)
            self._leave_wire(touched)

    def _deliver(self, now: int, touched: Touched) -> None:
        """Give `peer` what it has been waiting for, in order."""
        peer = self.peer
        assert peer is not None
        early = self._early
        delivered = False
        while (segment := early.get(self._expected)) is not None:
            if segment.fin:
                peer.fin = FIN_WAITS
                if peer.used <= peer.rcvbuf:
                    if delivered:
                        peer.refresh()
                    peer.receive_fin(touched)
                break
            if peer.orphan or (peer.state == FIN_WAIT and peer.shut & RCV):
                # Nobody will read it (TCPAbortOnData).
                if segment.urgent:
                    peer.mark_urgent(bytes(segment.data))
                peer.receive_reset(touched)
                self.receive_reset(touched)
                return
            count = len(segment.data)
            del early[self._expected]
            self._expected += 1
            self._came += count
            if segment.urgent:
                peer.mark_urgent(bytes(segment.data))
            peer.append(segment.data)
            delivered = True
        if delivered and peer.peer is self:
            peer.refresh()
            touched.append(peer)
        elif delivered:
            touched.append(peer)

    def acknowledgement_came(
        self, letter: list[Acknowledgement], now: int, touched: Touched
    ) -> None:
        """The other side has told what has come of what `peer` has sent."""
        self.other._last = None
        if self.request is not None:
            self._complete(now, touched)
        peer = self.peer
        if self._stage != _OPEN or peer is None or peer.peer is not self:
            return
        self._pumping = True
        try:
            freed = self.sender.answered(letter[0], now)
        finally:
            self._pumping = False
        self.used -= freed
        if self.fin == _FIN_SENT and self.sender.finished:
            self.fin = FIN_CAME
            peer.fin_acknowledged(touched)
            if not self.attached:
                self._end()
                return
        elif not peer.orphan and peer.changed():
            touched.append(peer)
        self._pump(now)
        self._leave_wire(touched)

    def question_came(self, argument: object, now: int, touched: Touched) -> None:
        """The other side has heard nothing for long, and asks (tcp_send_probe0)."""
        if self._stage == _OPEN and not self.host.down:
            self._acknowledge(now)

    def reset_came(self, argument: object, now: int, touched: Touched) -> None:
        """The other side has ended the connection."""
        if self._stage >= _OVER:
            return
        peer = self.peer
        if peer is not None and peer.peer is self:
            peer.receive_reset(touched)
        self._end()

    # Opening.

    def knock(self, touched: Touched) -> None:
        """`peer` begins to connect (tcp_connect)."""
        self._stage = _KNOCKING
        self._started = self._conditions.now()
        self._send_syn(self._started)

    def _send_syn(self, now: int) -> None:
        self._dispatch(now, self.other.syn_came)
        self._deadline = now + (SECOND << self._tries)
        self._set_timer()

    def syn_came(self, argument: object, now: int, touched: Touched) -> None:
        """Somebody knocks at this end's host (tcp_v4_conn_request)."""
        if self._stage >= _OVER or self.host.down:
            return
        if self._stage == _OPEN or self.request is not None:
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
            self._stage = _KNOCKING
            self._send_syn_answer(now)

    def _send_syn_answer(self, now: int) -> None:
        self._dispatch(now, self.other.syn_answered)
        self._deadline = now + (SECOND << self._tries)
        self._set_timer()

    def syn_answered(self, argument: object, now: int, touched: Touched) -> None:
        """The SYN/ACK has come (tcp_rcv_synsent_state_process)."""
        peer = self.peer
        if self._stage >= _OVER or self.host.down:
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
        self._stage = _OPEN
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

    # Joining and leaving.

    def take_over(self, touched: Touched) -> None:
        """Be in place of the endpoint on the other side from now on."""
        peer, beyond = self.peer, self.other.peer
        assert peer is not None
        assert beyond is not None
        self._opened(beyond.rcvbuf - beyond.used)
        # So far there was no way between the two to speak of.
        self.sender.round_trip.sample(1)
        if beyond.fin == FIN_CAME:
            self.fin = FIN_CAME
        elif beyond.fin == FIN_WAITS:
            beyond.fin = NO_FIN
            self.fin = _FIN_SENT
            self.sender.finish()

    def taken_over(self, touched: Touched) -> None:
        """Both ends are in place."""
        peer = self.peer
        assert peer is not None
        peer.peer = self
        self._pump(self._conditions.now())
        if not peer.orphan:
            peer.refresh()
            touched.append(peer)

    def _leave_wire(self, touched: Touched) -> None:
        """Let the endpoints have each other again, if nothing keeps them from it."""
        other = self.other
        if self._conditions.bad(self.host, other.host):
            return
        near, far = self.peer, other.peer
        if not (self._settled() and other._settled()) or near is None or far is None:
            return
        near.peer, far.peer = far, near
        self._end(_LEFT)
        other._end(_LEFT)
        for endpoint in near, far:
            if not endpoint.orphan:
                endpoint.refresh()
                touched.append(endpoint)

    def leave_wire(self, touched: Touched) -> None:
        """The conditions have changed, and may have gone."""
        self._leave_wire(touched)

    def _settled(self) -> bool:
        return (
            self._stage == _OPEN
            and self.attached
            and self.sender.idle
            and not self._early
            and self.fin in (NO_FIN, FIN_CAME)
        )

    def _end(self, stage: int = _OVER) -> None:
        self._stage = stage
        self._deadline = None
        self.request = None
        self.sender.purge()
        self._early.clear()
        self.used = 0

    # Time.

    def _next_deadline(self) -> int | None:
        if self._stage == _KNOCKING:
            deadline, again, since = self._deadline, self._tries, self._started
        elif self._stage == _OPEN:
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
            self._scheduled = due
            self._conditions.agenda.add(due, self)

    def due(self, now: int, touched: list[Pcb]) -> None:
        """The timer has run out, unless it has been set anew meanwhile."""
        if self._scheduled is not None and self._scheduled <= now:
            self._scheduled = None
        deadline = self._next_deadline()
        if deadline is None:
            return
        if self.host.down or (self.request is None and not self.attached):
            self._end()
        elif deadline > now:
            self._set_timer()
        elif self._stage == _KNOCKING:
            self._knock_again(now, touched)
        elif self._gives_up(now):
            peer = self.peer
            assert peer is not None
            peer.fail(errno.ETIMEDOUT, touched)
            self._end()
        else:
            if self.sender.expire(now):
                path = self._conditions.path(self.host, self.other.host)
                path.send_surely(self.other.question_came, None, now)
            self._pump(now)
            self._set_timer()

    def _gives_up(self, now: int) -> bool:
        """tcp_write_timeout(), tcp_probe_timer()"""
        peer = self.peer
        limit = self._user_timeout()
        sender = self.sender
        if limit and sender.unanswered and now - sender.since >= limit:
            return True
        most = self._conditions.tcp_retries2
        if peer is not None and peer.orphan:
            most = min(most, _ORPHAN_RETRIES)
        return sender.unanswered >= most

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


def wire(near: StreamPcb, conditions: Conditions, far_host: Host) -> WireEnd:
    """Return the end of a new wire that is for `near`, which is going to a host of its network."""
    six = is_six(near.raddr)
    end = WireEnd(near.host, conditions, six)
    other = WireEnd(far_host, conditions, six)
    end.other, other.other = other, end
    end.peer = near
    end.laddr, end.lport = near.raddr, near.rport
    end.raddr, end.rport = near.laddr, near.lport
    other.laddr, other.lport = near.laddr, near.lport
    other.raddr, other.rport = near.raddr, near.rport
    return end
