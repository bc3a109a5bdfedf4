"""The two ways to wait for a socket: in a thread, and on a loop.

The resolver is written once, as coroutines.  On a loop they are awaited; in a thread
they run over waits that never suspend, so that `run_blocking` gets by without a loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...events import OUT
from ...sockets import UserSocket
from ...watch import Watch

if TYPE_CHECKING:
    from ..base import Stack

__all__ = ["BlockingWaits", "LoopWaits", "Waits", "run_blocking"]

_Result = TypeVar("_Result")


class Waits(Protocol):
    """How to wait for a socket to be ready."""

    async def ready(self, sock: socket.socket, mask: int, deadline: float) -> int:
        """Wait until an event of `mask` (IN or OUT), ERR or HUP is pending; return what is.

        deadline -- of `time.monotonic`

        Raises TimeoutError when nothing is by then.
        """


class BlockingWaits:
    """Waits in the calling thread, which drives `stack` where nobody else does."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    async def ready(self, sock: socket.socket, mask: int, deadline: float) -> int:
        """Wait as `Waits` has it, without giving the thread to anybody else meanwhile."""
        while (left := deadline - time.monotonic()) > 0:
            if isinstance(sock, UserSocket):
                seen = self._stack.wait(sock.vpoll, mask, left)
            else:
                poller = select.poll()
                poller.register(sock, mask)
                seen = sum(events for _, events in poller.poll(left * 1000))
            if seen:
                return seen
        raise TimeoutError("timed out")


class LoopWaits:
    """Waits on the running loop, whichever that is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def ready(self, sock: socket.socket, mask: int, deadline: float) -> int:
        """Wait as `Waits` has it, while the loop goes on."""
        loop = self._loop
        future: asyncio.Future[int] = loop.create_future()

        def tell(seen: int) -> None:
            if not future.done():
                future.set_result(seen)

        # It holds the future, and with it whoever waits.
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), tell, 0)
        try:
            stop = self._watch(sock, mask, tell)
            try:
                seen = await future
            finally:
                stop()
        finally:
            timer.cancel()
        if not seen:
            raise TimeoutError("timed out")
        return seen

    def _watch(
        self, sock: socket.socket, mask: int, tell: Callable[[int], None]
    ) -> Callable[[], object]:
        loop = self._loop
        if isinstance(sock, UserSocket):
            return Watch(loop, sock.vpoll, mask, tell).cancel
        if mask & OUT:
            loop.add_writer(sock, tell, mask)
            return lambda: loop.remove_writer(sock)
        loop.add_reader(sock, tell, mask)
        return lambda: loop.remove_reader(sock)


def run_blocking(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `work`, whose waits are `BlockingWaits`, to its end; return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    finally:
        work.close()
    raise RuntimeError("what runs without a loop has suspended")
