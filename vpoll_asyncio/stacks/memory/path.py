"""The way from one host of a memory network to another, with conditions on it.

A packet is drawn for when it sets out: lost or not, doubled, delayed by how much.  That is
`NetemQueue`, as on a `NetemLink`; here it is no bytes that wait but what they will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...links.netem import NetemCounters
from ...links.netemqueue import NetemQueue
from ...links.netemspec import Settings
from .agenda import SECOND, Agenda

if TYPE_CHECKING:
    from .pcb import Pcb

__all__ = ["Arrive", "Packet", "Path"]

_BATCH: Final = 64

Arrive = Callable[[Any, int, "list[Pcb]"], None]
"""What happens when a packet arrives: called with its argument, the time, and a list for
the blocks whose masks change."""


class Packet:
    """Something on its way: a length in bytes, and what it does when it arrives.

    Used as the frame of a `NetemQueue`, it may arrive twice.
    """

    __slots__ = ("_argument", "_arrive", "_size", "by_itself")

    def __init__(
        self, size: int, arrive: Arrive, argument: Any = None, by_itself: Path | None = None
    ) -> None:
        self._size = size
        self._arrive = arrive
        self._argument = argument
        self.by_itself = by_itself
        """The path, where the packet waits outside of its queue."""

    def __len__(self) -> int:
        return self._size

    def arrive(self, now: int, touched: list[Pcb]) -> None:
        """Do what it is for."""
        self._arrive(self._argument, now, touched)

    def due(self, now: int, touched: list[Pcb]) -> None:
        """Arrive, unless the path is cut."""
        if self.by_itself is not None and not self.by_itself.cut():
            self.arrive(now, touched)


def _nothing(argument: Any, now: int, touched: list[Pcb]) -> None:
    """What a packet does whose checksum is wrong."""


def _corrupted(packet: Packet, where: float) -> Packet:
    return Packet(len(packet), _nothing)


class Path:
    """One direction between two hosts.  Called under the network's lock.

    Parameters:
    agenda -- where what is on its way waits
    settings -- the conditions
    seed -- of the random numbers; the same text, the same numbers
    cut -- returns whether nothing passes
    """

    def __init__(
        self, agenda: Agenda, settings: Settings, seed: str, cut: Callable[[], bool]
    ) -> None:
        self.settings = settings
        self.cut = cut
        self.agenda = agenda
        self._delay = round(settings.delay * SECOND)
        self._queue: NetemQueue[Packet] = NetemQueue(settings, seed, _corrupted)
        self._scheduled: int | None = None

    def send(self, size: int, arrive: Arrive, argument: Any, now: int) -> None:
        """Let a packet of `size` bytes set out at the time `now`."""
        if self.cut():
            return
        self._queue.put([Packet(size, arrive, argument)], now)
        self._schedule()

    def surely_due(self, now: int) -> int:
        """Return when what `send_surely` sends at the time `now` arrives."""
        return now + self._delay

    def send_surely(self, arrive: Arrive, argument: Any, now: int) -> bool:
        """Let an acknowledgement set out: nothing but the delay and a cut applies to it.

        It draws no number either, as how many there are depends on who is fast.  Returns
        whether it has set out.
        """
        if self.cut():
            return False
        self.agenda.add(now + self._delay, Packet(0, arrive, argument, self))
        return True

    def due(self, now: int, touched: list[Pcb]) -> None:
        """Let what has come through arrive."""
        self._scheduled = None
        arrived = self._queue.take(now, _BATCH)
        self._schedule()
        if self.cut():
            return
        for packet in arrived:
            packet.arrive(now, touched)

    def _schedule(self) -> None:
        due = self._queue.due
        if due is not None and (self._scheduled is None or due < self._scheduled):
            # In this order: the handler of a signal may raise in between, and once too often is
            # no harm.
            self.agenda.add(due, self)
            self._scheduled = due
        else:
            self.agenda.go_on()

    @property
    def counters(self) -> NetemCounters:
        """What has happened to the packets."""
        queue = self._queue
        return NetemCounters(
            queue.lost, queue.overlimit, queue.duplicated, queue.corrupted, queue.reordered
        )
