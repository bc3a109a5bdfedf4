"""Events that are set while the loop sleeps in the kernel wake it at once.

The loop's only time-out is a watchdog that fails the test.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ourloops import (
    ALL,
    OURS,
    LoopFactory,
    new_vpoll,
    resolve,
    run_until,
    selector_watchdog,
    stock_event_loop,
    when_asleep,
)
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.hot.accelerator import ACCELERATOR
from vpoll_asyncio.loops import EventLoop
from vpoll_asyncio.relay import make_trigger
from vpoll_asyncio.selector import VPollSelector
from vpoll_asyncio.watch import Watch


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    factory: LoopFactory = request.param
    loop = factory()
    yield loop
    loop.close()


def from_thread(action: Callable[[], object], run: Callable[[], None]) -> None:
    with when_asleep(action):
        run()


def from_signal_handler(action: Callable[[], object], run: Callable[[], None]) -> None:
    """The handler runs in the thread that sleeps, inside its epoll call."""
    main = threading.get_ident()
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: action())
    try:
        with when_asleep(lambda: signal.pthread_kill(main, signal.SIGUSR1)):
            run()
    finally:
        signal.signal(signal.SIGUSR1, previous)


class Dying:
    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.cycle = self

    def __del__(self) -> None:
        self.action()


def from_finalizer(action: Callable[[], object], run: Callable[[], None]) -> None:
    """A garbage collection in the sleeping thread runs a finalizer that sets the event."""
    gc.disable()
    try:
        Dying(action)
        from_signal_handler(gc.collect, run)
    finally:
        gc.enable()


WHENCE = [from_thread, from_signal_handler, from_finalizer]


@pytest.mark.parametrize("whence", WHENCE)
def test_event_for_a_reader_wakes_the_loop(
    loop: asyncio.AbstractEventLoop, whence: Callable[..., None]
) -> None:
    done = loop.create_future()
    with new_vpoll() as vpoll:
        loop.add_reader(vpoll, resolve, done)
        whence(lambda: vpoll.add_events(EventMask.IN), lambda: run_until(loop, done))
        loop.remove_reader(vpoll)


@pytest.mark.parametrize("whence", WHENCE)
def test_event_for_a_writer_wakes_the_loop(
    loop: asyncio.AbstractEventLoop, whence: Callable[..., None]
) -> None:
    done = loop.create_future()
    with new_vpoll() as vpoll:
        loop.add_writer(vpoll, resolve, done)
        whence(lambda: vpoll.add_events(EventMask.OUT), lambda: run_until(loop, done))
        loop.remove_writer(vpoll)


@pytest.mark.parametrize("whence", WHENCE)
def test_event_for_a_watch_wakes_the_loop(
    loop: asyncio.AbstractEventLoop, whence: Callable[..., None]
) -> None:
    done = loop.create_future()
    with VPoll() as vpoll:
        watch = Watch(loop, vpoll, EventMask.PRI, lambda seen: resolve(done))
        whence(lambda: vpoll.add_events(EventMask.PRI), lambda: run_until(loop, done))
        watch.cancel()


@pytest.mark.parametrize("arguments", [(), ("one",), ("one", "two")])
def test_a_watch_with_arguments_calls_back_with_those_instead_of_the_mask(
    loop: asyncio.AbstractEventLoop, arguments: tuple[str, ...]
) -> None:
    done = loop.create_future()
    heard = []

    def callback(*args: str) -> None:
        heard.append(args)
        resolve(done)

    with VPoll(EventMask.IN) as vpoll:
        watch = Watch(loop, vpoll, EventMask.IN, callback, args=arguments)
        run_until(loop, done)
        watch.cancel()
    assert set(heard) == {arguments}


@pytest.mark.parametrize("whence", WHENCE)
def test_trigger_wakes_the_loop(
    loop: asyncio.AbstractEventLoop, whence: Callable[..., None]
) -> None:
    done = loop.create_future()
    trigger = make_trigger(loop, lambda: done.set_result(None))
    whence(trigger, lambda: run_until(loop, done))


@pytest.mark.parametrize("whence", WHENCE)
def test_event_wakes_a_bare_selector(whence: Callable[..., None]) -> None:
    with new_vpoll() as vpoll, VPollSelector() as selector:
        key = selector.register(vpoll, 1)
        found = []
        with selector_watchdog(selector):
            whence(
                lambda: vpoll.add_events(EventMask.IN),
                lambda: found.extend(selector.select()),
            )
        assert found == [(key, 1)]


def after_the_look(
    selector: VPollSelector, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock() -> float:
        # Asked before the announcement.
        if not selector.asleep:
            act()
        return 0.0

    monkeypatch.setattr("vpoll_asyncio.selector.monotonic", clock)


def after_the_announcement(
    selector: VPollSelector, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Work:
        def __bool__(self) -> bool:
            if selector.asleep:
                act()
            return False

    selector.work = Work()


# The compiled selector looks and announces in one step.
MOMENTS = [after_the_announcement] if ACCELERATOR else [after_the_look, after_the_announcement]


@pytest.mark.parametrize("moment", MOMENTS)
def test_event_between_the_look_and_the_sleep_is_not_lost(
    moment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set where the selector has found nothing and is about to sleep."""
    with new_vpoll() as vpoll, VPollSelector() as selector:
        key = selector.register(vpoll, 1)
        moment(selector, lambda: vpoll.add_events(EventMask.IN), monkeypatch)
        with selector_watchdog(selector):
            assert selector.select(1_000_000) == [(key, 1)]


def test_what_is_set_behind_the_last_look_is_found_before_the_sleep_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits without a time-out never gets an empty list."""
    with new_vpoll() as woken, new_vpoll() as vpoll, VPollSelector() as selector:
        selector.register(woken, 1)
        key = selector.register(vpoll, 1)
        take = VPollSelector._take_ready

        def late(selector: VPollSelector, found: list[Any]) -> None:
            woken.del_events(EventMask.IN)
            take(selector, found)
            monkeypatch.undo()
            vpoll.add_events(EventMask.IN)

        monkeypatch.setattr(VPollSelector, "_take_ready", late)

        class Work:
            def __bool__(self) -> bool:
                if selector.asleep:
                    woken.add_events(EventMask.IN)
                return False

        selector.work = Work()
        with selector_watchdog(selector):
            assert selector.select() == [(key, 1)]


def test_trigger_between_the_look_and_the_sleep_is_not_lost() -> None:
    """What a loop has queued after it computed its time-out keeps the selector awake."""
    asked = []

    class Work:
        def __bool__(self) -> bool:
            asked.append(selector.asleep)
            return True

    with VPollSelector() as selector:
        selector.work = Work()
        with selector_watchdog(selector):
            assert selector.select() == []
    assert asked[0], "asked before the sleep was announced"


def test_trigger_between_the_loops_time_out_and_its_sleep_is_not_lost() -> None:
    class Loop(EventLoop):
        before_sleep: Callable[[], None] | None = None

        def time(self) -> float:
            # With a timer pending, first asked to compute how long to sleep.
            act, self.before_sleep = self.before_sleep, None
            if act is not None:
                act()
            return super().time()

    loop = Loop()
    done = loop.create_future()
    trigger = make_trigger(loop, lambda: done.set_result(None))
    loop.call_soon(setattr, loop, "before_sleep", trigger)
    run_until(loop, done)
    loop.close()


@pytest.mark.parametrize("factory", OURS)
def test_events_from_many_threads_all_arrive(factory: LoopFactory) -> None:
    threads, each = 4, 500
    loop = factory()
    done = loop.create_future()
    vpolls = [VPoll() for _ in range(threads)]
    seen = [0] * threads
    acknowledged = [threading.Semaphore(0) for _ in range(threads)]

    def on_event(index: int) -> None:
        vpolls[index].del_events(EventMask.IN)
        seen[index] += 1
        acknowledged[index].release()
        if sum(seen) == threads * each:
            done.set_result(None)

    def setter(index: int) -> None:
        for _ in range(each):
            vpolls[index].add_events(EventMask.IN)
            assert acknowledged[index].acquire(timeout=30)

    for index, vpoll in enumerate(vpolls):
        loop.add_reader(vpoll, on_event, index)
    workers = [threading.Thread(target=setter, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    try:
        run_until(loop, done)
    finally:
        for worker in workers:
            worker.join()
        loop.close()
        for vpoll in vpolls:
            vpoll.close()
    assert seen == [each] * threads


def test_awake_event_loop_makes_no_system_call_to_notice_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = []
    monkeypatch.setattr("os.eventfd_write", lambda *args: writes.append(args))
    loop = EventLoop()
    turns = 0
    with VPoll() as vpoll:

        def again() -> None:
            nonlocal turns
            vpoll.del_events(EventMask.IN)
            turns += 1
            if turns == 100:
                loop.stop()
            vpoll.add_events(EventMask.IN)

        loop.add_reader(vpoll, again)
        vpoll.add_events(EventMask.IN)
        loop.run_forever()
        loop.close()
    assert turns == 100
    assert not writes


@pytest.mark.parametrize("factory", [EventLoop, stock_event_loop])
def test_many_events_wake_a_sleeping_loop_by_one_write(
    factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    write = os.eventfd_write

    def counting(fd: int, value: int) -> None:
        writes.append(value)
        write(fd, value)

    loop = factory()
    done = loop.create_future()
    vpolls = [new_vpoll() for _ in range(100)]
    for vpoll in vpolls:
        loop.add_reader(vpoll, resolve, done)

    def set_all() -> None:
        for vpoll in vpolls:
            vpoll.add_events(EventMask.IN)

    monkeypatch.setattr("os.eventfd_write", counting)
    from_signal_handler(set_all, lambda: run_until(loop, done))
    for vpoll in vpolls:
        loop.remove_reader(vpoll)
        vpoll.close()
    loop.close()
    assert writes == [1]


@pytest.mark.parametrize("factory", OURS)
def test_trigger_of_a_closed_loop_does_nothing(factory: LoopFactory) -> None:
    loop = factory()
    called: list[None] = []
    trigger = make_trigger(loop, lambda: called.append(None))
    loop.close()
    trigger()
    trigger()
    assert not called


def test_trigger_of_a_closed_loop_keeps_nothing_alive() -> None:
    class Callback:
        def __call__(self) -> None: ...

    callback = Callback()
    loop = EventLoop()
    trigger = make_trigger(loop, callback)
    gone = weakref.ref(callback)
    loop.close()
    trigger()
    del callback, trigger
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("factory", OURS)
def test_trigger_runs_in_its_context(factory: LoopFactory) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    loop = factory()
    done = loop.create_future()
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    seen = []

    def record() -> None:
        seen.append(variable.get())
        done.set_result(None)

    make_trigger(loop, record, context)()
    run_until(loop, done)
    loop.close()
    assert seen == ["given"]
