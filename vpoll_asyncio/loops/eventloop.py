"""EventLoop: asyncio's own loop on a VPollSelector.

A reader of a vpoll is itself the handle that the loop runs: an event pushes it onto
the loop's queue of ready handles, which costs no system call and no allocation.  So
does a trigger.  Both then wake the selector if it has said that it sleeps; before it
does sleep it looks at that queue once more (see `selector`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .._asyncio import disown, handles_signals, is_queued, ready_queue, signal_pipe
from ..hot.turn import ReaderState, make_trigger
from ..install import installed
from ..selector import VPollSelector
from ..stacks.base import Stack
from ..stacks.host import host_stack
from ..vpoll import VPoll
from .dispatch import DispatchMixin, Watcher
from .turn import TurnLoop

__all__ = ["EventLoop"]


class EventLoop(DispatchMixin, TurnLoop):  # type: ignore[misc]
    """asyncio's event loop for Unix, which also knows vpolls, user sockets and stacks.

    Parameters:
    stack -- the stack that connections, servers and names in this loop belong to when
        the context names none; None for the process default or the host.  The loop
        drives it until it is closed, and does not close it.

    Everything that asyncio's loop does works as there.  `add_reader`, `add_writer` and
    `sock_*` also take VPolls and user sockets, by their wait queue: no descriptor, no
    system call while the loop is awake.

    Raises OSError (EMFILE, ENFILE) when there are no descriptors for it, and what
    `Stack.attach` does.
    """

    vpoll_selector: VPollSelector
    """The selector that the loop waits with."""
    push: Callable[[asyncio.Handle], None]
    """Has the loop run a handle in its next turn; does not wake it."""

    def __init__(self, stack: Stack | None = None) -> None:
        disown(self)
        self.vpoll_selector = selector = VPollSelector()
        try:
            super().__init__(selector)
        except BaseException:
            selector.close()
            disown(self)
            raise
        queue = ready_queue(self)
        self.push = selector.push = queue.append
        selector.work = queue
        try:
            self.init_dispatch(stack)
        except BaseException:
            super().close()
            raise

    def rouse(self) -> None:
        """Wake the loop from its sleep; from any thread, signal handler or finalizer."""
        if self.is_closed():
            ready_queue(self).clear()
        else:
            self.vpoll_selector.wake()

    def make_trigger(
        self, callback: Callable[[], object], context: contextvars.Context | None = None
    ) -> Callable[[], None]:
        """Return a function that makes the loop call `callback` once in a turn to come.

        The function may be called from any thread, signal handler or finalizer.  It
        makes no system call but when the loop sleeps, and does nothing once the loop is
        closed.  `callback` runs in `context`, by default a copy of the current one.
        """
        handle = asyncio.Handle(callback, (), self, context)
        return make_trigger(handle, self.push, self.vpoll_selector, self.rouse)

    def start_watch(
        self, vpoll: VPoll, interest: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> Watcher:
        return ReaderState(self, vpoll, interest, callback, args)

    def run_forever(self) -> None:
        """Run until `stop` is called."""
        # stop() and then run_forever() is one turn, in which the kernel must be polled.
        self.vpoll_selector.poll_next()
        relay = getattr(self, "vpoll_relay", None)
        # What a signal handler raised may have ended the turn that was to run it.
        if relay is not None and relay.due and not is_queued(self, relay.run):
            relay.trigger()
        with self._signals_waking():
            super().run_forever()

    @contextlib.contextmanager
    def _signals_waking(self) -> Iterator[None]:
        """Have every signal write to the loop's pipe, as `add_signal_handler` does.

        A signal that comes after the interpreter's last look at signals and before the
        system call does not interrupt the sleep: its handler would run, and set its
        events, only after the sleep.
        """
        mine = self._hear_signals()
        try:
            yield
        finally:
            if mine >= 0 and not handles_signals(self):
                other = signal.set_wakeup_fd(-1)
                if other not in (-1, mine):
                    signal.set_wakeup_fd(other)

    def _hear_signals(self) -> int:
        """Make the loop's pipe the process's wake-up descriptor and return it, or -1."""
        if threading.current_thread() is not threading.main_thread() or self.is_closed():
            return -1
        pipe = signal_pipe(self)
        try:
            other = signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
        except ValueError:
            # Not the main interpreter: no signal handler runs here.
            return -1
        if other in (-1, pipe):
            return pipe
        # Whoever set that one hears of signals; there is one for the process.
        signal.set_wakeup_fd(other)
        return -1

    async def kernel_getaddrinfo(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> Any:
        if not installed():
            return await super().kernel_getaddrinfo(host, port, family, type, proto, flags)
        # asyncio would call socket.getaddrinfo in a thread that knows no context.
        return await self.run_in_executor(
            None, host_stack().getaddrinfo, host, port, family, type, proto, flags
        )

    async def kernel_getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        if not installed():
            return await super().kernel_getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, host_stack().getnameinfo, sockaddr, flags)

    def close(self) -> None:
        """Close the loop: its watches end, its stacks are given up but not closed."""
        if self.is_running() or self.is_closed():
            super().close()
            return
        self.shut_dispatch(super().close)
        # Late triggers then take the way through rouse(), which drops what they queue.
        self.vpoll_selector.asleep = True
