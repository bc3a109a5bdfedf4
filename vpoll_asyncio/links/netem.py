"""A link with a bad network in it: delay, loss, reordering, duplication, a limited rate.

The words and their meaning are those of tc-netem(8).
"""

from __future__ import annotations

import os
import secrets
import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, get_args

from ..ending import unclosed
from ..vpoll import VPoll
from .base import Link, NativePort
from .limits import closed_error, longest_frame, shortest_frame
from .nesting import split_options
from .netemqueue import NetemQueue, flip_bit
from .netemspec import Direction, Value, parse_settings
from .timer import Timer
from .wrapper import LinkWrapper

__all__ = ["NetemCounters", "NetemLink", "parse_netem"]

_BATCH: Final = 64
_WORDS: Final = (
    "delay",
    "jitter",
    "distribution",
    "loss",
    "duplicate",
    "corrupt",
    "reorder",
    "gap",
    "rate",
    "limit",
    "direction",
    "seed",
)


class NetemCounters(NamedTuple):
    """What has happened to the frames of one direction."""

    lost: int
    """Lost on purpose."""
    overlimit: int
    """Dropped because `limit` others waited."""
    duplicated: int
    corrupted: int
    reordered: int


class NetemLink(LinkWrapper):
    """A link that delays, loses, doubles, corrupts and reorders another one's frames.

    Parameters:
    inner -- the link that the frames go through; it is closed together with this one
    delay -- how long a frame takes: seconds, or ``"10ms"``
    jitter -- by how much the delay varies: at most (uniform) or as the standard deviation
        (normal); what varies overtakes
    distribution -- ``"uniform"`` or ``"normal"``, of the jitter
    loss, duplicate, corrupt -- how many of the frames get lost, come twice, have one bit
        flipped: a fraction of 1, or ``"2%"``
    reorder -- how many of the frames overtake those that are delayed; needs a delay
    gap -- only every gap-th frame may be reordered
    rate -- bits a second, or ``"10mbit"``; tc(8) has the units
    limit -- most frames that wait in one direction; more are dropped
    direction -- ``"in"``, ``"out"`` or ``"both"``: which frames meet that
    seed -- of the random numbers; None: a new one, see `seed`

    `jitter`, `loss`, `duplicate`, `corrupt` and `reorder` may have a correlation with the
    frame before: ``"1% 25%"``, or a pair of numbers.

    Which frames are lost, doubled, corrupted and reordered depends on the seed and on the
    order of the frames, of each direction for itself, and never on the time.  Those that
    jitter reorders and those that `limit` drops do depend on it.

    `send_batch` takes every frame, as the queue of an interface does: what the inner link
    has no room for waits, `limit` frames of it, and the pollable is readable when there is
    work to do, but never says writable.  `close` hands over what is on its way out.

    Used from one thread at a time.  After fork(2) a child may only close its copy.
    Raises ValueError for a bad value.
    """

    def __init__(
        self,
        inner: Link,
        *,
        delay: float | str = 0,
        jitter: Value = 0,
        distribution: str = "uniform",
        loss: Value = 0,
        duplicate: Value = 0,
        corrupt: Value = 0,
        reorder: Value = 0,
        gap: int | str = 0,
        rate: float | str = 0,
        limit: int | str = 1000,
        direction: str = "both",
        seed: int | str | None = None,
    ) -> None:
        self._closed = True
        if direction not in get_args(Direction):
            raise ValueError(
                f"direction={direction!r}: expected one of {', '.join(get_args(Direction))}"
            )
        bad = parse_settings(
            delay=delay,
            jitter=jitter,
            distribution=distribution,
            loss=loss,
            duplicate=duplicate,
            corrupt=corrupt,
            reorder=reorder,
            gap=gap,
            rate=rate,
            limit=limit,
        )
        good = parse_settings(limit=limit)
        super().__init__(inner)
        self.seed: int | str = secrets.randbits(32) if seed is None else seed
        """What makes another link behave as this one does."""
        self._in = NetemQueue(bad if direction != "out" else good, f"in {self.seed}", flip_bit)
        self._out = NetemQueue(bad if direction != "in" else good, f"out {self.seed}", flip_bit)
        self._shortest = shortest_frame(inner.medium)
        self._longest = longest_frame(inner.medium, inner.mtu)
        self._malformed = 0
        self._error: OSError | None = None
        self._full = False
        self._pid = os.getpid()
        pollable = inner.pollable
        # A vpoll's own descriptor is exact for the two events that are watched here.
        self._inner_fd = pollable.fileno() if isinstance(pollable, VPoll) else pollable
        self._timer = Timer()
        try:
            self._poll = select.epoll()
        except BaseException:
            self._timer.close()
            raise
        try:
            self._poll.register(self._timer.fd, select.EPOLLIN)
            self._poll.register(self._inner_fd, select.EPOLLIN)
        except BaseException:
            self._poll.close()
            self._timer.close()
            raise
        self._closed = False

    @property
    def pollable(self) -> int:
        self._check()
        return self._poll.fileno()

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted elsewhere
        """Frames lost on purpose, over the limit, too long, or thrown away by the inner link."""
        own = self._in.lost + self._in.overlimit + self._out.lost + self._out.overlimit
        return own + self._malformed + self.inner.dropped

    def counters(self, direction: Direction) -> NetemCounters:
        """Return what has happened to the frames that come ``"in"`` or go ``"out"``."""
        if direction not in ("in", "out"):
            raise ValueError(f"direction {direction!r}: expected in or out")
        queue = self._in if direction == "in" else self._out
        return NetemCounters(
            queue.lost, queue.overlimit, queue.duplicated, queue.corrupted, queue.reordered
        )

    def recv_batch(self, limit: int = _BATCH) -> list[bytes]:
        self._check()
        now = time.monotonic_ns()
        if len(self._out):
            self._hand_on(now)
        if self._error is None:
            try:
                frames = self.inner.recv_batch(limit)
            except OSError as error:
                self._lose(error)
            else:
                if frames:
                    self._in.put([bytes(frame) for frame in frames], now)
        due = self._in.take(now, limit)
        if not due and self._error is not None and not len(self._in):
            raise self._error
        self._set_timer(now)
        return due

    def send_batch(self, frames: Sequence[bytes]) -> int:
        self._check()
        if self._error is not None:
            raise self._error
        now = time.monotonic_ns()
        shortest, longest = self._shortest, self._longest
        good = [bytes(frame) for frame in frames if shortest <= len(frame) <= longest]
        self._malformed += len(frames) - len(good)
        self._out.put(good, now)
        self._hand_on(now)
        self._set_timer(now)
        return len(frames)

    def _hand_on(self, now: int) -> None:
        """Give the inner link the frames that are due; it may have no room for them."""
        queue, full = self._out, False
        while not full and self._error is None and (frames := queue.take(now, _BATCH)):
            try:
                taken = self.inner.send_batch(frames)
            except OSError as error:
                self._lose(error)
                return
            if taken < len(frames):
                queue.put_back(frames[taken:])
                full = True
        if full is not self._full and self._error is None:
            self._full = full
            wanted = select.EPOLLIN | select.EPOLLOUT if full else select.EPOLLIN
            self._poll.modify(self._inner_fd, wanted)

    def _lose(self, error: OSError) -> None:
        """Leave the inner link alone, which is broken; what has come is still delivered."""
        self._error = error
        self._full = False
        self._poll.unregister(self._inner_fd)

    def _set_timer(self, now: int) -> None:
        due = self._in.due
        if self._error is not None:
            if not len(self._in):
                due = now
        elif not self._full:
            out = self._out.due
            if out is not None and (due is None or out < due):
                due = out
        self._timer.set(due, now)

    def _check(self) -> None:
        if self._closed:
            raise closed_error(self)

    @property
    def native(self) -> NativePort | None:
        return None

    def close(self) -> None:
        if self._closed:
            return
        if os.getpid() == self._pid:
            if self._error is None:
                self._hand_over()
            if self._error is None:
                # The inner link's descriptor may be shared, and would stay in the set.
                self._poll.unregister(self._inner_fd)
        self._closed = True
        self._poll.close()
        self._timer.close()
        self.inner.close()

    def _hand_over(self) -> None:
        frames = self._out.take(1 << 63, len(self._out))
        try:
            self.inner.send_batch(frames)
        except OSError:
            # It is gone, and the frames with it.
            pass

    @property
    def closed(self) -> bool:
        return self._closed

    def __repr__(self) -> str:
        state = " closed" if self._closed else f" in={len(self._in)} out={len(self._out)}"
        return f"<NetemLink{state} seed={self.seed} dropped={self.dropped} inner={self.inner!r}>"

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if not getattr(self, "_closed", True):
            _unclosed(self, self.close)


def parse_netem(arguments: str) -> dict[str, Any]:
    """Return the keyword arguments of ``netem://WORD=VALUE,WORD=VALUE…{…}``.

    Raises ValueError.
    """
    options: dict[str, Any] = {}
    for name, value in split_options(arguments):
        if name not in _WORDS or name in options:
            raise ValueError(f"option {name}={value}: netem:// has each once: {', '.join(_WORDS)}")
        options[name] = value
    # What is wrong shows before anything is opened.
    spoken = {k: v for k, v in options.items() if k not in ("direction", "seed")}
    parse_settings(**spoken)
    if "direction" in options and options["direction"] not in get_args(Direction):
        raise ValueError(f"direction={options['direction']}: expected in, out or both")
    return options
