"""Getting the loop's attention: triggers, and the relay that runs many hops in one turn.

A *trigger* makes a loop call something once.  That costs a handle, a turn of the loop
and its poll of the kernel, more than what most watches then do.  So the watches of one
loop share a `Relay`: a queue of those that have something to tell, which one trigger
drains.  What a watch's callback sets in motion, the other end of a connection say,
joins the same queue and is run in the same turn, up to a bound in count and in time:
kernel descriptors, timers and the loop's other handles come in between.  What only
goes on, an event that nobody has cleared, waits for the next turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable

from .hot.relay import RelayState, uvloop_trigger

__all__ = ["Relay", "is_uvloop", "make_trigger", "named", "relay_of"]

Trigger = Callable[[], None]


def is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether `loop` is uvloop's or derives from it."""
    return any(base.__module__.partition(".")[0] == "uvloop" for base in type(loop).__mro__)


def make_trigger(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[], object],
    context: contextvars.Context | None = None,
) -> Trigger:
    """Return a function that makes `loop` call `callback` once in a turn to come.

    The function may be called from any thread, from signal handlers and finalizers,
    while the loop runs or sleeps; once the loop is closed it does nothing.  Loops of
    this package have a method `make_trigger` of their own, without a system call.
    """
    context = contextvars.copy_context() if context is None else context
    own = getattr(loop, "make_trigger", None)
    if own is not None:
        trigger: Trigger = own(callback, context)
        return trigger
    if is_uvloop(loop):
        return uvloop_trigger(loop, callback, context)

    def from_anywhere() -> None:
        try:
            loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:
            if not loop.is_closed():
                raise

    # A handler may run in the loop's own thread while that sleeps in epoll, where
    # call_soon would not wake it.
    return from_anywhere


def named(run: Callable[[], None], label: Callable[..., object]) -> Callable[[], None]:
    """Return `run` under the name of `label`, which a loop's debug mode then shows."""

    def wrapper() -> None:
        run()

    functools.update_wrapper(wrapper, label)
    if not hasattr(label, "__qualname__"):
        wrapper.__qualname__ = repr(label)
    return wrapper


class Relay(RelayState):
    """The relay of one loop.

    `label` is the function under whose name debug mode shows what it runs.
    """

    __slots__ = ("trigger",)

    trigger: Trigger  # in place of the method: one call less in each turn

    def __init__(
        self, loop: asyncio.AbstractEventLoop, label: Callable[..., object] | None = None
    ) -> None:
        super().__init__()
        run = self.run if label is None else named(self.run, label)
        self.trigger = make_trigger(loop, run, contextvars.Context())


def relay_of(loop: asyncio.AbstractEventLoop) -> Relay:
    """Return the relay of `loop`, which lives as long as the loop does."""
    relay: Relay | None = getattr(loop, "vpoll_relay", None)
    if relay is None:
        relay = Relay(loop)
        try:
            loop.vpoll_relay = relay  # type: ignore[attr-defined]
        except AttributeError:
            # A loop without room for it: each watch has a relay of its own.
            pass
    return relay
