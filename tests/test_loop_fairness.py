"""Nobody starves: vpolls, descriptors of the kernel, timers and handles share the turns."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from ourloops import ALL, OURS, LoopFactory, new_vpoll, stock_event_loop
from vpoll_asyncio import EventMask, VPoll, loops
from vpoll_asyncio.selector import VPollSelector

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


class Busy:
    """A vpoll that is always readable, and a count of how often the loop said so."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.vpoll = new_vpoll(IN)
        self.calls = 0
        loop.add_reader(self.vpoll, self.reader)

    def reader(self) -> None:
        self.calls += 1
        if self.calls > 1000:
            self.loop.stop()

    def close(self) -> None:
        self.loop.remove_reader(self.vpoll)
        self.vpoll.close()


@pytest.fixture
def busy(loop: Loop) -> Iterator[Busy]:
    busy = Busy(loop)
    yield busy
    busy.close()


def test_busy_vpoll_does_not_starve_a_descriptor(loop: Loop, busy: Busy) -> None:
    ours, theirs = socket.socketpair()
    waits = []
    sent_at = 0

    def send() -> None:
        nonlocal sent_at
        sent_at = busy.calls
        theirs.send(b"!")

    def receive() -> None:
        ours.recv(1)
        waits.append(busy.calls - sent_at)
        if len(waits) == 20:
            loop.stop()
        else:
            send()

    with ours, theirs:
        loop.add_reader(ours, receive)
        loop.call_soon(send)
        loop.run_forever()
        loop.remove_reader(ours)
    assert len(waits) == 20
    assert max(waits) <= PATIENCE


def test_busy_vpoll_does_not_starve_a_timer(loop: Loop, busy: Busy) -> None:
    waits = []

    def fire(since: int) -> None:
        waits.append(busy.calls - since)
        if len(waits) == 20:
            loop.stop()
        else:
            loop.call_later(0, fire, busy.calls)

    loop.call_later(0, fire, busy.calls)
    loop.run_forever()
    assert len(waits) == 20
    assert max(waits) <= PATIENCE


def test_busy_vpoll_does_not_starve_a_handle(loop: Loop, busy: Busy) -> None:
    waits = []

    def run(since: int) -> None:
        waits.append(busy.calls - since)
        if len(waits) == 20:
            loop.stop()
        else:
            loop.call_soon(run, busy.calls)

    loop.call_soon(run, busy.calls)
    loop.run_forever()
    assert len(waits) == 20
    assert max(waits) <= 2


def test_busy_descriptor_does_not_starve_a_vpoll(loop: Loop) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"!")
    kernel_calls = 0
    waits: list[int] = []
    set_at = 0

    def on_pipe() -> None:
        nonlocal kernel_calls
        kernel_calls += 1
        if kernel_calls > 1000:
            loop.stop()

    def on_vpoll() -> None:
        nonlocal set_at
        vpoll.del_events(IN)
        waits.append(kernel_calls - set_at)
        if len(waits) == 20:
            loop.stop()
        else:
            set_at = kernel_calls
            vpoll.add_events(IN)

    with new_vpoll() as vpoll:
        loop.add_reader(reader, on_pipe)
        loop.add_reader(vpoll, on_vpoll)
        loop.call_soon(vpoll.add_events, IN)
        loop.run_forever()
        loop.remove_reader(vpoll)
        loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)
    assert len(waits) == 20
    assert max(waits) <= PATIENCE


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


def test_stop_before_run_is_one_turn_that_asks_the_kernel(loop: Loop, busy: Busy) -> None:
    """As the documentation of `loop.run_forever` says."""
    ours, theirs = socket.socketpair()
    received = []
    with ours, theirs:
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


@pytest.mark.parametrize("factory", [loops.EventLoop, stock_event_loop])
def test_idle_loop_sleeps(factory: LoopFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered vpolls, and pending events that nobody asked for, do not make it spin."""
    selects = []
    select = VPollSelector.select

    def counting(selector: VPollSelector, timeout: float | None = None) -> list[tuple[object, int]]:
        selects.append(timeout)
        return list(select(selector, timeout))

    monkeypatch.setattr(VPollSelector, "select", counting)
    loop = factory()
    vpolls = [new_vpoll(EventMask.OUT | EventMask.PRI) for _ in range(100)]
    for vpoll in vpolls:
        loop.add_reader(vpoll, lambda: None)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert len(selects) <= 5
    for vpoll in vpolls:
        loop.remove_reader(vpoll)
        vpoll.close()
    loop.close()


@pytest.mark.parametrize("factory", ALL)
def test_only_active_vpolls_are_asked(
    factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = factory()
    vpolls = [new_vpoll() for _ in range(1000)]
    for vpoll in vpolls:
        loop.add_reader(vpoll, vpoll.del_events, IN)
    vpolls[500].add_events(IN)
    asked = []
    peek = VPoll.peek

    def recording(vpoll: VPoll) -> int:
        asked.append(vpoll)
        return peek(vpoll)

    monkeypatch.setattr(VPoll, "peek", recording)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert set(asked) == {vpolls[500]}
    for vpoll in vpolls:
        loop.remove_reader(vpoll)
        vpoll.close()
    loop.close()


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
