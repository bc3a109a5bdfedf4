"""Watching a vpoll from an event loop, level-triggered, on any loop there is.

A `Watch` sits on the vpoll's wait queue and calls back in the loop's thread while an
event it is interested in is pending.  It needs no descriptor and nothing of the loop
but ``call_soon``.  Level-triggered means: after every call it looks again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Protocol

from .events import ALWAYS, REFUSED, bad_mask
from .hot.relay import WatchState
from .relay import Relay, relay_of
from .vpoll import VPoll

__all__ = ["Watch", "WatchOwner"]


class WatchOwner(Protocol):
    """Whom a watch tells of its end."""

    def vpoll_closed(self) -> None:
        """The vpoll has been closed, or cannot be asked any more."""


class Watch(WatchState):
    """Calls `callback(mask)` in `loop` while an event of `interest` is pending on `vpoll`.

    The argument is the pending part of `interest` with ERR and HUP, which are always
    reported (epoll(7)); with `args` the callback gets those instead.  An interest of 0
    pauses the watch altogether.  Exceptions of the callback go to the loop's exception
    handler and do not end the watch; whoever gets an event that will not go away (HUP,
    ERR) must pause or cancel.

    `context` is the context that the callback runs in, by default a copy of the
    current one; `label` is the function that debug mode names in its messages.
    Methods may be called from any thread, the callback runs only in the loop's.
    Raises OSError (EBADF) when `vpoll` is closed; a vpoll that is closed later ends
    its watches silently, as close(2) ends registrations in epoll.  A user socket
    publishes HUP when it is closed: `owner`, if given, is then told once, in the loop's
    thread and unless the watch is paused.
    """

    __slots__ = ("_loop", "_owner")

    vpoll: VPoll

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        vpoll: VPoll,
        interest: int,
        callback: Callable[..., object],
        *,
        args: tuple[object, ...] | None = None,
        context: contextvars.Context | None = None,
        owner: WatchOwner | None = None,
        label: Callable[..., object] | None = None,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self.vpoll = vpoll
        self.wanted = 0
        self.queued = False
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        # Debug mode times and names handles: there each watch has one of its own.
        self.relay = Relay(loop, label or callback) if loop.get_debug() else relay_of(loop)
        vpoll.add_waiter(self.notice)
        if interest:
            self.set_interest(interest)

    def set_interest(self, interest: int) -> None:
        """Watch for `interest` from now on; 0 pauses.  Raises ValueError for a bad mask."""
        if interest & REFUSED:
            raise bad_mask(interest)
        if not interest:
            self.wanted = 0
            return
        self.wanted = wanted = int(interest) | ALWAYS
        file = self.vpoll.file
        if file is not None:
            mask = file.mask if file.pending is None else self.vpoll.peek()
            if mask & wanted:
                self.notice(mask)

    @property
    def interest(self) -> int:
        """What is watched for, with ERR and HUP; 0 when paused or cancelled."""
        return self.wanted

    def cancel(self) -> None:
        """End the watch: no call comes any more once this returns in the loop's thread."""
        self.wanted = 0
        self.vpoll.remove_waiter(self.notice)

    def vpoll_closed(self) -> None:
        self.wanted = 0
        if self._owner is None:
            return
        try:
            self.context.run(self._owner.vpoll_closed)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report(exc)

    def report(self, exc: BaseException) -> None:
        """Tell the loop of an exception as `asyncio.Handle` does."""
        handle = asyncio.Handle(self.callback, (), self._loop, self.context)
        self._loop.call_exception_handler(
            {
                "message": f"Exception in callback {self.callback!r}",
                "exception": exc,
                "handle": handle,
            }
        )
