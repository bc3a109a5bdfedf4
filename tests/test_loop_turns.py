"""The turns of `EventLoop` are asyncio's: the same calls in the same order, the same sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpoll_asyncio.loops import EventLoop
from vpoll_asyncio.loops.turn import TurnLoop

PIPES = 3
CALLS = 30
"""Callbacks after which a program ends."""

NAMES = st.integers(0, 5)
PIPE = st.integers(0, PIPES - 1)
DELAY = st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0, 100_000.0])
ACTION = st.one_of(
    st.tuples(st.just("soon"), NAMES, st.booleans()),
    st.tuples(st.just("later"), DELAY, NAMES),
    st.tuples(st.just("timers"), st.integers(90, 130), st.integers(0, 130)),
    st.tuples(st.just("cancel"), st.integers(0, 10)),
    st.tuples(st.just("watch"), PIPE, NAMES),
    st.tuples(st.just("unwatch"), PIPE),
    st.tuples(st.just("write"), PIPE),
    st.tuples(st.just("read"), PIPE),
    st.tuples(st.just("raise"), st.sampled_from([ValueError, asyncio.CancelledError])),
    st.tuples(st.just("exit"), st.sampled_from([KeyboardInterrupt, SystemExit])),
    st.tuples(st.just("stop")),
)
PROGRAM = st.lists(st.lists(ACTION, max_size=4), min_size=6, max_size=6)
"""What each of the named callbacks does."""


class Recorder(selectors.SelectSelector):
    """Sleeps by moving a clock of its own, and writes down for how long it was asked to."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.now = 0.0
        self.log = log

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self.log.append(("select", timeout, sorted(key.fd for key, _ in found)))
        if timeout is None and not found:
            raise EOFError("nothing would ever happen any more")
        if not found:
            self.now += timeout or 0.0
        return found


class Stepping:
    """A loop's clock, which only its selector moves."""

    _selector: Recorder

    def time(self) -> float:
        return self._selector.now


class Stock(Stepping, asyncio.SelectorEventLoop): ...


class Ours(Stepping, TurnLoop): ...


def record(factory: Callable[[Any], asyncio.SelectorEventLoop], program: Any) -> list[Any]:
    """What a loop does and asks of its selector, from the first callback on."""
    log: list[Any] = []
    loop = factory(Recorder(log))
    handles: list[asyncio.Handle] = []
    calls = 0
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(loop.close)
        pipes = [os.pipe() for _ in range(PIPES)]
        for pipe in pipes:
            for fd in pipe:
                cleanup.callback(os.close, fd)
                os.set_blocking(fd, False)

        def act(name: int, *rest: str) -> None:
            nonlocal calls
            calls += 1
            log.append(("call", name, rest))
            if calls >= CALLS:
                raise EOFError("enough")
            for what, *args in program[name]:
                take(what, *args)

        def take(what: str, *args: Any) -> None:
            if what == "soon":
                name, more = args
                handles.append(loop.call_soon(act, name, *(["more"] if more else [])))
            elif what == "later":
                handles.append(loop.call_later(args[0], act, args[1]))
            elif what == "timers":
                timers = [loop.call_later(50.0 + each, act, 0) for each in range(args[0])]
                for timer in timers[1 : args[1]]:
                    timer.cancel()
            elif what == "cancel" and args[0] < len(handles):
                handles[args[0]].cancel()
            elif what == "watch":
                loop.add_reader(pipes[args[0]][0], act, args[1])
            elif what == "unwatch":
                loop.remove_reader(pipes[args[0]][0])
            elif what == "write":
                os.write(pipes[args[0]][1], b"!")
            elif what == "read":
                with contextlib.suppress(BlockingIOError):
                    os.read(pipes[args[0]][0], 1)
            elif what in ("raise", "exit"):
                raise args[0]("as the program says")
            elif what == "stop":
                loop.stop()

        def reported(loop: object, report: dict[str, Any]) -> None:
            if isinstance(report["exception"], EOFError):
                raise KeyboardInterrupt
            log.append((report["message"], sorted(report), repr(report["exception"])))

        loop.set_exception_handler(reported)
        loop.call_soon(act, 0)
        for _ in range(CALLS):
            log.append("run")
            try:
                loop.run_forever()
            except (EOFError, KeyboardInterrupt, SystemExit) as exc:
                log.append(type(exc))
                if isinstance(exc, EOFError) or calls >= CALLS:
                    break
            log.append(len(loop._scheduled))  # type: ignore[attr-defined]
    return log


@settings(deadline=None, max_examples=50)
@given(program=PROGRAM)
def test_turns_do_what_asyncios_do(program: Any) -> None:
    assert record(Ours, program) == record(Stock, program)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def test_what_replaces_the_running_of_handles_is_called(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that time a loop's callbacks do that."""
    ran = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        ran.append(handle)
        run(handle)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    handles = [loop.call_soon(lambda: None), loop.call_soon(loop.stop)]
    loop.run_forever()
    assert ran == handles


def test_run_of_a_handles_subclass_is_called(loop: EventLoop) -> None:
    ran = []

    class Handle(asyncio.Handle):
        def _run(self) -> None:
            ran.append(self)

    handle = Handle(loop.stop, (), loop)
    loop._ready.append(handle)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [handle]


def test_selector_whose_select_is_replaced_is_asked_in_every_turn(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that measure a loop's sleep do that."""
    asked = []
    select = loop._selector.select

    def timed(timeout: float | None = None) -> Any:
        asked.append(timeout)
        return select(timeout)

    monkeypatch.setattr(loop._selector, "select", timed)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert asked == [0, 0]


def test_turn_keeps_nothing_of_what_it_ran_alive(loop: EventLoop) -> None:
    """An exception that is kept keeps the frames it went through."""
    kept: list[BaseException] = []
    loop.set_exception_handler(lambda loop, report: kept.append(report["exception"]))

    class Argument: ...

    argument = Argument()
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(lambda argument: None, argument)
    loop.call_soon(loop.stop)
    gone = weakref.ref(argument)
    loop.run_forever()
    assert len(kept) == 1
    del argument
    assert gone() is None


def test_a_timer_that_is_cancelled_behind_another_that_is_due_with_it_ends_quietly(
    loop: EventLoop,
) -> None:
    """Both leave the heap at once, and asyncio counts the second as cancelled ever after."""
    ran: list[str] = []
    when = loop.time() + 0.01
    loop.call_at(when, ran.append, "first")
    loop.call_at(when, ran.append, "second").cancel()
    loop.call_at(when, loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    assert ran == ["first"]
