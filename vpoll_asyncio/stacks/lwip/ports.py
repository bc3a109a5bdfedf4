"""One interface of a stack and its link: how frames pass, and whether they still do."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...links.base import Link
from ...vpoll import VPoll
from .addresses import raise_errno
from .config import Interface

__all__ = ["BATCH", "Port", "read_counters"]

_log = logging.getLogger(__name__)

BATCH: Final = 64
"""Most frames that Python passes in one call."""
_DRAIN: Final = 4 * 65536


class Port:
    """An interface, of which the C side keeps the state and the queue to the link.

    Parameters:
    native -- the instance of the helper, which has an open stack
    name -- the interface's
    link -- where its frames go
    mac -- its hardware address
    mtu -- most bytes of an IP packet
    lost -- called when the link is found to be broken, once

    Raises OSError: ENOSPC for more interfaces than there is room for, ENETDOWN when the
    stack is closed.  Every method may be called from any thread.
    """

    def __init__(
        self,
        native: Any,
        name: str,
        link: Link,
        mac: bytes,
        mtu: int,
        lost: Callable[[Port], None],
    ) -> None:
        self._lib: Any = native.lib
        self._ffi: Any = native.ffi
        self.name = name
        self.link = link
        self.pollable: int | VPoll = link.pollable
        """What shows that the link is readable or writable."""
        self.mac = mac
        self.mtu = mtu
        self.up = True
        """Whether the administrator lets packets pass."""
        self.addresses: list[Interface] = []
        self.error: OSError | None = None
        """What broke the link, which is not used again then."""
        self._lost = lost
        self._state = self._ffi.new("struct vp_port *")
        port = link.native
        config = self._ffi.new("struct vp_config *")
        config.ethernet = link.medium == "ethernet"
        config.mac = mac
        config.mtu = mtu
        config.port = self._state
        if port is not None:
            config.native = 1
            config.fd, config.recv, config.send, config.context, config.batch = port
        self.through_python = port is None
        """Whether frames pass through Python, and not from C to C."""
        self._flushing = threading.Lock()
        self._unsent: list[bytes] = []
        self._drained = self._ffi.new("char[]", _DRAIN) if self.through_python else None
        self._lengths = self._ffi.new("uint32_t[]", BATCH)
        index: int = self._lib.vp_add_interface(config)
        raise_errno(index)
        self.index = index
        """The interface's number, as in the scope of an address."""

    @property
    def backlogged(self) -> bool:
        """Whether frames wait for the link, in Python or in C."""
        return bool(self._unsent or self._state.queued)

    def wants_writer(self) -> bool:
        """Return whether frames wait for the link to be writable."""
        return self.error is None and self.backlogged

    def counters(self) -> dict[str, int]:
        """Return the interface's counters by name.  Raises OSError (ENODEV)."""
        return read_counters(self._lib, self._ffi, self.index)

    def flush(self) -> None:
        """Move frames from the C side's queue to a link that Python serves."""
        lock = self._flushing
        while self.backlogged and lock.acquire(blocking=False):
            try:
                if not self._flush_some():
                    return
            finally:
                lock.release()

    def _flush_some(self) -> bool:
        ffi = self._ffi
        if not self._unsent:
            count = self._lib.vp_drain(self.index, self._drained, _DRAIN, self._lengths, BATCH)
            if count == 0:
                return False
            at = 0
            whole = ffi.buffer(self._drained)
            for index in range(count):
                end = at + self._lengths[index]
                self._unsent.append(whole[at:end])
                at = end
        if self.error is not None:
            self._unsent.clear()
            return True
        try:
            taken = self.link.send_batch(self._unsent)
        except OSError as exc:
            self._unsent.clear()
            self.lose(exc)
            return True
        del self._unsent[:taken]
        return not self._unsent

    def ask(self) -> None:
        """If C met an error on the link, ask the link itself whether that matters."""
        if self._state.link_errno:
            self._state.link_errno = 0
            if self.error is None:
                self.read(1)

    def read(self, limit: int) -> None:
        """Give the stack at most `limit` frames of what the link has brought."""
        try:
            frames = self.link.recv_batch(limit)
        except OSError as exc:
            self.lose(exc)
            return
        if frames:
            self.feed(frames)

    def feed(self, frames: Sequence[bytes]) -> None:
        """Give the stack frames as if the link had brought them."""
        lengths = array("I", map(len, frames))
        self._lib.vp_feed(
            self.index,
            b"".join(frames),
            self._ffi.from_buffer("uint32_t[]", lengths),
            len(frames),
        )

    def lose(self, error: OSError) -> None:
        """The link is broken: leave it alone, and what is sent is lost at once."""
        if self.error is not None:
            return
        self.error = error
        _log.warning("interface %s of an lwip stack has lost its link: %s", self.name, error)
        self._lib.vp_lose_link(self.index)
        self._lost(self)


def read_counters(lib: Any, ffi: Any, index: int) -> dict[str, int]:
    """Return the counters of an interface, or with 0 of all, by name.  Raises OSError (ENODEV)."""
    raw = ffi.new("struct vp_counters *")
    raise_errno(lib.vp_counters(index, raw))
    fields = ffi.typeof("struct vp_counters").fields
    return {name: int(getattr(raw, name)) for name, _ in fields}
