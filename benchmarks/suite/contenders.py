"""Who takes part: a loop, what carries its data, and the build of vpoll_asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

OURS = ("EventLoop", "UvloopEventLoop")
LOOPS = ("asyncio", "uvloop", *OURS)

Sample = Callable[[], dict[str, float]]
"""Runs one sample; returns seconds an operation, or bytes, by the name of what was measured."""

Scenario = Callable[..., AbstractContextManager[Sample]]
"""``scenario(contender, **sizes)`` sets up, gives a `Sample` to call any number of times."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    loop -- one of `LOOPS`
    via -- what carries data or wake-ups: ``"memory"``, ``"socketpair"``, ``"tcp"``, ``"vpoll"`` …
    options -- arguments of the scenario that are this contender's own
    note -- told in its label, where `loop` and `via` do not tell it from the others
    build -- which build of vpoll_asyncio, for those of its loops; else ""
    """

    loop: str
    via: str
    options: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    note: str = ""
    build: str = ""

    @property
    def ours(self) -> bool:
        return self.loop in OURS

    @property
    def label(self) -> str:
        note = f" ({self.note})" if self.note else ""
        build = f" [{self.build}]" if self.build else ""
        return f"{self.loop} {self.via}{note}{build}"


def make_loop(kind: str, stack: Any = None) -> asyncio.AbstractEventLoop:
    """Return a new loop; `stack` is for those of `OURS`."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    import vpoll_asyncio as va

    ours: asyncio.AbstractEventLoop
    ours = va.EventLoop(stack) if kind == "EventLoop" else va.UvloopEventLoop(stack)
    return ours


@contextmanager
def opened_stack(via: str) -> Iterator[Any]:
    """Give the stack that `via` names, or None where the kernel carries the data."""
    if via not in ("memory", "lwip"):
        yield None
        return
    import vpoll_asyncio as va

    link = {"memory": "mem://bench", "lwip": "wire://bench"}[via]
    with va.open_stack(via, vnl=link, ip="10.1.1.1/24") as stack:
        yield stack


@contextmanager
def running(contender: Contender) -> Iterator[asyncio.Runner]:
    """Give a runner of `contender`'s loop, with its stack open."""
    with opened_stack(contender.via) as stack:
        with asyncio.Runner(loop_factory=lambda: make_loop(contender.loop, stack)) as runner:
            yield runner


def sampler(runner: asyncio.Runner, measure: Callable[[], Awaitable[dict[str, float]]]) -> Sample:
    async def main() -> dict[str, float]:
        return await measure()

    return lambda: runner.run(main())
