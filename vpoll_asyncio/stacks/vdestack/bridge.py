"""The thread that carries frames between the namespace's interface and the link.

Sockets of the kernel's work whatever the program does, blocking calls included, so no
loop of the program's can do this.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import signal
import threading
import time
import weakref
from typing import Final

from ...ending import join
from ...links.base import Link
from ...vpoll import VPoll

__all__ = ["Bridge"]

_BATCH: Final = 64
_FRAME: Final = 65536 + 64
# Seconds that `close` may take to hand over to the link what the interface holds.
_LAST: Final = 1.0
# Seconds that the end of the interpreter waits for a bridge.
_JOIN: Final = 5.0
# The frame is lost, and the next may pass: the interface is down, or memory is short.
_LOST: Final = (errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN)


class Bridge:
    """Carries frames until `close`.

    Parameters:
    device -- descriptor of the TAP or TUN, non-blocking; the bridge closes it
    link -- the other side; `close` leaves it open
    """

    def __init__(self, device: int, link: Link) -> None:
        self._device = device
        self._link = link
        self.link_error: OSError | None = None
        """What broke the link, or None while it works."""
        self.rx_frames = self.rx_bytes = self.rx_dropped = 0
        self.tx_frames = self.tx_bytes = 0
        self._sleeping = False
        self._stop = threading.Event()
        # Re-entrant: a signal handler may give the link a frame.
        self._ringing = threading.RLock()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="vdestack bridge", daemon=True)
        try:
            with _signals_blocked():
                self._thread.start()
        except BaseException:
            os.close(self._wakeup)
            raise
        _bridges.add(self)

    @property
    def here(self) -> bool:
        """Whether this is called by the thread that carries frames."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        try:
            self._carry()
        except OSError as error:
            if not self._stop.is_set():
                self.link_error = error

    def _ring(self, _mask: int = 0) -> None:
        # The lock keeps `close` from closing the descriptor in between.
        with self._ringing:
            if self._sleeping:
                self._sleeping = False
                os.eventfd_write(self._wakeup, 1)

    def _carry(self) -> None:
        pollable = self._link.pollable
        vpoll = pollable if isinstance(pollable, VPoll) else None
        if vpoll is not None:
            vpoll.add_waiter(self._ring)
        held: list[bytes] = []
        try:
            while self._sleep(pollable, bool(held)):
                self._inward()
                if not held:
                    held = self._outgoing()
                if held:
                    del held[: self._link.send_batch(held)]
            self._hand_over(pollable, held)
        finally:
            if vpoll is not None:
                vpoll.remove_waiter(self._ring)

    def _sleep(self, pollable: int | VPoll, full: bool) -> bool:
        """Wait for a frame, or for room in the link while it is `full`; False at the end."""
        if self._stop.is_set():
            return False
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        if not full:
            poller.register(self._device, select.POLLIN)
        wanted = select.POLLIN | (select.POLLOUT if full else 0)
        pause = None
        if isinstance(pollable, VPoll):
            self._sleeping = True
            if self._stop.is_set() or pollable.peek() & (wanted | select.POLLERR | select.POLLHUP):
                pause = 0
        else:
            poller.register(pollable, wanted)
        found = poller.poll(pause)
        self._sleeping = False
        if any(fd == self._wakeup for fd, _ in found):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakeup)
        return not self._stop.is_set()

    def _inward(self) -> None:
        for frame in self._link.recv_batch(_BATCH):
            try:
                os.write(self._device, frame)
            except BlockingIOError:
                self.rx_dropped += 1
            except OSError as error:
                if error.errno not in _LOST:
                    raise
                self.rx_dropped += 1
            else:
                self.rx_frames += 1
                self.rx_bytes += len(frame)

    def _outgoing(self) -> list[bytes]:
        frames: list[bytes] = []
        try:
            while len(frames) < _BATCH:
                frames.append(os.read(self._device, _FRAME))
        except BlockingIOError:
            pass
        self.tx_frames += len(frames)
        self.tx_bytes += sum(map(len, frames))
        return frames

    def _hand_over(self, pollable: int | VPoll, held: list[bytes]) -> None:
        """Send what the interface still holds: the last data and the FIN of what was closed."""
        deadline = time.monotonic() + _LAST
        while self._device >= 0:
            held = held or self._outgoing()
            if not held:
                return
            taken = self._link.send_batch(held)
            del held[:taken]
            if not taken and not _room(pollable, deadline - time.monotonic()):
                return

    def after_fork(self) -> None:
        """Let go of the parent's device in a forked child, where the thread is not."""
        os.close(self._device)
        os.close(self._wakeup)
        self._device = self._wakeup = -1

    def close(self) -> None:
        """End the thread and close the device.

        What the interface holds is sent first, for a second at most where the link is full.
        """
        if self._device < 0:
            return
        self._tell()
        # A stack that is collected may be so in this very thread, which then ends by itself.
        join(self._thread)
        with self._ringing:
            self._sleeping = False
            self.after_fork()

    def _tell(self) -> None:
        self._stop.set()
        os.eventfd_write(self._wakeup, 1)

    def stop(self) -> None:
        """End the thread as `close` does, as the interpreter will stop it wherever it is."""
        if self._device >= 0:
            self._tell()
            self._thread.join(_JOIN)


_bridges: Final[weakref.WeakSet[Bridge]] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for bridge in list(_bridges):
        bridge.stop()


def _room(pollable: int | VPoll, seconds: float) -> bool:
    """Wait until the link that has `pollable` can take a frame."""
    if seconds <= 0:
        return False
    if isinstance(pollable, VPoll):
        return bool(pollable.wait(select.POLLOUT, seconds) & select.POLLOUT)
    poller = select.poll()
    poller.register(pollable, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poller.poll(seconds * 1000))


class _signals_blocked:
    """A thread begins with the mask of its maker: signals are to wake the others."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
