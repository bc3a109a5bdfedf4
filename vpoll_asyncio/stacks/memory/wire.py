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
from .handshake import KNOCKING, LEFT, OPEN, OVER, Handshake
from .pcb import RCV, publish
from .sender import Acknowledgement, Segment
from .tcp import FIN_WAIT, Touched

if TYPE_CHECKING:
    from .conditions import Conditions
    from .network import Host
    from .opening import StreamPcb

__all__ = ["WireEnd", "wire"]

_OPEN_WINDOW: Final = 1 << 62
_NODELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY)

# FIN_WAITS that has been handed to the sender: no reset takes it back.
_FIN_SENT: Final = 3

# net.ipv4.tcp_orphan_retries, as tcp_orphan_retries() reads its 0.
_ORPHAN_RETRIES: Final = 8


class WireEnd(Handshake):
    """What an endpoint, `peer`, has in place of the one on the other host."""

    __slots__ = (
        "_again",
        "_came",
        "_early",
        "_expected",
        "_last",
        "_pumping",
        "_urgent",
    )

    def __init__(self, host: Host, conditions: Conditions, six: bool) -> None:
        super().__init__(host, conditions, six)
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
        if self._stage == OPEN:
            self._acknowledge(self._conditions.now())
        return False

    # Packets out.

    def _told(self) -> Acknowledgement:
        """What has come, and how much more may."""
        peer = self.peer
        edge = _OPEN_WINDOW
        if peer is not None and self.attached:
            edge = self._came + peer.rcvbuf - peer.used
        return Acknowledgement(self._expected, edge, tuple(sorted(self._early)))

    def _acknowledge(self, now: int) -> None:
        told = self._told()
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
        if self._stage != OPEN:
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
                    letter = segment, self._told()
                    self._dispatch(now, self.other.segment_came, letter, len(segment.data))
                if not self._again:
                    break
        finally:
            self._pumping = False
        self._set_timer()

    # Packets in.

    def segment_came(
        self, letter: tuple[Segment, Acknowledgement], now: int, touched: Touched
    ) -> None:
        """A segment has arrived for `peer`, and an acknowledgement with it."""
        segment, told = letter
        if self._stage == LEFT or self.host.down:
            return
        if self.request is not None:
            # It has the acknowledgement in it that the connection waits for.
            self._complete(now, touched)
            if self.request is not None:
                return
        if self._stage == OVER:
            self._reset_back(now)
            return
        self._answered(told, now, touched)
        if segment.number >= self._expected:
            if not self.attached:
                self._reset_back(now)
                return
            self._early.setdefault(segment.number, segment)
            self._deliver(now, touched)
        if self._stage == OPEN:
            self._acknowledge(now)
            self.leave_wire(touched)

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
            held = peer.used
            try:
                peer.append(segment.data)
            except BaseException:
                # A signal handler's, in a program that moves the clock: the data are counted
                # as come, and nobody sends them again.
                peer.recount()
                if peer.used == held:
                    peer.append(segment.data)
                raise
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
        self._answered(letter[0], now, touched)
        self.leave_wire(touched)

    def _answered(self, told: Acknowledgement, now: int, touched: Touched) -> None:
        peer = self.peer
        if self._stage != OPEN or peer is None or peer.peer is not self:
            return
        self._pumping = True
        try:
            freed = self.sender.answered(told, now)
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

    def question_came(self, argument: object, now: int, touched: Touched) -> None:
        """The other side has heard nothing for long, and asks (tcp_send_probe0)."""
        if self._stage == OPEN and not self.host.down:
            self._acknowledge(now)

    def _end(self, stage: int = OVER) -> None:
        super()._end(stage)
        self._early.clear()

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

    def leave_wire(self, touched: Touched) -> None:
        """Let the endpoints have each other again, if nothing keeps them from it."""
        other = self.other
        if self._conditions.bad(self.host, other.host):
            return
        near, far = self.peer, other.peer
        if not (self._settled() and other._settled()) or near is None or far is None:
            return
        near.peer, far.peer = far, near
        self._end(LEFT)
        other._end(LEFT)
        for endpoint in near, far:
            if not endpoint.orphan:
                endpoint.refresh()
                touched.append(endpoint)

    def _settled(self) -> bool:
        return (
            self._stage == OPEN
            and self.attached
            and self.sender.idle
            and not self._early
            and self.fin in (NO_FIN, FIN_CAME)
        )

    # Time.

    def due(self, now: int, touched: Touched) -> None:
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
        elif self._stage == KNOCKING:
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
