"""Making and running a loop: `new_event_loop` and `run`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from ..install import install
from ..stacks.base import Stack
from ..stacks.current import set_default_stack
from .eventloop import EventLoop

__all__ = ["new_event_loop", "run"]

_Result = TypeVar("_Result")


def new_event_loop(
    *, loop: str = "asyncio", stack: Stack | None = None
) -> asyncio.AbstractEventLoop:
    """Return a new event loop, `EventLoop` or `UvloopEventLoop`.

    loop -- ``"asyncio"`` or ``"uvloop"``
    stack -- the loop's own stack

    It serves as a loop factory: ``asyncio.Runner(loop_factory=new_event_loop)``, or
    with `functools.partial` for other arguments.  Raises ValueError for an unknown
    `loop`, ImportError when uvloop is not installed, and what `Stack.attach` does.
    """
    if loop == "asyncio":
        return EventLoop(stack)
    if loop == "uvloop":
        from . import UvloopEventLoop

        return UvloopEventLoop(stack)
    raise ValueError(f"no event loop {loop!r}: expected 'asyncio' or 'uvloop'")


@contextlib.contextmanager
def _installed(stack: Stack) -> Iterator[None]:
    with install():
        previous = set_default_stack(stack)
        try:
            yield
        finally:
            set_default_stack(previous)


def run(
    main: Coroutine[Any, Any, _Result],
    *,
    loop: str = "asyncio",
    stack: Stack | None = None,
    debug: bool | None = None,
) -> _Result:
    """Run the coroutine `main` on a new loop and return its result, as `asyncio.run`.

    loop -- ``"asyncio"`` or ``"uvloop"``
    stack -- the loop's own stack.  While `main` runs it is the process default, too,
        and `install` is in force, so that a program's own ``socket.socket()`` and its
        threads use it.  It is not closed: whoever opened it does that.
    debug -- debug mode on or off; None as the environment says

    Ctrl-C cancels `main` and raises KeyboardInterrupt.  Raises RuntimeError when called
    from a running loop, and what `new_event_loop` raises.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "vpoll_asyncio.run() cannot be called from a running event loop: await the coroutine "
            "there, and name its stack (`with stack.activate()`, or stack= of open_connection, "
            "start_server and their like)"
        )
    factory = functools.partial(new_event_loop, loop=loop, stack=stack)
    with contextlib.nullcontext() if stack is None else _installed(stack):
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            return runner.run(main)
