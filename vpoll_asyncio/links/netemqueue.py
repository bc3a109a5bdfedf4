"""One direction of an emulated network: what happens to each frame, and when it goes on.

The rules are those of Linux' net/sched/sch_netem.c, in its order: duplicated or not,
lost or not, a bit flipped or not, reordered or delayed.  Every decision is drawn from a
generator of this direction's own, and none depends on the time: of the same seed and the
same frames the same ones are lost, doubled, corrupted and reordered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence, Sized
from heapq import heappop, heappush
from statistics import NormalDist
from typing import Final, Generic, TypeVar

from .netemspec import Settings

__all__ = ["NetemQueue", "flip_bit"]

_F = TypeVar("_F", bound=Sized)

_SECOND: Final = 1_000_000_000
_NORMAL: Final = NormalDist()
_TINY: Final = 2.0**-53


class _Dice:
    """Random numbers of which each is like the one before, as get_crandom() has them."""

    __slots__ = ("_last", "_random", "_rho")

    def __init__(self, random: random.Random, correlation: float) -> None:
        self._random = random.random
        self._rho = correlation
        self._last = 0.0

    def throw(self) -> float:
        value = self._random()
        if self._rho:
            value += self._rho * (self._last - value)
            self._last = value
        return value


def flip_bit(frame: bytes, where: float) -> bytes:
    """Return `frame` with one bit flipped, that at `where`, a fraction of 1, of its length."""
    if not frame:
        return frame
    at = int(where * len(frame) * 8)
    flipped = bytearray(frame)
    flipped[at // 8] ^= 1 << (at % 8)
    return bytes(flipped)


class NetemQueue(Generic[_F]):
    """Frames on their way in one direction: anything that has a length, in bytes.

    Parameters:
    settings -- what happens to them
    seed -- of the random numbers; the same text, the same numbers
    corrupt -- returns a frame as it arrives when it is corrupted, at a fraction of its length
    """

    def __init__(self, settings: Settings, seed: str, corrupt: Callable[[_F, float], _F]) -> None:
        self._settings = settings
        self._damage = corrupt
        self._random = generator = random.Random(seed)
        self._loss = _Dice(generator, settings.loss.correlation)
        self._duplicate = _Dice(generator, settings.duplicate.correlation)
        self._corrupt = _Dice(generator, settings.corrupt.correlation)
        self._reorder = _Dice(generator, settings.reorder.correlation)
        self._jitter = _Dice(generator, settings.jitter_correlation)
        self._delay = round(settings.delay * _SECOND)
        self._spread = settings.jitter * _SECOND
        self._per_byte = 8 * _SECOND / settings.rate if settings.rate else 0.0
        self._waiting: list[tuple[int, int, _F]] = []
        self._number = 0
        self._since_reordered = 0
        self._last_due = 0
        self.lost = 0
        """Frames that were lost on purpose."""
        self.overlimit = 0
        """Frames that came while `limit` others waited, and were dropped."""
        self.duplicated = 0
        """Frames that went on twice."""
        self.corrupted = 0
        """Frames of which one bit was flipped."""
        self.reordered = 0
        """Frames that overtook those before them."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def due(self) -> int | None:
        """When the next frame is due, by `time.monotonic_ns`; None: none waits."""
        return self._waiting[0][0] if self._waiting else None

    def put(self, frames: Sequence[_F], now: int) -> None:
        """Let `frames` come at time `now`."""
        settings = self._settings
        duplicate = settings.duplicate.value
        for frame in frames:
            if duplicate and self._duplicate.throw() < duplicate:
                self.duplicated += 1
                # The copy may be lost, corrupted and delayed like any other frame.
                self._put(frame, now)
            self._put(frame, now)

    def _put(self, frame: _F, now: int) -> None:
        settings = self._settings
        if settings.loss.value and self._loss.throw() < settings.loss.value:
            self.lost += 1
            return
        if settings.corrupt.value and self._corrupt.throw() < settings.corrupt.value:
            self.corrupted += 1
            frame = self._damage(frame, self._random.random())
        due = self._due(len(frame), now)
        if len(self._waiting) >= settings.limit:
            self.overlimit += 1
            return
        self._number = number = self._number + 1
        heappush(self._waiting, (due, number, frame))
        if due > self._last_due:
            self._last_due = due

    def _due(self, length: int, now: int) -> int:
        settings = self._settings
        if settings.gap:
            turn = self._since_reordered >= settings.gap - 1
            if turn and self._reorder.throw() < settings.reorder.value:
                self._since_reordered = 0
                self.reordered += 1
                # Before whatever waits.
                return 0
            self._since_reordered += 1
        delay = self._delay
        if self._spread:
            delay = max(0, delay + round(self._spread * self._deviation()))
        if self._per_byte:
            # The line is busy until the last frame has gone; the delay passes meanwhile.
            if self._waiting and self._last_due > now:
                delay = max(0, delay - (self._last_due - now))
                now = self._last_due
            delay += round(length * self._per_byte)
        return now + delay

    def _deviation(self) -> float:
        thrown = self._jitter.throw()
        if self._settings.distribution == "normal":
            return _NORMAL.inv_cdf(max(thrown, _TINY))
        return 2 * thrown - 1

    def take(self, now: int, limit: int) -> list[_F]:
        """Return up to `limit` frames that are due at `now`, in the order of their times."""
        waiting = self._waiting
        frames: list[_F] = []
        while waiting and waiting[0][0] <= now and len(frames) < limit:
            frames.append(heappop(waiting)[2])
        return frames

    def put_back(self, frames: Sequence[_F]) -> None:
        """Let `frames`, which `take` has returned, be the next ones again."""
        for number, frame in enumerate(frames, -len(frames)):
            heappush(self._waiting, (-1, number, frame))
