"""What a stream has sent and not had acknowledged: when it goes out, and when again.

No clock, no path and no socket: times come in nanoseconds, segments go out in lists.  The
rules are those of RFC 6298 (the timer), RFC 5681 and 6675 (what counts as lost), RFC 896
(small segments) with the constants of Linux.  There is no congestion window while nothing
times out: the receiver's buffer is the limit.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from operator import attrgetter
from typing import Final, NamedTuple

from ...hot.pipe import Chunk
from .agenda import SECOND

__all__ = ["Acknowledgement", "RoundTrip", "Segment", "Sender"]

# TCP_RTO_MIN, TCP_RTO_MAX and TCP_TIMEOUT_INIT.
_RTO_MIN: Final = SECOND // 5
_RTO_MAX: Final = 120 * SECOND
_RTO_FIRST: Final = SECOND
_DUPLICATES: Final = 3

_by_number = attrgetter("number")


class Segment:
    """A piece of the stream that travels as one packet: data, or the FIN behind them."""

    __slots__ = ("data", "fin", "first", "lost", "number", "sacked", "sent", "times", "urgent")

    def __init__(self, number: int, data: Chunk, urgent: bool, fin: bool) -> None:
        self.number = number
        self.data = data
        self.urgent = urgent
        """Whether the last byte is urgent."""
        self.fin = fin
        self.sent = 0
        self.first = 0
        self.times = 0
        self.lost = False
        self.sacked = False


class Acknowledgement(NamedTuple):
    """What a receiver tells a sender."""

    expected: int
    """The number of the first segment that has not come."""
    edge: int
    """How many bytes of the stream, from its start, there is room for."""
    early: tuple[int, ...]
    """Segments behind that one that have come."""


class RoundTrip:
    """The retransmission timeout: RFC 6298, with the least deviation that Linux assumes."""

    __slots__ = ("_deviation", "_smoothed", "backoff")

    def __init__(self) -> None:
        self._smoothed = self._deviation = 0
        self.backoff = 0
        """How often the timeout has doubled."""

    def sample(self, taken: int) -> None:
        """Learn from a segment that was sent once and acknowledged after `taken`."""
        if not self._smoothed:
            self._smoothed = max(1, taken)
            self._deviation = taken // 2
        else:
            self._deviation += (abs(taken - self._smoothed) - self._deviation) // 4
            self._smoothed += (taken - self._smoothed) // 8

    @property
    def timeout(self) -> int:
        """How long to wait for an answer."""
        base = _RTO_FIRST
        if self._smoothed:
            base = self._smoothed + max(_RTO_MIN, 4 * self._deviation)
        return min(base << min(self.backoff, 20), _RTO_MAX)


class Sender:
    """One direction of a stream, at the sending end.  Called under the network's lock.

    most -- the bytes of the largest segment (MSS)
    """

    __slots__ = (
        "_budget",
        "_finishing",
        "_flight",
        "_lost",
        "_most",
        "_next",
        "_sent",
        "_unsent",
        "deadline",
        "edge",
        "held",
        "round_trip",
        "since",
        "unanswered",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._unsent: deque[tuple[Chunk, bool]] = deque()
        self._flight: dict[int, Segment] = {}
        self._lost: list[Segment] = []
        self._next = 0
        self._sent = 0
        self._finishing = False
        self._budget: int | None = None
        self.round_trip = RoundTrip()
        self.edge = 0
        """Bytes from the start of the stream that the receiver has had room for."""
        self.held = 0
        """Bytes that the program has sent and the receiver has not acknowledged."""
        self.deadline: int | None = None
        """When `expire` is to be called; None: nothing is waited for."""
        self.since = 0
        """Since when there has been no answer."""
        self.unanswered = 0
        """How many timeouts there have been since the last answer."""

    @property
    def idle(self) -> bool:
        """Whether everything, a FIN too, has been sent and acknowledged."""
        return not self._flight and not self._unsent and not self._finishing

    @property
    def finished(self) -> bool:
        """Whether the FIN has been sent and acknowledged."""
        return self._next < 0 and not self._flight

    def put(self, data: Chunk, urgent: bool) -> None:
        """Let `data` follow what there is; `urgent`: its last byte is."""
        self.held += len(data)
        self._unsent.append((data, urgent))

    def finish(self) -> None:
        """Let a FIN follow what there is."""
        self._finishing = self._next >= 0

    def purge(self) -> None:
        """Drop what has not set out, and forget what has (tcp_write_queue_purge)."""
        self._unsent.clear()
        self._flight.clear()
        self._lost.clear()
        self._finishing = False
        self.held = 0
        self.deadline = None

    def take(self, now: int, at_once: bool) -> list[Segment]:
        """Return the segments that set out now.

        at_once -- a small one too, though others have not been acknowledged (TCP_NODELAY)
        """
        out: list[Segment] = []
        alone = not self._flight
        while self._lost and self._budget != 0:
            segment = self._lost.pop(0)
            segment.lost = False
            out.append(segment)
            if self._budget is not None:
                self._budget -= 1
        if not self._lost:
            self._budget = None
            while self._unsent and self._sent <= self.edge:
                if self._small() and self._flight and not at_once and not self._finishing:
                    break
                out.append(self._build())
            if self._finishing and not self._unsent:
                self._finishing = False
                out.append(self._add(b"", False, True))
                self._next = -1
        for segment in out:
            segment.times += 1
            segment.sent = now
            segment.first = segment.first or now
        if (alone and out) or (self.deadline is None and (self._flight or self._unsent)):
            self.since = now
            self.unanswered = self.round_trip.backoff = 0
            self.deadline = now + self.round_trip.timeout
        return out

    def _small(self) -> bool:
        size = 0
        for data, urgent in self._unsent:
            size += len(data)
            if urgent or size >= self._most:
                return False
        return True

    def _build(self) -> Segment:
        """Make one segment of what waits: as much as it holds, up to an urgent byte."""
        unsent = self._unsent
        data, urgent = unsent.popleft()
        if len(data) > self._most:
            view = memoryview(data)
            unsent.appendleft((view[self._most :], urgent))
            return self._add(view[: self._most], False, False)
        if not urgent and unsent and len(data) + len(unsent[0][0]) <= self._most:
            parts, size = [data], len(data)
            while not urgent and unsent and size + len(unsent[0][0]) <= self._most:
                data, urgent = unsent.popleft()
                parts.append(data)
                size += len(data)
            data = b"".join(parts)
        return self._add(data, urgent, False)

    def _add(self, data: Chunk, urgent: bool, fin: bool) -> Segment:
        segment = Segment(self._next, data, urgent, fin)
        self._flight[self._next] = segment
        self._next += 1
        self._sent += len(data)
        return segment

    def answered(self, told: Acknowledgement, now: int) -> None:
        """Take what the receiver tells."""
        self.edge = max(self.edge, told.edge)
        self.unanswered = 0
        self.since = now
        progress = self._forget(told.expected, now)
        if told.early and self._flight:
            progress += self._mark(told.early, now)
            self._find_lost()
        if progress:
            self.round_trip.backoff = 0
            if self._budget is not None:
                # Slow start, from one segment on.
                self._budget += 2 * progress
        if not self._flight and not self._unsent and not self._finishing:
            self.deadline = None
        elif progress:
            self.deadline = now + self.round_trip.timeout

    def _forget(self, expected: int, now: int) -> int:
        """What is before `expected` has come."""
        gone = []
        for number, segment in self._flight.items():
            if number >= expected:
                break
            gone.append(segment)
        for segment in gone:
            del self._flight[segment.number]
            self.held -= len(segment.data)
            if segment.times == 1 and not segment.sacked:
                self.round_trip.sample(now - segment.sent)
        if self._lost:
            self._lost = [segment for segment in self._lost if segment.number >= expected]
        return len(gone)

    def _mark(self, early: tuple[int, ...], now: int) -> int:
        count = 0
        for number in early:
            segment = self._flight.get(number)
            if segment is not None and not segment.sacked:
                segment.sacked = True
                count += 1
                if segment.lost:
                    segment.lost = False
                    self._lost.remove(segment)
                if segment.times == 1:
                    self.round_trip.sample(now - segment.sent)
        return count

    def _find_lost(self) -> None:
        """Find what is missing although later ones have come: three, or all that there are."""
        threshold = min(_DUPLICATES, max(1, len(self._flight) - 1))
        above = latest = 0
        for segment in reversed(self._flight.values()):
            if segment.sacked:
                above += 1
                latest = max(latest, segment.sent)
            elif not segment.lost and (
                above >= threshold if segment.times == 1 else latest > segment.sent
            ):
                segment.lost = True
                insort(self._lost, segment, key=_by_number)

    def expire(self, now: int) -> bool:
        """The deadline has passed.  Returns whether only a question is to be sent.

        That is so where the receiver has no room, or holds all that has been sent.
        """
        self.unanswered += 1
        self.round_trip.backoff += 1
        self.deadline = now + self.round_trip.timeout
        missing = [segment for segment in self._flight.values() if not segment.sacked]
        for segment in missing:
            segment.lost = True
        self._lost = missing
        if missing:
            self._budget = 1
        return not missing
