"""Events from another thread: what they cost, and how soon a sleeping loop wakes."""

from __future__ import annotations

import asyncio
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..contenders import Contender, Sample, running, sampler

IN = 1  # EPOLLIN
# Long enough for the loop to have gone to sleep, short enough for many wake-ups.
_PAUSE = 0.0002


@contextmanager
def flood(contender: Contender, *, events: int) -> Iterator[Sample]:
    """Measure `events` events that another thread sets as fast as it can, up to the last call."""
    with running(contender) as runner, ExitStack() as cleanup:
        loop = runner.get_loop()
        left = 0
        done: asyncio.Future[None]

        def count() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        sources = _sources(loop, contender.via, events, count, cleanup)

        def send() -> None:
            for source in sources:
                source()

        async def measure() -> dict[str, float]:
            nonlocal left, done
            left = events
            done = loop.create_future()
            thread = threading.Thread(target=send)
            start = time.perf_counter()
            thread.start()
            await done
            seconds = time.perf_counter() - start
            await asyncio.to_thread(thread.join)
            return {"event": seconds / events}

        yield sampler(runner, measure)


@contextmanager
def wake(contender: Contender, *, wakes: int) -> Iterator[Sample]:
    """Measure the time from setting in a thread to the callback in a loop that sleeps."""
    with running(contender) as runner, ExitStack() as cleanup:
        loop = runner.get_loop()
        seen = threading.Semaphore(0)
        set_at = 0.0
        latencies: list[float] = []
        done: asyncio.Future[None]

        def callback() -> None:
            latencies.append(time.perf_counter() - set_at)
            if len(latencies) == wakes:
                done.set_result(None)
            seen.release()

        [source] = _sources(loop, contender.via, 1, callback, cleanup)

        def send() -> None:
            nonlocal set_at
            for _ in range(wakes):
                time.sleep(_PAUSE)
                set_at = time.perf_counter()
                source()
                seen.acquire()

        async def measure() -> dict[str, float]:
            nonlocal done
            latencies.clear()
            done = loop.create_future()
            thread = threading.Thread(target=send)
            thread.start()
            await done
            await asyncio.to_thread(thread.join)
            p99 = statistics.quantiles(latencies, n=100)[98]
            return {"median": statistics.median(latencies), "p99": p99}

        yield sampler(runner, measure)


def _sources(
    loop: Any, via: str, count: int, callback: Callable[[], None], cleanup: ExitStack
) -> list[Callable[[], object]]:
    """Return `count` functions that each cause one call of `callback` in `loop`."""
    if via == "call_soon_threadsafe":
        return [lambda: loop.call_soon_threadsafe(callback)] * count
    import vpoll_asyncio as va

    sources: list[Callable[[], object]] = []
    for _ in range(count):
        vpoll = cleanup.enter_context(va.VPoll())

        def read(vpoll: va.VPoll = vpoll) -> None:
            vpoll.del_events(IN)
            callback()

        loop.add_reader(vpoll, read)
        sources.append(functools.partial(vpoll.add_events, IN))
    return sources
