"""The loops that tests run over, and waiting until one of them sleeps in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from vpoll_asyncio import VPoll, loops
from vpoll_asyncio.selector import VPollSelector
from vpoll_asyncio.testing import wait_until_asleep

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

WATCHDOG: Final = 30.0
"""Seconds after which a wake-up that did not come is reported; no test waits that long."""


def uvloop_event_loop() -> asyncio.AbstractEventLoop:
    return loops.new_event_loop(loop="uvloop")


def stock_event_loop() -> asyncio.AbstractEventLoop:
    """Stock asyncio over our selector."""
    return asyncio.SelectorEventLoop(VPollSelector())


OURS = [
    pytest.param(loops.EventLoop, id="asyncio"),
    pytest.param(uvloop_event_loop, id="uvloop", marks=pytest.mark.needs("uvloop")),
]
"""`EventLoop` and `UvloopEventLoop`."""

ALL = [*OURS, pytest.param(stock_event_loop, id="stock")]
"""And stock asyncio over `VPollSelector`."""


def new_vpoll(events: int = 0) -> VPoll:
    """A vpoll that every one of the loops can watch without a descriptor."""
    return VPoll(events, backend="virtual")


@contextlib.contextmanager
def when_asleep(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` in another thread as soon as the calling thread sleeps in epoll."""
    sleeper = threading.get_native_id()
    failures: list[BaseException] = []

    def act() -> None:
        try:
            wait_until_asleep(sleeper)
            action()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failures, failures


def resolve(future: asyncio.Future[None]) -> None:
    """Set the result, unless there is one."""
    if not future.done():
        future.set_result(None)


def run_until(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Run `loop` until `future` is done; fail if the watchdog had to end its sleep."""
    overslept = []

    def bark() -> None:
        overslept.append(WATCHDOG)
        loop.stop()

    watchdog = loop.call_later(WATCHDOG, bark)
    future.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    watchdog.cancel()
    assert not overslept, "the loop woke up by its time-out only"


@contextlib.contextmanager
def selector_watchdog(selector: selectors.BaseSelector) -> Iterator[None]:
    """End an endless ``selector.select()`` by a ready pipe after the watchdog's time."""
    reader, writer = os.pipe()
    selector.register(reader, selectors.EVENT_READ)
    timer = threading.Timer(WATCHDOG, os.write, (writer, b"!"))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        selector.unregister(reader)
        os.close(reader)
        os.close(writer)
