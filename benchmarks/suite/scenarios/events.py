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
# Turns in which polls of the kernel are counted.
_PROBED = 40

Step = Callable[[], None]
Chain = Callable[[int, Step], Step]


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
    turns = max(1, events // batch)
    with running(contender) as runner, ExitStack() as cleanup:
        loop = runner.get_loop()
        chains = _chains(loop, contender.via, batch, polled, cleanup)
        share = runner.run(_polls(loop, chains, _PROBED)) / _PROBED
        if polled and share < 0.9:
            raise RuntimeError(f"{contender.label}: the kernel was polled in {share:.0%} of turns")

        async def measure() -> dict[str, float]:
            seconds = await _run(loop, chains, turns)
            return {"event": seconds / (turns * batch), "polls a turn": share}

        yield sampler(runner, measure)


def _chains(loop: Any, via: str, batch: int, polled: bool, cleanup: ExitStack) -> Sequence[Chain]:
    """Return functions that arm a chain, for so many turns, and return what pushes it."""
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


def _call_soon_chain(loop: Any, turns: int, finished: Step) -> Step:
    call_soon = loop.call_soon
    left = turns

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            call_soon(step)
        else:
            finished()

    return lambda: call_soon(step)


def _eventfd_chain(loop: Any, fd: int, turns: int, finished: Step) -> Step:
    read, write = os.eventfd_read, os.eventfd_write
    left = turns

    def step() -> None:
        nonlocal left
        read(fd)
        left -= 1
        if left:
            write(fd, 1)
        else:
            finished()

    loop.add_reader(fd, step)
    return lambda: write(fd, 1)


def _vpoll_chain(loop: Any, vpoll: Any, selector: Any, turns: int, finished: Step) -> Step:
    add_events, del_events = vpoll.add_events, vpoll.del_events
    left = turns

    def step() -> None:
        nonlocal left
        del_events(IN)
        left -= 1
        if left:
            add_events(IN)
        else:
            finished()

    # The same once more: a call would be part of what is measured.
    def polled_step() -> None:
        nonlocal left
        del_events(IN)
        left -= 1
        if left:
            add_events(IN)
            selector.spare = False
        else:
            finished()

    loop.add_reader(vpoll, step if selector is None else polled_step)
    return lambda: add_events(IN)


async def _run(loop: Any, chains: Sequence[Chain], turns: int) -> float:
    """Run each of `chains` for `turns` events; return the seconds."""
    done = loop.create_future()
    running = len(chains)

    def finished() -> None:
        nonlocal running
        running -= 1
        if not running:
            done.set_result(None)

    pushes = [chain(turns, finished) for chain in chains]
    start = now()
    for push in pushes:
        push()
    await done
    return now() - start


async def _polls(loop: Any, chains: Sequence[Chain], turns: int) -> int:
    """Return how often the kernel was polled while each chain ran for `turns` events."""
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
        await _run(loop, chains, turns)
        return polls
    finally:
        loop.remove_reader(fd)
        os.close(fd)
