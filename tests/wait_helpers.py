"""Waiting with wait_events, on the loops of this package and on those without it."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from ourloops import ALL, LoopFactory
from vpoll_asyncio import EventMask, wait_events
from vpoll_helpers import DEADLINE

_Result = TypeVar("_Result")
Run = Callable[[Coroutine[Any, Any, _Result]], _Result]


def unmodified_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def over_poll() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.PollSelector())


UNMODIFIED = [
    pytest.param(asyncio.SelectorEventLoop, id="unmodified-asyncio"),
    pytest.param(unmodified_uvloop, id="unmodified-uvloop", marks=pytest.mark.needs("uvloop")),
]
LOOPS = [*ALL, *UNMODIFIED, pytest.param(over_poll, id="unmodified-asyncio-poll")]


@contextlib.contextmanager
def runner(factory: LoopFactory) -> Iterator[Run[Any]]:
    """Runs coroutines on a loop of `factory`; one that takes too long fails."""

    async def bounded(main: Coroutine[Any, Any, _Result]) -> _Result:
        async with asyncio.timeout(DEADLINE):
            return await main

    with asyncio.Runner(loop_factory=factory) as inner:
        yield lambda main: inner.run(bounded(main))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(fileobj: Any, mask: int) -> asyncio.Task[EventMask]:
    """A task that waits, and that nothing pending has ended."""
    task = asyncio.create_task(wait_events(fileobj, mask))
    await turns()
    assert not task.done(), task
    return task


async def given_up(task: asyncio.Task[EventMask]) -> None:
    """Cancel a wait and see it end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
