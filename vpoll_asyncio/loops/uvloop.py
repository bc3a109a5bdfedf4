"""UvloopEventLoop: uvloop's loop, with vpolls, user sockets and stacks.

libuv takes no selector.  Readiness of a vpoll becomes a ``call_soon`` in the loop's own
thread and a ``call_soon_threadsafe`` elsewhere, of which libuv makes one wake-up a turn;
descriptors of the kernel stay with libuv.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import uvloop

from ..hot.relay import uvloop_trigger
from ..stacks.base import Stack
from ..vpoll import VPoll
from ..watch import Watch
from .dispatch import DispatchMixin, Watcher

__all__ = ["UvloopEventLoop"]


class UvloopEventLoop(DispatchMixin, uvloop.Loop):  # type: ignore[misc]
    """uvloop's event loop, which also knows vpolls, user sockets and stacks.

    Parameters:
    stack -- the stack that connections, servers and names in this loop belong to when
        the context names none; None for the process default or the host.  The loop
        drives it until it is closed, and does not close it.

    Everything that uvloop does works as there.  `add_reader`, `add_writer` and `sock_*`
    also take VPolls and user sockets, by their wait queue: no descriptor.

    Raises what `Stack.attach` does.
    """

    def __init__(self, stack: Stack | None = None) -> None:
        super().__init__()
        try:
            self.init_dispatch(stack)
        except BaseException:
            super().close()
            raise

    def make_trigger(
        self, callback: Callable[[], object], context: contextvars.Context | None = None
    ) -> Callable[[], None]:
        """Return a function that makes the loop call `callback` once in a turn to come.

        The function may be called from any thread, signal handler or finalizer, and does
        nothing once the loop is closed.  In the loop's own thread it makes no system
        call.  `callback` runs in `context`, by default a copy of the current one.
        """
        context = contextvars.copy_context() if context is None else context
        return uvloop_trigger(self, callback, context)

    def start_watch(
        self, vpoll: VPoll, interest: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> Watcher:
        label = callback if self.get_debug() else None
        return Watch(self, vpoll, interest, callback, args=args, label=label)

    def close(self) -> None:
        """Close the loop: its watches end, its stacks are given up but not closed."""
        if self.is_running() or self.is_closed():
            super().close()
        else:
            self.shut_dispatch(super().close)
