"""Very many vpolls watched, a hundred of them active: time an event, bytes each."""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..clock import now
from ..contenders import Contender, Sample, make_loop, sampler
from ..memory import resident

IN = 1  # EPOLLIN


@contextmanager
def watched(contender: Contender, *, total: int, active: int, events: int) -> Iterator[Sample]:
    """Watch `total` vpolls and have `active` of them, evenly spread, set again and again.

    `contender.via` is ``"add_reader"`` for the loop's readers, ``"register"`` for a
    `VPollSelector` that is asked directly.  The garbage collector leaves all of them alone
    during the samples, before each of which it would walk through them.
    """
    import vpoll_asyncio as va

    with ExitStack() as cleanup:
        cleanup.callback(gc.unfreeze)
        # Before the count: what the first of everything needs, as modules that are imported.
        va.VPoll().close()
        before = resident()
        vpolls = [va.VPoll() for _ in range(total)]
        cleanup.callback(_close, vpolls)
        chosen = vpolls[:: total // active][:active]
        if contender.via == "register":
            selector = cleanup.enter_context(va.VPollSelector())
            for vpoll in vpolls:
                selector.register(vpoll, selectors.EVENT_READ)
            each = (resident() - before) / total
            gc.freeze()
            yield lambda: {"event": _ask(selector, chosen, events) / events, "bytes": each}
            return
        loop: Any = make_loop(contender.loop)
        runner = cleanup.enter_context(asyncio.Runner(loop_factory=lambda: loop))
        runner.get_loop()
        readers = _Readers(loop)
        read = readers.read
        for vpoll in vpolls:
            loop.add_reader(vpoll, read, vpoll)
        each = (resident() - before) / total

        async def measure() -> dict[str, float]:
            seconds = await readers.run(chosen, events)
            return {"event": seconds / events, "bytes": each}

        gc.freeze()
        yield sampler(runner, measure)


def _close(vpolls: list[Any]) -> None:
    for vpoll in vpolls:
        vpoll.close()


class _Readers:
    """Clear an event and set it again, until there were enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = 0
        self._done: asyncio.Future[None]

    def read(self, vpoll: Any) -> None:
        vpoll.del_events(IN)
        self._left -= 1
        if self._left > 0:
            vpoll.add_events(IN)
        elif not self._left:
            self._done.set_result(None)

    async def run(self, vpolls: list[Any], events: int) -> float:
        self._left = events
        self._done = self._loop.create_future()
        start = now()
        for vpoll in vpolls:
            vpoll.add_events(IN)
        await self._done
        return now() - start


def _ask(selector: selectors.BaseSelector, vpolls: list[Any], events: int) -> float:
    select: Callable[[float], list[tuple[selectors.SelectorKey, int]]] = selector.select
    left = events
    start = now()
    for vpoll in vpolls:
        vpoll.add_events(IN)
    while left > 0:
        for key, _ in select(0):
            ready: Any = key.fileobj
            ready.del_events(IN)
            ready.add_events(IN)
            left -= 1
    seconds = now() - start
    for vpoll in vpolls:
        vpoll.del_events(IN)
    return seconds
