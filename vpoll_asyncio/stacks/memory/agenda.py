"""What is to happen on a memory network later, and who sees to it that it does.

Everything waits in one heap for each network, under the network's lock.  It is a thread that
lets it happen, which exists while there is something to wait for; or, when the program has
given the network a `ManualClock`, whoever moves that clock.
"""

from __future__ import annotations

import _thread
import atexit
import itertools
import sys
import threading
import time
import weakref
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol

from ...links.netemspec import as_number
from ...sleeper import Sleeper
from .pcb import Pcb, publish

if TYPE_CHECKING:
    from .network import Network

__all__ = ["SECOND", "Agenda", "Due", "ManualClock"]

SECOND: Final = 1_000_000_000
"""Nanoseconds, in which all times of this package's insides are."""

# How much happens before other threads get at the network's lock.
_BATCH: Final = 64
# Seconds that the thread stays although nothing waits: what follows soon needs no new one.
_LINGER: Final = 0.2
_JOIN: Final = 1.0
# Seconds: a hundred years.
_LONGEST: Final = 36525 * 86400


class Due(Protocol):
    """What can wait in an `Agenda`."""

    def due(self, now: int, touched: list[Pcb]) -> None:
        """Happen, under the network's lock; append the blocks whose masks have changed."""


class ManualClock:
    """A clock that stands still until somebody moves it, for tests that wait for no time.

    Given to a network (`MemoryNetwork.clock`) before anything is under way there, it decides
    when what is under way arrives, is sent again or is given up.  One clock may serve several
    networks.  Nothing arrives unless the clock is moved, not even what takes no time:
    `advance(0)` lets that happen.

    Whoever moves the clock does the work, and wakes who waits for it, in its own thread.  Any
    thread may; one at a time gets its turn.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Times of TIME_WAIT that have been noted by the machine's clock stay meaningful.
        self._now = time.monotonic_ns()
        self._start = self._now
        self._agendas: weakref.WeakSet[Agenda] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<ManualClock {self.time():.9g} s>"

    def time(self) -> float:
        """Return the seconds since the clock was made."""
        return (self._now - self._start) / SECOND

    def monotonic(self) -> float:
        """Return the time in seconds, from the same start as `time.monotonic`."""
        return self._now / SECOND

    def monotonic_ns(self) -> int:
        """Return the time in nanoseconds, from the same start as `time.monotonic_ns`."""
        return self._now

    @property
    def next(self) -> float | None:
        """Seconds until the next thing is due, 0.0 when it is; None: nothing waits."""
        found = self._first()
        return None if found is None else max(0, found[0] - self._now) / SECOND

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and let everything that is due by then happen, each in its time.

        What follows from it happens too, when it is due within the same time.
        Raises ValueError for a negative number, and for more than a hundred years.
        """
        if not 0 <= as_number(seconds) <= _LONGEST:
            raise ValueError(
                f"{seconds!r} seconds: expected 0 or more, as time only moves on, "
                "and no more than a hundred years"
            )
        with self._lock:
            end = self._now + round(seconds * SECOND)
            while (found := self._first()) is not None and found[0] <= end:
                self._happen(*found)
            self._now = max(self._now, end)

    def step(self) -> bool:
        """Move to the time of what is due next and let that happen; False: nothing waits."""
        with self._lock:
            found = self._first()
            if found is None:
                return False
            self._happen(*found)
            return True

    def forked(self) -> None:
        """In the child of fork(2), where a thread that moves the clock is gone."""
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock = threading.RLock()

    def join(self, agenda: Agenda) -> None:
        """Let what waits in `agenda` depend on this clock."""
        self._agendas.add(agenda)

    def leave(self, agenda: Agenda) -> None:
        """Have nothing to do with `agenda` any more."""
        self._agendas.discard(agenda)

    def _first(self) -> tuple[int, Agenda] | None:
        waiting = [(due, agenda) for agenda in self._agendas if (due := agenda.next) is not None]
        return min(waiting, key=lambda each: (each[0], each[1].network.number), default=None)

    def _happen(self, due: int, agenda: Agenda) -> None:
        self._now = max(self._now, due)
        agenda.run(self._now, 1)


class Agenda:
    """What waits on one network.  Everything but `run` is called under the network's lock."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._heap: list[tuple[int, int, Due]] = []
        self._numbers = itertools.count()
        self._clock: ManualClock | None = None
        self._sleeper: Sleeper | None = None
        self._running = False
        self._asleep_until = 0
        self._ending = False
        self._telling: list[Pcb] = []

    @property
    def next(self) -> int | None:
        """When the next thing is due; None: nothing waits."""
        try:
            return self._heap[0][0]
        except IndexError:
            # Who asks without the lock, as a clock does, may come just when it gets empty.
            return None

    @property
    def clock(self) -> ManualClock | None:
        """The program's clock; None: the machine's."""
        return self._clock

    @clock.setter
    def clock(self, clock: ManualClock | None) -> None:
        if self._clock is not None:
            self._clock.leave(self)
        self._clock = clock
        if clock is not None:
            clock.join(self)

    def now(self) -> int:
        """Return the time, in nanoseconds."""
        clock = self._clock
        return time.monotonic_ns() if clock is None else clock.monotonic_ns()

    def add(self, due: int, what: Due) -> None:
        """Let `what` happen at the time `due`."""
        heappush(self._heap, (due, next(self._numbers), what))
        if self._running and due < self._asleep_until and self._sleeper is not None:
            self._sleeper.wake()
        self.go_on()

    def go_on(self) -> None:
        """See to it that what waits will happen, in case no thread could be had so far."""
        if not self._running and self._clock is None:
            self._start()

    def clear(self) -> None:
        """Nobody is left for whom anything could happen: the thread need not wait for it."""
        self._heap.clear()
        if self._sleeper is not None:
            self._sleeper.wake()

    def run(self, now: int, most: int = _BATCH) -> None:
        """Let up to `most` things that are due at `now` happen.  Called without the lock."""
        heap = self._heap
        touched = self._telling = []
        error: BaseException | None = None
        try:
            with self.network.lock:
                while most and heap and heap[0][0] <= now:
                    most -= 1
                    first = heap[0]
                    try:
                        heappop(heap)
                        first[2].due(now, touched)
                    except BaseException:
                        if self._clock is not None and first not in heap:
                            # The handler of a signal, in the program's own thread: what it
                            # has interrupted is to happen all the same.
                            heappush(heap, first)
                        raise
        finally:
            for pcb in dict.fromkeys(touched):
                try:
                    publish(pcb)
                except BaseException as exc:
                    # A waiter's own: the others have to hear of theirs all the same.
                    error = error or exc
            self._telling = []
        if error is not None:
            raise error

    # The thread.

    def _start(self) -> None:
        if self._ending or self._running:
            return
        self._running = True
        self._sleeper = None
        self._asleep_until = 0
        try:
            # Not `Thread.start`, which a signal handler and a finalizer may not call: it
            # takes locks that the code which they have interrupted may hold.
            _thread.start_new_thread(self._work, ())
        except RuntimeError:
            # The interpreter is ending, or there are too many threads: whoever sends next tries.
            self._running = False
        except BaseException:
            # A signal handler's.  Two threads would do no harm, none would.
            self._running = False
            raise
        else:
            _threads.add(self)

    def _work(self) -> None:
        try:
            self._run_all()
        except BaseException:
            # There is no memory: as if the thread had not started.
            self._running = False
            self._sleeper = None
            _report()

    def _run_all(self) -> None:
        sleeper = Sleeper()
        self._sleeper = sleeper
        lingered = False
        while True:
            sleeper.prepare()
            with self.network.lock:
                due, now = self.next, time.monotonic_ns()
                if self._ending or self._clock is not None or (due is None and lingered):
                    # Under the lock: whoever adds something finds one that will look, or none.
                    self._running = False
                    self._sleeper = None
                    return
                self._asleep_until = now + round(_LINGER * SECOND) if due is None else due
            lingered = due is None
            if self._asleep_until > now:
                sleeper.sleep((self._asleep_until - now) / SECOND)
                continue
            try:
                self.run(now)
            except BaseException:
                # A waiter has raised it, SystemExit perhaps: nobody else's business may stop
                # for that.
                _report()

    def forked(self) -> list[Pcb]:
        """In the child of fork(2): what waits goes on there, in a thread of its own.

        Returns the blocks whose masks a thread of the parent was about to show.
        """
        if self._clock is not None:
            self._clock.forked()
        if self._running:
            self._running = False
            self._sleeper = None
            if self._heap:
                self._start()
        return self._telling

    def end(self) -> None:
        """The interpreter ends: nothing happens any more.  Waits for the thread."""
        self._ending = True
        sleeper = self._sleeper
        if sleeper is not None:
            sleeper.wake()
        # As long as it could be inside the lock, whoever needs that would wait for ever.
        deadline = time.monotonic() + _JOIN
        while self._running and time.monotonic() < deadline:
            time.sleep(0.001)


def _report() -> None:
    kind, value, trace = sys.exc_info()
    assert kind is not None
    args = threading.ExceptHookArgs((kind, value, trace, threading.current_thread()))
    try:
        threading.excepthook(args)
    except BaseException:
        # As `threading.Thread` has it for a hook that fails.
        sys.excepthook(*sys.exc_info())


_threads: weakref.WeakSet[Agenda] = weakref.WeakSet()


def _end_all() -> None:
    for agenda in list(_threads):
        agenda.end()


atexit.register(_end_all)
