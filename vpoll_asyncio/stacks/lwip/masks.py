"""From sockets that changed in C to the vpolls that show it.

There is one C side in the process, and sockets outlive their stack, so this is the
process's and no stack's.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, Final

from ...vpoll import VPoll

__all__ = ["Masks", "masks_of"]

_COLLECT: Final = 256


class Masks:
    """Keeps the vpolls of the C side's sockets at their masks.  Thread-safe."""

    def __init__(self, native: Any) -> None:
        self._lib = native.lib
        self._status = native.lib.vp_status()
        self._handles = native.ffi.new("uint64_t[]", _COLLECT)
        self._masks = native.ffi.new("uint32_t[]", _COLLECT)
        self._vpolls: dict[int, VPoll] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.RLock()
        self.busy = False
        """Whether masks are on their way to their vpolls; `publish` waits for them."""

    def register(self, handle: int, vpoll: VPoll) -> None:
        """Let `vpoll` have the mask of socket `handle` from now on."""
        self._vpolls[handle] = vpoll
        early = self._early.pop(handle, None)
        if early is not None:
            vpoll.set_events(early)

    def forget(self, handle: int) -> None:
        """Socket `handle` is closed."""
        self._vpolls.pop(handle, None)
        self._early.pop(handle, None)

    def publish(self) -> None:
        """Bring every vpoll whose socket has changed up to date."""
        # One thread at a time, so that no older mask overwrites a newer one.  The others
        # wait for it: a thread that went on with a mask that is out of date would ask a
        # socket again and again.  Who comes from inside a waiter, or from a signal
        # handler, leaves it to the call that it interrupted, which looks again.
        status = self._status
        while status.dirty or self.busy:
            with self._lock:
                if self.busy:
                    return
                self.busy = True
                try:
                    count = self._lib.vp_collect(self._handles, self._masks, _COLLECT)
                    for index in range(count):
                        self._set(self._handles[index], self._masks[index])
                finally:
                    self.busy = False

    def _set(self, handle: int, mask: int) -> None:
        vpoll = self._vpolls.get(handle)
        if vpoll is None:
            # Accepted in another thread, which has not registered it yet, or closed.
            self._early[handle] = mask
            vpoll = self._vpolls.get(handle)
            if vpoll is None:
                return
            self._early.pop(handle, None)
        try:
            vpoll.set_events(mask)
        except OSError:
            # A kernel object that is gone concerns this socket's waiters, who know it.
            if not vpoll.closed and vpoll.failure is None:
                raise

    def after_fork(self) -> None:
        """Start with a lock that nobody holds, in the child."""
        self._lock = threading.RLock()
        self.busy = False


@functools.cache
def masks_of(native: Any) -> Masks:
    """Return the one `Masks` of the helper `native`."""
    return Masks(native)
