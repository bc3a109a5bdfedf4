"""What a stream has sent and not had acknowledged: when it goes out, and when again.

No clock, no path and no socket: times come in nanoseconds, segments go out in lists.  The
rules are those of RFC 6298 (the timer), RFC 5681 and 6675 (what counts as lost), RFC 896
(small segments) with the constants of Linux.  There is no congestion window while nothing
times out: the receiver's buffer is the limit.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import Final, NamedTuple

from ...hot.pipe import Chunk
from .agenda import SECOND

__all__ = ["RTO_MAX", "Acknowledgement", "RoundTrip", "Segment", "Sender"]

# TCP_RTO_MIN, TCPRTO_MAX and TCP_TIMEOUT_INIT.
_RTO_MIN: Final = SECOND // 5
RTO_MAX: Final = 120 * SECOND
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
        return min(base << min(self.backoff, 20), RTO_MAX)


class Sender:
    """One direction of a stream, at the sending end.  Called under the network's lock.

    most -- the bytes of the largest segment (MSS)

    A signal handler may call `put`, `finish` and `purge` wherever it interrupts the rest:
    no statement that counts or that takes something from a queue has a call in it.
    """

    __slots__ = (
        "_budget",
        "_finishing",
        "_flight",
        "_lost",
        "_most",
        "_next",
        "_pending",
        "_sent",
        "_unsent",
        "_urgent",
        "deadline",
        "edge",
        "round_trip",
        "since",
        "unanswered",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._unsent: list[tuple[Chunk, bool]] = []
        self._pending = 0
        self._urgent = 0
        self._flight: dict[int, Segment] = {}
        self._lost: list[Segment] = []
        self._next = 0
        self._sent = 0
        self._finishing = False
        self._budget: int | None = None
        self.round_trip = RoundTrip()
        self.edge = 0
        """Bytes from the start of the stream that the receiver has had room for."""
        self.deadline: int | None = None
        """When `expire` is to be called; None: nothing is waited for."""
        self.since = 0
        """When the first timeout since the last answer was (tcp_sock.retrans_stamp)."""
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

    @property
    def held(self) -> int:
        """Bytes that have been put here and not been acknowledged."""
        flying = sum(len(segment.data) for segment in tuple(self._flight.values()))
        return flying + sum(len(data) for data, _ in tuple(self._unsent))

    def put(self, data: Chunk, urgent: bool) -> None:
        """Let `data` follow what there is; `urgent`: its last byte is."""
        count = len(data)
        self._unsent.append((data, urgent))
        self._pending += count
        self._urgent += urgent

    def finish(self) -> None:
        """Let a FIN follow what there is."""
        self._finishing = self._next >= 0

    def purge(self) -> None:
        """Drop what has not set out, and forget what has (tcp_write_queue_purge)."""
        self._unsent.clear()
        self._flight.clear()
        self._lost.clear()
        self._finishing = False
        self._pending = self._urgent = 0
        self.deadline = None

    def take(self, now: int, at_once: bool) -> list[Segment]:
        """Return the segments that set out now.

        at_once -- a small one too, though others have not been acknowledged (TCP_NODELAY)
        """
        out: list[Segment] = []
        alone = not self._flight
        while self._lost and self._budget != 0:
            segment = self._lost[0]
            del self._lost[:1]
            segment.lost = False
            out.append(segment)
            if self._budget is not None:
                self._budget -= 1
        if not self._lost:
            self._budget = None
            while self._unsent and self._sent <= self.edge:
                small = self._pending < self._most and not self._urgent
                if small and self._flight and not at_once and not self._finishing:
                    # Nagle's rule.
                    break
                out.append(self._build())
            if self._finishing and not self._unsent:
                out.append(self._fin())
        for segment in out:
            segment.times += 1
            segment.sent = now
            segment.first = segment.first or now
        if (alone and out) or (self.deadline is None and (self._flight or self._unsent)):
            self.unanswered = self.round_trip.backoff = 0
            self.deadline = now + self.round_trip.timeout
        return out

    def _build(self) -> Segment:
        """Make one segment of what waits: as much as it holds, up to an urgent byte."""
        unsent, most = self._unsent, self._most
        data, urgent = unsent[0]
        size, count = len(data), 1
        rest: list[tuple[Chunk, bool]] = []
        if size > most:
            view = memoryview(data)
            rest = [(view[most:], urgent)]
            data, urgent, size = view[:most], False, most
        elif not urgent:
            parts = [data]
            for more, marked in unsent[1:most]:
                if size + len(more) > most:
                    break
                parts.append(more)
                size += len(more)
                urgent = marked
                if marked:
                    break
            count = len(parts)
            if count > 1:
                data = b"".join(parts)
        segment = Segment(self._next, data, urgent, False)
        self._flight[self._next] = segment
        self._next += 1
        self._sent += size
        self._pending -= size
        self._urgent -= urgent
        unsent[:count] = rest
        return segment

    def _fin(self) -> Segment:
        segment = Segment(self._next, b"", False, True)
        self._flight[self._next] = segment
        self._next = -1
        self._finishing = False
        return segment

    def answered(self, told: Acknowledgement, now: int) -> int:
        """Take what the receiver tells; return how many bytes it has acknowledged."""
        self.edge = max(self.edge, told.edge)
        self.unanswered = 0
        progress, freed = self._forget(told.expected, now)
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
        return freed

    def _forget(self, expected: int, now: int) -> tuple[int, int]:
        """What is before `expected` has come: so many segments, and so many bytes."""
        gone, freed = [], 0
        for segment in tuple(self._flight.values()):
            if segment.number >= expected:
                break
            gone.append(segment)
        for segment in gone:
            self._flight.pop(segment.number, None)
            freed += len(segment.data)
            if segment.times == 1 and not segment.sacked:
                self.round_trip.sample(now - segment.sent)
        if self._lost:
            self._lost = [segment for segment in self._lost if segment.number >= expected]
        return len(gone), freed

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
        for segment in reversed(tuple(self._flight.values())):
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
        if not self.unanswered:
            self.since = now
        self.unanswered += 1
        self.round_trip.backoff += 1
        self.deadline = now + self.round_trip.timeout
        missing = [each for each in tuple(self._flight.values()) if not each.sacked]
        for segment in missing:
            segment.lost = True
        self._lost = missing
        if missing:
            self._budget = 1
        return not missing
