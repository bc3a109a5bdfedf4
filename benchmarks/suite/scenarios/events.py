"""What one event costs: a vpoll, an eventfd, or a bare ``call_soon``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from ..clock import now
from ..contenders import Contender, Sample, running, sampler

IN = 1  # EPOLLIN

Step = Callable[[], None]
Chain = Callable[[Callable[[], bool]], Step]


@contextmanager
def event(
    contender: Contender, *, events: int, batch: int = 1, polled: bool = True
) -> Iterator[Sample]:
    """Measure set, callback, clear, with `batch` events in each turn of the loop.

    Each event's callback causes the next one, so that a turn has exactly `batch`.

    polled -- the kernel is polled in every turn.  `EventLoop` may leave out polls while it
        has work of its own; a benchmark that cleared `spare` has it poll.  Whether it does
        is not taken on trust: a descriptor that is always readable counts the turns.
    """
    with running(contender) as runner, ExitStack() as cleanup:
        loop = runner.get_loop()
        chains = _chains(loop, contender.via, batch, polled, cleanup)
        share = runner.run(_polls(loop, chains, 20 * batch)) / 20
        if polled and share < 0.9:
            raise RuntimeError(f"{contender.label}: the kernel was polled in {share:.0%} of turns")

        async def measure() -> dict[str, float]:
            seconds = await _run(loop, chains, events)
            return {"event": seconds / events, "polls a turn": share}

        yield sampler(runner, measure)


def _chains(loop: Any, via: str, batch: int, polled: bool, cleanup: ExitStack) -> Sequence[Chain]:
    """Return functions that arm a chain and return what gives it its first push."""
    if via == "call_soon":
        return [partial(_call_soon_chain, loop)] * batch
    if via == "eventfd":
        fds = []
        for _ in range(batch):
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            cleanup.callback(os.close, fd)
            fds.append(fd)
        return [partial(_eventfd_chain, loop, fd) for fd in fds]
    import vpoll_asyncio as va

    vpolls = [cleanup.enter_context(va.VPoll()) for _ in range(batch)]
    chains = [partial(_vpoll_chain, loop, vpoll, None) for vpoll in vpolls]
    if polled and hasattr(loop, "vpoll_selector"):
        # Events run in the order in which they were set: the last one of a turn decides.
        chains[-1] = partial(_vpoll_chain, loop, vpolls[-1], loop.vpoll_selector)
    return chains


def _call_soon_chain(loop: Any, again: Callable[[], bool]) -> Step:
    call_soon = loop.call_soon

    def step() -> None:
        if again():
            call_soon(step)

    return lambda: call_soon(step)


def _eventfd_chain(loop: Any, fd: int, again: Callable[[], bool]) -> Step:
    read, write = os.eventfd_read, os.eventfd_write

    def step() -> None:
        read(fd)
        if again():
            write(fd, 1)

    loop.add_reader(fd, step)
    return lambda: write(fd, 1)


def _vpoll_chain(loop: Any, vpoll: Any, selector: Any, again: Callable[[], bool]) -> Step:
    add_events, del_events = vpoll.add_events, vpoll.del_events

    def step() -> None:
        del_events(IN)
        if again():
            add_events(IN)

    def polled_step() -> None:
        del_events(IN)
        if again():
            add_events(IN)
            selector.spare = False

    loop.add_reader(vpoll, step if selector is None else polled_step)
    return lambda: add_events(IN)


async def _run(loop: Any, chains: Sequence[Chain], events: int) -> float:
    """Run `events` events through `chains`; return the seconds."""
    done = loop.create_future()
    left = events

    def again() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            done.set_result(None)
        return left > 0

    pushes = [chain(again) for chain in chains]
    start = now()
    for push in pushes:
        push()
    await done
    return now() - start


async def _polls(loop: Any, chains: Sequence[Chain], events: int) -> int:
    """Return in how many turns the kernel was polled while `events` events ran."""
    fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    polls = 0
    begun = loop.create_future()

    def polled() -> None:
        nonlocal polls
        polls += 1
        if not begun.done():
            begun.set_result(None)

    loop.add_reader(fd, polled)
    try:
        await begun
        polls = 0
        await _run(loop, chains, events)
        return polls
    finally:
        loop.remove_reader(fd)
        os.close(fd)
