"""Threads that sleep in an epoll, and knowing that they do."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

__all__ = ["Sleeper", "wait_until_asleep"]


def wait_until_asleep(thread_id: int, *, deadline: float = 30.0) -> None:
    """Wait until the thread `thread_id` (native) sleeps in epoll or poll, as /proc tells.

    deadline -- seconds

    Raises TimeoutError, and FileNotFoundError when the thread ends.
    """
    until = time.monotonic() + deadline
    place = Path(f"/proc/self/task/{thread_id}/wchan")
    # ep_poll; poll_schedule_timeout for poll(2).
    while "poll" not in place.read_text():
        if time.monotonic() > until:
            raise TimeoutError(f"thread {thread_id} does not sleep in epoll")
        time.sleep(0.0005)


class Sleeper:
    """A thread that waits once in `epoll`, which has nothing to report when it is made.

    Returns when the thread sleeps.  `deadline` is in seconds.
    """

    def __init__(self, epoll: select.epoll, deadline: float) -> None:
        self._epoll = epoll
        self._deadline = deadline
        self._told: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        thread_id = self._thread.native_id
        assert thread_id is not None
        wait_until_asleep(thread_id, deadline=deadline)

    def _wait(self) -> None:
        self._told = self._epoll.poll(self._deadline)

    @property
    def asleep(self) -> bool:
        """Whether the thread has not returned."""
        return self._thread.is_alive()

    def told(self) -> list[tuple[int, int]]:
        """Return what the thread was told, once it is: (descriptor, events).

        An empty list says that nobody has woken it until the deadline.
        """
        self._thread.join()
        return self._told
