"""`call_soon`, `create_future` and `get_debug` of EventLoop are asyncio's, only in fewer steps."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from vpoll_asyncio.loops import EventLoop

POINT = collections.namedtuple("POINT", "x y")

VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


@pytest.fixture(params=[EventLoop, asyncio.SelectorEventLoop], ids=lambda kind: kind.__name__)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.SelectorEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


def run(loop: asyncio.SelectorEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_call_soon_returns_the_handle_that_the_turn_runs(loop: Any) -> None:
    seen: list[Any] = []
    handle = loop.call_soon(seen.append, "argument")
    assert type(handle) is asyncio.Handle
    assert list(loop._ready) == [handle]
    run(loop)
    assert seen == ["argument"]


def test_callbacks_have_any_number_of_arguments(loop: Any) -> None:
    seen: list[Any] = []
    for count in range(12):
        loop.call_soon(lambda *args: seen.append(args), *range(count))
    run(loop)
    assert seen == [tuple(range(count)) for count in range(12)]


def test_cancelled_handle_does_not_run(loop: Any) -> None:
    seen: list[Any] = []
    handle = loop.call_soon(seen.append, "never")
    handle.cancel()
    assert handle.cancelled()
    run(loop)
    assert seen == []


def test_callback_runs_in_a_copy_of_the_current_context(loop: Any) -> None:
    seen: list[int] = []

    def queue() -> None:
        VARIABLE.set(1)
        loop.call_soon(look_and_set)
        loop.call_soon(look_and_set)
        VARIABLE.set(3)

    def look_and_set() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set(2)

    contextvars.copy_context().run(queue)
    run(loop)
    assert seen == [1, 1]


def test_callback_runs_in_the_context_that_is_given(loop: Any) -> None:
    context = contextvars.copy_context()
    loop.call_soon(VARIABLE.set, 5, context=context)
    run(loop)
    assert context[VARIABLE] == 5
    assert VARIABLE.get() == 0


def test_no_context_is_the_current_one(loop: Any) -> None:
    seen: list[int] = []
    loop.call_soon(lambda: seen.append(VARIABLE.get()), context=None)
    run(loop)
    assert seen == [0]


def test_what_only_has_run_is_a_context_too(loop: Any) -> None:
    ran: list[Any] = []

    class Recording:
        def run(self, callback: Any, *args: Any) -> None:
            ran.append(callback)
            callback(*args)

    loop.call_soon(ran.append, "callback", context=Recording())
    run(loop)
    assert ran[1:] == ["callback"]


@pytest.mark.parametrize("args", [(), (print, 1, 2)], ids=["nothing", "callback"])
def test_wrong_keyword_is_a_type_error(loop: Any, args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        loop.call_soon(*args, contexts=None)
    with pytest.raises(TypeError):
        loop.call_soon(*args, context=None, other=None)
    assert not loop._ready


def test_callback_is_wanted(loop: Any) -> None:
    with pytest.raises(TypeError):
        loop.call_soon()
    with pytest.raises(TypeError):
        loop.call_soon(context=None)


def test_closed_loop_takes_no_callback(loop: Any) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(print)


def test_debug_mode_says_where_a_handle_was_made(loop: Any) -> None:
    loop.set_debug(True)
    assert loop.get_debug() is True
    handle = loop.call_soon(lambda: None)
    assert f"created at {__file__}" in repr(handle)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.call_soon(asyncio.sleep)
    loop.set_debug(False)
    assert loop.get_debug() is False
    run(loop)


def test_exception_of_a_callback_goes_to_the_loops_handler(loop: Any) -> None:
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, report: reports.append(report))
    handle = loop.call_soon(lambda: 1 / 0)
    run(loop)
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert reports[0]["handle"] is handle


def test_what_replaces_the_making_of_handles_is_called(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that follow a callback to where it was queued do that."""
    made: list[Any] = []
    init: Any = asyncio.Handle.__init__

    def recorded(handle: asyncio.Handle, *args: Any) -> None:
        made.append(handle)
        init(handle, *args)

    run(loop)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.Handle, "__init__", recorded)
        handles = [loop.call_soon(print, 1), loop.call_soon(print, 2)]
        assert made == handles
    assert loop.call_soon(loop.stop) not in made
    for handle in handles:
        handle.cancel()
    loop.run_forever()


def test_call_soon_that_is_replaced_in_asyncios_class_is_called(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    call_soon: Any = asyncio.BaseEventLoop.call_soon

    def recorded(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        asked.append(callback)
        return call_soon(self, callback, *args, context=context)

    run(loop)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.BaseEventLoop, "call_soon", recorded)
        loop.call_soon(loop.stop)
        assert asked == [loop.stop]
    loop.run_forever()
    run(loop)
    assert asked == [loop.stop]


def test_call_soon_can_be_replaced_in_one_loop(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loop, "call_soon", lambda callback, *args, **options: asked.append(args))
    future = loop.create_future()
    future.add_done_callback(print)
    future.set_result(None)
    assert asked == [(future,)]


def test_future_belongs_to_the_loop(loop: Any) -> None:
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    loop.call_soon(future.set_result, 7)
    assert loop.run_until_complete(future) == 7


def test_loop_and_what_it_has_queued_are_collected_together() -> None:
    """Each refers to the other."""
    loop = EventLoop()
    gone = weakref.ref(loop)
    loop.close()
    # Closing empties the queue.
    loop._ready.append(asyncio.Handle(print, (loop,), loop))
    del loop
    gc.collect()
    assert gone() is None


def test_many_callbacks_leave_nothing_behind(loop: Any) -> None:
    class Argument: ...

    for _ in range(10):
        loop.call_soon(lambda *args: None, Argument(), Argument(), context=None)
        loop.call_soon(lambda arg: None, Argument(), context=contextvars.copy_context())
        loop.call_soon(lambda arg: None, Argument()).cancel()
        with pytest.raises(TypeError):
            loop.call_soon(Argument(), wrong=Argument())
    run(loop)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Argument)]


@pytest.mark.parametrize("arguments", [[1, 2], POINT(1, 2)], ids=["list", "namedtuple"])
def test_handle_with_other_arguments_than_a_tuple_runs(loop: Any, arguments: Any) -> None:
    seen: list[Any] = []
    loop._ready.append(asyncio.Handle(lambda *args: seen.append(args), arguments, loop))
    run(loop)
    assert seen == [(1, 2)]


def test_what_a_subclass_does_for_call_soon_is_done() -> None:
    asked: list[str] = []

    class Loop(EventLoop):
        def _call_soon(self, callback: Any, args: Any, context: Any) -> Any:
            asked.append("_call_soon")
            return super()._call_soon(callback, args, context)  # type: ignore[misc]

        def get_debug(self) -> bool:
            asked.append("get_debug")
            return super().get_debug()

    loop = Loop()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert {"_call_soon", "get_debug"} <= set(asked)


def test_what_is_mixed_in_behind_the_loop_is_asked() -> None:
    asked: list[Any] = []

    class Recording(asyncio.SelectorEventLoop):
        def call_soon(  # type: ignore[override]
            self, callback: Any, *args: Any, context: Any = None
        ) -> Any:
            asked.append(callback)
            return super().call_soon(callback, *args, context=context)

        def create_future(self) -> Any:
            asked.append("create_future")
            return super().create_future()

    class Loop(EventLoop, Recording): ...  # type: ignore[misc]

    loop = Loop()
    loop.create_future()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert asked == ["create_future", loop.stop]


@pytest.mark.parametrize("name", ["create_future", "get_debug", "_call_soon", "_check_closed"])
def test_methods_that_are_replaced_in_asyncios_class_are_called(
    loop: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[str] = []
    original = getattr(asyncio.BaseEventLoop, name)

    def recorded(*args: Any) -> Any:
        asked.append(name)
        return original(*args)

    run(loop)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.BaseEventLoop, name, recorded)
        loop.create_future()
        loop.get_debug()
        loop.call_soon(loop.stop)
    assert name in asked
    loop.run_forever()
