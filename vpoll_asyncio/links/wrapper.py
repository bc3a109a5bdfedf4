"""What links that have another link inside share."""

from __future__ import annotations

from ..vpoll import VPoll
from .base import Link

__all__ = ["LinkWrapper"]


class LinkWrapper(Link):
    """A link through another one, `inner`, which it owns and closes.

    It has the inner link's medium, mtu and hardware address.  Thread-safe as far as the
    inner link is, unless its own documentation says less.
    """

    def __init__(self, inner: Link) -> None:
        self.inner = inner
        """The link that the frames go through."""
        self.medium = inner.medium
        self.mtu = inner.mtu
        self.address = inner.address
        self.host_loopback = inner.host_loopback

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the inner link
        """Frames that the inner link has thrown away."""
        return self.inner.dropped

    @property
    def pollable(self) -> int | VPoll:
        return self.inner.pollable

    def close(self) -> None:
        self.inner.close()

    @property
    def closed(self) -> bool:
        return self.inner.closed
