"""add_reader and add_writer with vpolls: level-triggered, by the wait queue, on each loop."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from ourloops import ALL, OURS, LoopFactory, new_vpoll, run_until
from vpoll_asyncio import EventLoop, EventMask, VPoll
from vpoll_asyncio.hot import relay, turn
from vpoll_asyncio.hot.accelerator import ACCELERATOR
from vpoll_asyncio.watch import Watch

IN, OUT, ERR, HUP, PRI = EventMask.IN, EventMask.OUT, EventMask.ERR, EventMask.HUP, EventMask.PRI

HOT = (relay.__file__, turn.__file__)

Loop = asyncio.AbstractEventLoop


@pytest.fixture(params=[False, True], ids=["", "debug"])
def debug(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest, debug: bool) -> Iterator[Loop]:
    factory: LoopFactory = request.param
    loop = factory()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture(params=OURS)
def our_loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    factory: LoopFactory = request.param
    loop = factory()
    yield loop
    loop.close()


@pytest.fixture
def vpoll() -> Iterator[VPoll]:
    with new_vpoll() as vpoll:
        yield vpoll


def turns(loop: Loop, count: int = 5) -> None:
    """Run `loop` for `count` turns."""

    def again(left: int) -> None:
        if left:
            loop.call_soon(again, left - 1)
        else:
            loop.stop()

    again(count)
    loop.run_forever()


class Calls:
    """Callbacks that note that they were called."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def reader(self) -> None:
        self.names.append("reader")

    def writer(self) -> None:
        self.names.append("writer")


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_reader_is_called_with_its_arguments_while_the_event_is_pending(
    loop: Loop, vpoll: VPoll
) -> None:
    seen: list[tuple[Any, ...]] = []
    done = loop.create_future()

    def reader(*args: Any) -> None:
        seen.append(args)
        if len(seen) == 3:
            vpoll.del_events(IN)
            loop.call_soon(done.set_result, None)

    loop.add_reader(vpoll, reader, 1, "two")
    vpoll.add_events(IN)
    run_until(loop, done)
    turns(loop)
    assert seen == [(1, "two")] * 3
    assert loop.remove_reader(vpoll)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (IN, ["reader"]),
        (OUT, ["writer"]),
        (IN | OUT, ["reader", "writer"]),
        (ERR, ["reader", "writer"]),
        (HUP, ["reader", "writer"]),
        (PRI | EventMask.RDNORM | EventMask.WRNORM | EventMask.RDHUP, []),
    ],
    ids=str,
)
def test_mask_is_readable_and_writable_as_the_kernels_would_be(
    loop: Loop, vpoll: VPoll, calls: Calls, mask: EventMask, expected: list[str]
) -> None:
    loop.add_reader(vpoll, calls.reader)
    loop.add_writer(vpoll, calls.writer)
    vpoll.set_events(mask)
    turns(loop)
    assert sorted(set(calls.names)) == expected
    loop.remove_reader(vpoll)
    loop.remove_writer(vpoll)


def test_event_that_was_pending_before_is_noticed(loop: Loop, calls: Calls) -> None:
    with new_vpoll(IN) as vpoll:
        loop.add_reader(vpoll, calls.reader)
        turns(loop)
        assert "reader" in calls.names
        loop.remove_reader(vpoll)


def test_event_that_is_gone_before_the_turn_calls_nobody(
    our_loop: Loop, vpoll: VPoll, calls: Calls
) -> None:
    our_loop.add_reader(vpoll, calls.reader)
    vpoll.add_events(IN)
    vpoll.del_events(IN)
    turns(our_loop)
    assert calls.names == []


def test_second_reader_replaces_the_first(loop: Loop, vpoll: VPoll, calls: Calls) -> None:
    loop.add_reader(vpoll, calls.writer)
    vpoll.add_events(IN)
    loop.add_reader(vpoll, calls.reader)
    turns(loop)
    assert set(calls.names) == {"reader"}
    assert loop.remove_reader(vpoll)
    assert not loop.remove_reader(vpoll)


def test_reader_can_remove_itself(loop: Loop, vpoll: VPoll, calls: Calls) -> None:
    def once() -> None:
        calls.reader()
        assert loop.remove_reader(vpoll)

    loop.add_reader(vpoll, once)
    vpoll.add_events(IN)
    turns(loop)
    assert calls.names == ["reader"]


def test_reader_can_replace_itself(loop: Loop, vpoll: VPoll, calls: Calls) -> None:
    def first() -> None:
        calls.writer()
        loop.add_reader(vpoll, calls.reader)

    loop.add_reader(vpoll, first)
    vpoll.add_events(IN)
    turns(loop)
    assert calls.names[:2] == ["writer", "reader"]
    assert calls.names.count("writer") == 1
    loop.remove_reader(vpoll)


def test_reader_removed_by_another_callback_of_its_turn_is_not_called(
    loop: Loop, calls: Calls
) -> None:
    """Both events are pending when the turn begins: whoever comes first wins."""
    with new_vpoll(IN) as one, new_vpoll(IN) as other:

        def remove(vpoll: VPoll) -> None:
            calls.reader()
            loop.remove_reader(vpoll)

        loop.add_reader(one, remove, other)
        loop.add_reader(other, remove, one)
        turns(loop)
        assert len(set(calls.names)) == 1
        assert loop.remove_reader(one) != loop.remove_reader(other)


def test_removing_the_reader_leaves_the_writer(loop: Loop, vpoll: VPoll, calls: Calls) -> None:
    loop.add_reader(vpoll, calls.reader)
    loop.add_writer(vpoll, calls.writer)
    assert loop.remove_reader(vpoll)
    vpoll.add_events(IN | OUT)
    turns(loop)
    assert set(calls.names) == {"writer"}
    assert loop.remove_writer(vpoll)


def test_number_object_and_user_socket_are_the_same_watch(
    our_loop: Loop, vpoll: VPoll, calls: Calls
) -> None:
    class Socket:
        def __init__(self, vpoll: VPoll) -> None:
            self.vpoll = vpoll

    forms: list[Any] = [vpoll, vpoll.fileno(), Socket(vpoll)]
    for added in forms:
        for removed in forms:
            our_loop.add_reader(added, calls.writer)
            our_loop.add_reader(removed, calls.reader)
            assert our_loop.remove_reader(removed)
            assert not our_loop.remove_reader(added)


def test_exception_of_a_reader_is_reported_and_does_not_end_the_watch(
    loop: Loop, vpoll: VPoll
) -> None:
    reports: list[type[BaseException]] = []
    loop.set_exception_handler(lambda loop, report: reports.append(type(report["exception"])))
    loop.add_reader(vpoll, lambda: 1 / 0)
    vpoll.add_events(IN)
    turns(loop)
    assert len(reports) > 1
    assert set(reports) == {ZeroDivisionError}
    loop.remove_reader(vpoll)


def test_keyboard_interrupt_of_a_reader_leaves_the_loop_and_the_watch_in_place(
    loop: Loop, vpoll: VPoll
) -> None:
    seen: list[None] = []

    def reader() -> None:
        seen.append(None)
        if len(seen) == 1:
            raise KeyboardInterrupt

    loop.add_reader(vpoll, reader)
    vpoll.add_events(IN)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    turns(loop)
    assert len(seen) > 1
    loop.remove_reader(vpoll)


@pytest.mark.parametrize("function", ["push", "trigger", "run"])
def test_a_watch_goes_on_after_an_interrupt_in_the_relay(vpoll: VPoll, function: str) -> None:
    """Where the interpreter runs signal handlers: as a function begins."""
    loop = EventLoop()
    seen: list[int] = []
    watch = Watch(loop, vpoll, IN, seen.append)
    interrupts = 0

    def trace(frame: FrameType, event: str, argument: object) -> None:
        nonlocal interrupts
        code = frame.f_code
        if not interrupts and code.co_name == function and code.co_filename in HOT:
            interrupts += 1
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        vpoll.add_events(IN)
        turns(loop)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert interrupts or ACCELERATOR is not None
    seen.clear()
    turns(loop)
    assert seen
    watch.cancel()
    loop.close()


def test_reader_runs_in_the_context_that_added_it(loop: Loop, vpoll: VPoll) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    context = contextvars.copy_context()
    context.run(variable.set, "adder's")
    context.run(loop.add_reader, vpoll, lambda: seen.append(variable.get()))
    variable.set("setter's")
    vpoll.add_events(IN)
    turns(loop)
    assert set(seen) == {"adder's"}
    loop.remove_reader(vpoll)


def test_closed_loop_takes_no_reader(loop: Loop, vpoll: VPoll, calls: Calls) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_reader(vpoll, calls.reader)


def test_closed_vpoll_takes_no_reader(loop: Loop, calls: Calls) -> None:
    vpoll = new_vpoll()
    number = vpoll.fileno()
    vpoll.close()
    for fileobj in (vpoll, number):
        with pytest.raises(OSError, match=r"closed|no vpoll") as caught:
            loop.add_reader(fileobj, calls.reader)
        assert caught.value.errno == errno.EBADF


def test_vpoll_closed_by_its_reader_is_not_heard_of_again(loop: Loop, calls: Calls) -> None:
    vpoll = new_vpoll(IN)
    number = vpoll.fileno()
    reports: list[object] = []
    loop.set_exception_handler(lambda loop, report: reports.append(report))

    def reader() -> None:
        calls.reader()
        vpoll.close()

    loop.add_reader(number, reader)
    turns(loop)
    assert calls.names == ["reader"]
    assert not reports
    assert loop.remove_reader(number)
    assert not loop.remove_reader(number)


def test_closed_loop_lets_go_of_vpolls_and_callbacks(our_loop: Loop) -> None:
    class Reader:
        def __call__(self) -> None: ...

    vpoll, reader = VPoll(IN), Reader()
    gone = weakref.ref(reader)
    our_loop.add_reader(vpoll, reader)
    our_loop.close()
    assert not our_loop.remove_reader(vpoll)
    del reader
    gc.collect()
    assert gone() is None
    vpoll.add_events(IN)
    vpoll.close()


@pytest.mark.parametrize("factory", ALL)
def test_closed_loop_leaves_no_descriptor(
    factory: LoopFactory, no_fd_leak: None, calls: Calls
) -> None:
    with new_vpoll(IN) as vpoll:
        loop = factory()
        loop.add_reader(vpoll, calls.reader)
        turns(loop)
        loop.close()
        loop.close()


def test_watching_makes_no_descriptor(our_loop: Loop, calls: Calls) -> None:
    with VPoll() as vpoll:
        our_loop.add_reader(vpoll, calls.reader)
        our_loop.add_writer(vpoll, calls.writer)
        vpoll.add_events(IN | OUT)
        turns(our_loop)
        assert set(calls.names) == {"reader", "writer"}
        assert vpoll.backend is None
        our_loop.remove_reader(vpoll)
        our_loop.remove_writer(vpoll)


def test_descriptor_of_a_vpoll_is_watched_as_any_other(loop: Loop, calls: Calls) -> None:
    with VPoll(backend="unixpair") as vpoll:
        loop.add_reader(vpoll.fileno(), calls.reader)
        vpoll.add_events(IN)
        turns(loop)
        assert "reader" in calls.names
        loop.remove_reader(vpoll.fileno())
        calls.names.clear()
        turns(loop)
        assert not calls.names


@pytest.mark.parametrize("factory", ALL)
def test_slow_reader_is_named_in_debug_mode(
    factory: LoopFactory, vpoll: VPoll, caplog: pytest.LogCaptureFixture
) -> None:
    loop = factory()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0

    def dawdling_reader() -> None:
        vpoll.del_events(IN)

    loop.add_reader(vpoll, dawdling_reader)
    vpoll.add_events(IN)
    with caplog.at_level(logging.WARNING, "asyncio"):
        turns(loop)
    loop.remove_reader(vpoll)
    loop.close()
    slow = [record.getMessage() for record in caplog.records if "took" in record.getMessage()]
    assert any("dawdling_reader" in message for message in slow)
