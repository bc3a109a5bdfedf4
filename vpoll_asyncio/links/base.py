"""Where a stack's frames go.

A link carries whole frames, Ethernet frames or bare IP packets, and like every
link of the real world it may drop some.  Both directions are non-blocking and
work in batches, because one call into a stack for many frames is what makes a
user-space stack fast.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from typing import Self

    from ..vpoll import VPoll

__all__ = ["Link", "Medium", "NativePort"]

Medium = Literal["ethernet", "ip"]


class NativePort(NamedTuple):
    """How compiled code reads and writes a link's frames without Python.

    `recv` and `send` are the addresses of C functions with vdeplug's
    signatures, ``ssize_t recv(void *context, void *buf, size_t len, int flags)``
    and ``ssize_t send(void *context, const void *buf, size_t len, int flags)``;
    where they are 0, ``read(2)`` and ``write(2)`` on `fd` are used.  Where `fd` is
    readable and `recv` has no frame, `Link.recv_batch` says whether the link is broken.
    """

    fd: int
    """Descriptor that is readable when a frame waits."""
    recv: int
    send: int
    context: int
    """First argument of `recv` and `send`."""
    batch: int
    """Most frames that may be read for one wake-up: 1 where `recv` may block."""


class Link(abc.ABC):
    """One end of a network that carries frames.

    A link belongs to one stack and is used from one thread at a time, unless its
    own documentation says more.  It is a context manager that closes itself.
    """

    medium: Medium = "ethernet"
    """``"ethernet"``: frames with a 14-byte header; ``"ip"``: bare IP packets."""

    mtu: int = 1500
    """Most bytes of IP packet in one frame."""

    address: bytes | None = None
    """Hardware address (6 bytes) that the medium prescribes for this end, or None."""

    host_loopback: str | None = None
    """The address under which the other end hands on to this host's loopback, or None."""

    dropped: int = 0
    """Frames that this link has thrown away (full queues, frames that are too long)."""

    @property
    @abc.abstractmethod
    def pollable(self) -> int | VPoll:
        """What a loop watches: a kernel descriptor, or a `VPoll` for links in this process.

        Readable: a frame waits.  Writable: a frame can be sent.
        """

    @abc.abstractmethod
    def recv_batch(self, limit: int = 64) -> list[bytes]:
        """Return up to `limit` waiting frames, oldest first; an empty list when none waits.

        Raises OSError when the other end is gone or the link is closed (EBADF).
        """

    @abc.abstractmethod
    def send_batch(self, frames: Sequence[bytes]) -> int:
        """Send `frames` in order and return how many were taken.

        Fewer than all means that the link is full: keep the rest and try again
        when it is writable.  A frame that the medium cannot carry (longer than
        `mtu` allows) is taken, dropped and counted in `dropped`.  Raises OSError
        when the link is closed (EBADF) or broken.
        """

    @property
    def native(self) -> NativePort | None:
        """The way round Python for compiled stacks, or None where there is none."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the link holds.  Closing twice is allowed."""

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether `close` has been called."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
