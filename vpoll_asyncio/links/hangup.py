"""Who notices that a switch has ended: a thread that watches VDE's control connections.

A plug of a vde_switch has two sockets.  Frames come on the datagram socket, which shows
nothing when the switch is gone; the control connection, silent otherwise, then ends
(``vde_ctlfd``).  A loop watches the first only.  So a thread waits for the second, and
shuts the datagram socket down for reading: that makes it readable, for every loop and
every poller, and whoever reads it asks the link.

The thread is there while there is a connection to watch, and takes no signals.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import Final

from ..ending import ending, join
from ..kernel import KernelSocket

__all__ = ["forget", "watch"]


class _Watcher:
    """The process's thread, and what it watches."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        thread = threading.Thread(target=self._run, name="vpoll-vde-hangup", daemon=True)
        # A new thread has the mask of the one that starts it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread

    @property
    def ours(self) -> bool:
        """Whether the thread is in this process, rather than in the parent of a fork."""
        return self._pid == os.getpid()

    def add(self, control: int, data: int) -> None:
        sock = KernelSocket(fileno=os.dup(data))
        with self._lock:
            self._sockets[control] = sock
            self._poll.register(control, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, control: int) -> bool:
        """Forget `control`, and end the thread with the last one; return whether it was."""
        with self._lock:
            sock = self._sockets.pop(control, None)
            if sock is not None:
                self._poll.unregister(control)
                sock.close()
            if self._sockets:
                return False
        os.eventfd_write(self._wakeup, 1)
        join(self._thread)
        self._poll.close()
        os.close(self._wakeup)
        return True

    def _run(self) -> None:
        while True:
            for control, _ in self._poll.poll():
                if control == self._wakeup:
                    return
                with self._lock:
                    sock = self._sockets.get(control)
                    if sock is not None:
                        sock.shutdown(socket.SHUT_RD)

    def abandon(self) -> None:
        """In a child: give back the copies of the descriptors."""
        self._poll.close()
        os.close(self._wakeup)
        for sock in self._sockets.values():
            sock.close()


_lock: Final = threading.Lock()
_watcher: _Watcher | None = None


def watch(control: int, data: int) -> None:
    """Shut `data`, a socket, down for reading when the other end of `control` is gone."""
    global _watcher
    with _lock:
        if _watcher is not None and not _watcher.ours:
            _watcher.abandon()
            _watcher = None
        if _watcher is None:
            _watcher = _Watcher()
        _watcher.add(control, data)


def forget(control: int) -> None:
    """Watch `control` no more.

    In a child of the process that watches, and while the interpreter ends, nothing changes.
    """
    global _watcher
    if ending():
        return
    with _lock:
        if _watcher is not None and _watcher.ours and _watcher.remove(control):
            _watcher = None
