"""Event loops that a program makes without knowing of ours, made ours.

Programs come to a loop in four ways: through the policy (`asyncio.run`,
`asyncio.new_event_loop`), by the class (``asyncio.SelectorEventLoop()``), through
uvloop's functions and policy, which all end at ``uvloop.Loop()``, and through factories
that return one of these.  Each of the ends is replaced, none of the ways.
"""

from __future__ import annotations

import asyncio
import asyncio.unix_events
import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from .._asyncio import set_default_loop_factory
from ..loops import EventLoop

__all__ = ["LOOPS", "loops_made_ours", "uvloop_module"]

LOOPS: Final = ("asyncio", "uvloop")

_AsyncioLoop: Final = asyncio.SelectorEventLoop


def _stand_in(factory: Callable[[], asyncio.AbstractEventLoop]) -> type:
    """Return what stands in for `asyncio.SelectorEventLoop` while `factory` makes the loops."""

    class StandInType(type):
        def __call__(cls, *args: Any, **options: Any) -> Any:
            if cls is not SelectorEventLoop:
                return super().__call__(*args, **options)
            if any(argument is not None for argument in (*args, *options.values())):
                # A selector of the program's own: user sockets then show by descriptors.
                return _AsyncioLoop(*args, **options)
            return factory()

        def __instancecheck__(cls, instance: object) -> bool:
            if cls is SelectorEventLoop:
                return isinstance(instance, _AsyncioLoop)
            return super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            if cls is SelectorEventLoop:
                return issubclass(subclass, _AsyncioLoop)
            return super().__subclasscheck__(subclass)

    class SelectorEventLoop(_AsyncioLoop, metaclass=StandInType):  # type: ignore[misc, valid-type]
        __doc__ = _AsyncioLoop.__doc__

    SelectorEventLoop.__module__ = _AsyncioLoop.__module__
    SelectorEventLoop.__qualname__ = SelectorEventLoop.__name__
    return SelectorEventLoop


def uvloop_module() -> ModuleType | None:
    """Return uvloop, None where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    module: ModuleType = uvloop
    return module


@contextlib.contextmanager
def loops_made_ours(choice: str | None = None) -> Iterator[None]:
    """Make every event loop that is made meanwhile an `EventLoop` or a `UvloopEventLoop`.

    choice -- ``"asyncio"`` or ``"uvloop"``: all of them this one, whichever a program
        asks for; None: `UvloopEventLoop` for who asks for uvloop, else `EventLoop`

    Classes that programs derive from asyncio's are asyncio's, as is a loop that is given
    a selector.  Process-wide; not for several threads at once.

    Raises ValueError for another `choice`, ImportError when uvloop is chosen and missing.
    """
    if choice is not None and choice not in LOOPS:
        raise ValueError(f"no event loop {choice!r}: expected 'asyncio' or 'uvloop'")
    module = uvloop_module()
    # Raises where it is missing; before anything is replaced, since what uvloop takes of
    # the socket module it takes when it is imported.
    if choice == "uvloop" or module is not None:
        from ..loops import UvloopEventLoop
    plain = UvloopEventLoop if choice == "uvloop" else EventLoop
    with contextlib.ExitStack() as undo:
        undo.callback(set_default_loop_factory, set_default_loop_factory(plain))
        stand_in = _stand_in(plain)
        for place in (asyncio, asyncio.unix_events):
            for name in ("SelectorEventLoop", "EventLoop"):
                # The second name came with Python 3.13.
                if hasattr(place, name):
                    undo.callback(setattr, place, name, getattr(place, name))
                    setattr(place, name, stand_in)
        if module is not None:
            undo.callback(setattr, module, "Loop", module.Loop)
            setattr(module, "Loop", EventLoop if choice == "asyncio" else UvloopEventLoop)  # noqa: B010
        yield
