"""Watching a vpoll from an event loop, level-triggered, on any loop there is.

A `Watch` sits on the vpoll's wait queue and calls back in the loop's thread while an
event it is interested in is pending.  It needs no descriptor and nothing of the loop
but ``call_soon``.  Level-triggered means: after every call it looks again.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable

from .events import ALWAYS, check_mask
from .vpoll import VPoll

__all__ = ["Watch", "is_uvloop", "make_trigger", "named"]

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

    def from_anywhere() -> None:
        try:
            loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:
            if not loop.is_closed():
                raise

    if not is_uvloop(loop):
        # A handler may run in the loop's own thread while that sleeps in epoll, where
        # call_soon would not wake it.
        return from_anywhere

    def from_uvloop() -> None:
        # libuv sleeps without the GIL, so code in the loop's thread means it is awake.
        if asyncio._get_running_loop() is not loop:
            from_anywhere()
            return
        try:
            loop.call_soon(callback, context=context)
        except RuntimeError:
            if not loop.is_closed():
                raise

    return from_uvloop


def named(run: Callable[[], None], label: Callable[..., object]) -> Callable[[], None]:
    """Return `run` under the name of `label`, which a loop's debug mode then shows."""

    def wrapper() -> None:
        run()

    functools.update_wrapper(wrapper, label)
    if not hasattr(label, "__qualname__"):
        wrapper.__qualname__ = repr(label)
    return wrapper


class Watch:
    """Calls `callback(mask)` in `loop` while an event of `interest` is pending on `vpoll`.

    The argument is the pending part of `interest` with ERR and HUP, which are always
    reported (epoll(7)).  An interest of 0 pauses the watch altogether.  Exceptions of
    the callback go to the loop's exception handler and do not end the watch; whoever
    gets an event that will not go away (HUP, ERR) must pause or cancel.

    `context` is the context that the callback runs in, by default a copy of the
    current one; `label` is the function that debug mode names in its messages.
    Methods may be called from any thread, the callback runs only in the loop's.
    Raises OSError (EBADF) when `vpoll` is closed; a vpoll that is closed later ends
    its watches silently, as close(2) ends registrations in epoll.  A user socket
    publishes HUP when it is closed: `gone`, if given, is then called once, in the
    loop's thread and unless the watch is paused.
    """

    __slots__ = (
        "__weakref__",
        "_callback",
        "_gone",
        "_scheduled",
        "_trigger",
        "_vpoll",
        "_wanted",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        vpoll: VPoll,
        interest: int,
        callback: Callable[[int], object],
        *,
        context: contextvars.Context | None = None,
        gone: Callable[[], object] | None = None,
        label: Callable[..., object] | None = None,
    ) -> None:
        self._vpoll = vpoll
        self._gone = gone
        self._wanted = 0
        self._scheduled = False
        self._callback = callback
        run = self._run if label is None else named(self._run, label)
        self._trigger = make_trigger(loop, run, context)
        vpoll.add_waiter(self._wake)
        self.set_interest(interest)

    def set_interest(self, interest: int) -> None:
        """Watch for `interest` from now on; 0 pauses.  Raises ValueError for a bad mask."""
        self._wanted = check_mask(interest) and interest | ALWAYS
        if self._wanted and not self._vpoll.closed:
            self._wake(self._vpoll.peek())

    @property
    def interest(self) -> int:
        """What is watched for, with ERR and HUP; 0 when paused or cancelled."""
        return self._wanted

    def cancel(self) -> None:
        """End the watch: no call comes any more once this returns in the loop's thread."""
        self._wanted = 0
        self._vpoll.remove_waiter(self._wake)

    def _wake(self, mask: int) -> None:
        if mask & self._wanted and not self._scheduled:
            self._scheduled = True
            self._trigger()

    def _run(self) -> None:
        # Reset before the look: an event published after the look schedules anew.
        self._scheduled = False
        wanted = self._wanted
        if not wanted:
            return
        vpoll = self._vpoll
        try:
            seen = vpoll.peek() & wanted
        except OSError:
            self._wanted = 0
            if self._gone is not None:
                self._gone()
            return
        if not seen:
            return
        try:
            self._callback(seen)
        finally:
            # Level-triggered: look again, unless an event has scheduled it already.
            if self._wanted and not self._scheduled and not vpoll.closed:
                self._wake(vpoll.peek())
