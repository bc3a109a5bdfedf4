"""run() and new_event_loop()."""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any, Literal

import pytest

from vpoll_asyncio import loops
from vpoll_asyncio.install import installed
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.current import current_stack, default_stack

LoopName = Literal["asyncio", "uvloop"]

pytestmark = pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)


@pytest.fixture
def stack() -> Any:
    with open_stack("memory", ip="10.1.1.1/24") as stack:
        yield stack


def test_run_returns_the_result(loop: LoopName, no_fd_leak: None) -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        return 42

    assert loops.run(main(), loop=loop) == 42


def test_run_raises_what_main_raises(loop: LoopName) -> None:
    async def main() -> None:
        raise LookupError("from main")

    with pytest.raises(LookupError, match="from main"):
        loops.run(main(), loop=loop)


def test_run_makes_the_loop_that_was_asked_for(loop: LoopName) -> None:
    async def main() -> type:
        return type(asyncio.get_running_loop())

    expected = {"asyncio": "EventLoop", "uvloop": "UvloopEventLoop"}
    assert loops.run(main(), loop=loop).__name__ == expected[loop]


@pytest.mark.parametrize("debug", [True, False])
def test_run_sets_debug_mode(loop: LoopName, debug: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert loops.run(main(), loop=loop, debug=debug) is debug


def test_run_refuses_a_running_loop(loop: LoopName) -> None:
    async def inner() -> None: ...

    async def main() -> None:
        coroutine = inner()
        with pytest.raises(RuntimeError, match="running event loop"):
            loops.run(coroutine, loop=loop)
        coroutine.close()

    loops.run(main(), loop=loop)


def test_run_cancels_the_tasks_that_are_left(loop: LoopName) -> None:
    cancelled = []

    async def forever() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        assert not task.done()

    loops.run(main(), loop=loop)
    assert cancelled == [True]


def test_run_makes_the_stack_everybodys(loop: LoopName, stack: Stack, no_fd_leak: None) -> None:
    async def main() -> None:
        running = asyncio.get_running_loop()
        assert current_stack() is stack
        assert running.stack is stack  # type: ignore[attr-defined]
        assert default_stack() is stack
        assert installed()
        with socket.socket() as own:
            assert isinstance(own, UserSocket)
        # A thread that nobody gave a context.
        assert await running.run_in_executor(None, current_stack) is stack

    loops.run(main(), loop=loop, stack=stack)
    assert default_stack() is None
    assert not installed()
    assert not stack.closed


def test_run_without_a_stack_installs_nothing(loop: LoopName) -> None:
    async def main() -> bool:
        return installed()

    assert loops.run(main(), loop=loop) is False


def test_run_puts_everything_back_after_an_exception(loop: LoopName, stack: Stack) -> None:
    async def main() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        loops.run(main(), loop=loop, stack=stack)
    assert default_stack() is None
    assert not installed()


def test_stack_runs_on_one_loop_after_the_other(loop: LoopName, stack: Stack) -> None:
    async def main() -> bytes:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_server(greet, "10.1.1.1", 80)
        reader, writer = await asyncio.open_connection("10.1.1.1", 80)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    for _ in range(3):
        assert loops.run(main(), loop=loop, stack=stack) == b"hello"


def test_ctrl_c_cancels_main_and_raises_keyboard_interrupt(loop: LoopName, stack: Stack) -> None:
    cancelled = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        loops.run(main(), loop=loop, stack=stack)
    assert cancelled == [True]
    assert default_stack() is None


def test_new_event_loop_is_a_loop_factory(loop: LoopName, stack: Stack) -> None:
    async def main() -> Stack:
        return current_stack()

    factory = functools.partial(loops.new_event_loop, loop=loop, stack=stack)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) is stack
    with asyncio.Runner(loop_factory=functools.partial(loops.new_event_loop, loop=loop)) as runner:
        assert runner.run(main()).kernel


def test_unknown_loop_is_a_value_error(loop: LoopName) -> None:
    with pytest.raises(ValueError, match=r"'trio'.*expected 'asyncio' or 'uvloop'"):
        loops.new_event_loop(loop="trio")


def test_missing_uvloop_names_the_extra(loop: LoopName, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None: ...

    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delitem(sys.modules, "vpoll_asyncio.loops.uvloop", raising=False)
    if loop == "asyncio":
        loops.run(main(), loop=loop)
        return
    coroutine: Coroutine[Any, Any, None] = main()
    with pytest.raises(ImportError, match=r"vpoll-asyncio\[uvloop\]"):
        loops.run(coroutine, loop=loop)
    coroutine.close()
    with pytest.raises(ImportError, match=r"vpoll-asyncio\[uvloop\]"):
        _ = loops.UvloopEventLoop
