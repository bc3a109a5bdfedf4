"""Watching a vpoll from an event loop, level-triggered, on any loop there is.

A `Watch` sits on the vpoll's wait queue and calls back in the loop's thread while an
event it is interested in is pending.  It needs no descriptor and nothing of the loop
but ``call_soon``.  Level-triggered means: after every call it looks again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from .events import ALWAYS, check_mask
from .relay import Relay, relay_of
from .vpoll import VPoll

__all__ = ["Watch"]


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
        "_context",
        "_gone",
        "_loop",
        "_queued",
        "_relay",
        "_vpoll",
        "_wanted",
        "callback",
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
        self._loop = loop
        self._vpoll = vpoll
        self._gone = gone
        self._wanted = 0
        self._queued = False
        self.callback = callback
        """What is called from now on; may be replaced in the loop's thread."""
        self._context = contextvars.copy_context() if context is None else context
        # Debug mode times and names handles: there each watch has one of its own.
        self._relay = Relay(loop, label or callback) if loop.get_debug() else relay_of(loop)
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
        if mask & self._wanted and not self._queued:
            self._queued = True
            relay = self._relay
            relay.queue.append(self)
            if not relay.due:
                relay.trigger()

    def run(self) -> None:
        """Call back if there is reason to.  For the relay."""
        # Reset before the look: an event published after the look queues anew.
        self._queued = False
        wanted = self._wanted
        if not wanted:
            return
        file = self._vpoll.file
        if file is not None and file.pending is None:
            seen = file.mask & wanted
        else:
            try:
                seen = self._vpoll.peek() & wanted
            except OSError:
                self._wanted = 0
                if self._gone is not None:
                    self._call(self._gone)
                return
        if not seen:
            return
        # What comes while the callback runs is for the look after it.
        self._queued = True
        try:
            self._context.run(self.callback, seen)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc)
        finally:
            self._queued = False
            file = self._vpoll.file
            if self._wanted and file is not None:
                mask = file.mask if file.pending is None else self._vpoll.peek()
                if mask & self._wanted and not self._queued:
                    self._queued = True
                    self._relay.later.append(self)

    def _call(self, gone: Callable[[], object]) -> None:
        try:
            self._context.run(gone)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc)

    def _report(self, exc: BaseException) -> None:
        """Tell the loop of an exception as `asyncio.Handle` does."""
        handle = asyncio.Handle(self.callback, (), self._loop, self._context)
        self._loop.call_exception_handler(
            {
                "message": f"Exception in callback {self.callback!r}",
                "exception": exc,
                "handle": handle,
            }
        )
