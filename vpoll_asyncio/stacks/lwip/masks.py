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
_SCRATCH: Final = 65536
_COUNT: Final = 0xFFFFFFFF


class Masks:
    """Keeps the vpolls of the C side's sockets at their masks.  Thread-safe."""

    def __init__(self, native: Any) -> None:
        lib, ffi = native.lib, native.ffi
        self._lib = lib
        self._null = ffi.NULL
        self._unpack = ffi.unpack
        self._turn = lib.vp_turn
        self._recv_some = lib.vp_recv_some
        self._lost: int = lib.VP_LOST
        self._status = lib.vp_status()
        self._handles = ffi.new("uint64_t[]", _COLLECT)
        self._masks = ffi.new("uint32_t[]", _COLLECT)
        self._scratch = ffi.new("char[]", _SCRATCH)
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
                    self._show(self._lib.vp_collect(self._handles, self._masks, _COLLECT))
                finally:
                    self.busy = False

    def turn(self, readable: bool) -> None:
        """Let the stack work once, as ``vp_turn`` does, and show what has changed by it.

        What changes meanwhile is left to `publish`.
        """
        with self._lock:
            if not self.busy:
                self.busy = True
                try:
                    count = self._turn(readable, self._handles, self._masks, _COLLECT)
                    if count:
                        self._show(count)
                finally:
                    self.busy = False
                return
        self._turn(readable, self._null, self._null, 0)

    def receive(self, handle: int, vpoll: VPoll, size: int) -> bytes:
        """Return data of a stream, and show the events that it loses by it.

        Returns ``b""`` where that is not all there is to it: ask ``vp_recv`` then.  What
        else changes is left to `publish`.
        """
        with self._lock:
            if self.busy:
                return b""
            self.busy = True
            try:
                scratch = self._scratch
                answer = self._recv_some(handle, scratch, size if size < _SCRATCH else _SCRATCH)
                if answer <= 0:
                    return b""
                if answer > _COUNT:
                    file = vpoll.file
                    # No waiter has to hear of what only ends.
                    if file is not None and file.pending is None:
                        file.mask = answer >> 32 & ~self._lost
                    else:
                        self._lib.vp_tell(handle)
                data: bytes = self._unpack(scratch, answer & _COUNT)
                return data
            except BaseException:
                self._lib.vp_tell(handle)
                raise
            finally:
                self.busy = False

    def _show(self, count: int) -> None:
        handles, masks = self._handles, self._masks
        vpolls = self._vpolls
        shown = 0
        try:
            while shown < count:
                mask = masks[shown]
                vpoll = vpolls.get(handles[shown])
                file = None if vpoll is None else vpoll.file
                if file is None or file.pending is not None:
                    self._set(handles[shown], mask)
                else:
                    file.mask = mask
                    for waiter in file.waiters:
                        waiter(mask)
                shown += 1
        except BaseException:
            for left in range(shown, count):
                self._lib.vp_tell(handles[left])
            raise

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
