"""Nobody starves: vpolls, descriptors of the kernel, timers and handles share the turns."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from busy_loops import SOURCES, Source, Turns
from loop_victims import VICTIMS, waits
from ourloops import ALL, OURS, LoopFactory, new_vpoll
from vpoll_asyncio import EventMask, VPoll

IN = EventMask.IN

Loop = asyncio.AbstractEventLoop

PATIENCE: Final = 20
"""Turns within which everybody has had one; the kernel is asked every 16th at least."""


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    factory: LoopFactory = request.param
    loop = factory()
    yield loop
    loop.close()


@pytest.mark.parametrize(
    ("factory", "source"),
    [
        pytest.param(
            *loop.values,
            source,
            id=f"{loop.id}-{source.__name__}",
            marks=[*loop.marks, pytest.mark.needs(*source.needs)],
        )
        for loop in ALL
        for source in SOURCES
        if source.stock or loop.id != "stock"
    ],
)
def test_nobody_waits_for_more_than_a_few_turns(factory: LoopFactory, source: type[Source]) -> None:
    async def main() -> None:
        turns = Turns(asyncio.get_running_loop())
        busy = source(turns)
        async with busy.working():
            # Until it is under way.
            while not busy.calls:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)
            turns.all = busy.calls = 0
            waited = {victim: await waits(victim, busy) for victim in VICTIMS}
            calls = busy.calls
        turns.stop()
        for victim, found in waited.items():
            # What is a vpoll may wait until each of the others has had its turn.
            others = 2 * victim.vpolls * busy.members
            assert all(wait.turns <= PATIENCE or wait.calls <= others for wait in found), waited
        # Neither do its turns get longer and longer instead.
        assert 0 < calls <= (turns.all + 1) * busy.per_turn

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_thousand_busy_vpolls_take_turns(loop: Loop) -> None:
    vpolls = [new_vpoll(IN) for _ in range(1000)]
    counts: Counter[int] = Counter()

    def reader(index: int) -> None:
        counts[index] += 1
        if counts[index] == 5:
            loop.stop()

    for index, vpoll in enumerate(vpolls):
        loop.add_reader(vpoll, reader, index)
    loop.run_forever()
    for vpoll in vpolls:
        loop.remove_reader(vpoll)
        vpoll.close()
    assert len(counts) == 1000
    assert max(counts.values()) - min(counts.values()) <= 1


def test_stop_before_run_is_one_turn_that_asks_the_kernel(loop: Loop) -> None:
    """As the documentation of `loop.run_forever` says."""
    ours, theirs = socket.socketpair()
    received = []
    with ours, theirs, new_vpoll(IN) as busy:
        loop.add_reader(busy, lambda: None)
        loop.add_reader(ours, lambda: received.append(ours.recv(1)))
        for count in range(1, 40):
            theirs.send(b"!")
            loop.call_soon(loop.stop)
            loop.run_forever()
            # libuv polls after the handles of its turn, asyncio before.
            loop.call_soon(loop.stop)
            loop.run_forever()
            assert len(received) == count
        loop.remove_reader(ours)
        loop.remove_reader(busy)


@pytest.mark.parametrize("factory", ALL)
def test_an_event_costs_the_same_however_many_vpolls_are_watched(factory: LoopFactory) -> None:
    def calls_for_an_event(watched: int) -> int:
        loop = factory()
        vpolls = [new_vpoll() for _ in range(watched)]
        for vpoll in vpolls:
            loop.add_reader(vpoll, vpoll.del_events, IN)
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        def turn() -> None:
            loop.call_soon(loop.stop)
            loop.run_forever()

        turn()
        sys.setprofile(count)
        try:
            vpolls[watched // 2].add_events(IN)
            turn()
        finally:
            sys.setprofile(None)
        assert not vpolls[watched // 2].events & IN
        for vpoll in vpolls:
            loop.remove_reader(vpoll)
            vpoll.close()
        loop.close()
        return calls

    assert calls_for_an_event(1000) <= calls_for_an_event(3) + 5


@pytest.mark.parametrize("factory", OURS)
def test_event_loop_hears_of_a_descriptor_in_the_turn_after_the_vpolls_fall_silent(
    factory: LoopFactory,
) -> None:
    loop = factory()
    ours, theirs = socket.socketpair()
    heard = []
    calls = 0

    def reader() -> None:
        nonlocal calls
        calls += 1
        vpoll.del_events(IN)
        if calls < 5:
            vpoll.add_events(IN)
        else:
            theirs.send(b"!")

    def receive() -> None:
        heard.append(ours.recv(1))
        loop.stop()

    with ours, theirs, VPoll() as vpoll:
        loop.add_reader(vpoll, reader)
        loop.add_reader(ours, receive)
        vpoll.add_events(IN)
        watchdog = loop.call_later(30, loop.stop)
        loop.run_forever()
        watchdog.cancel()
        loop.remove_reader(ours)
        loop.remove_reader(vpoll)
    loop.close()
    assert heard == [b"!"]
