"""Links within the process: an Ethernet hub, and a cable of two ends.

The hub carries frames as they are and does not look into them.  Every end has a
bounded queue of what waits for it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Final, get_args

from ..events import IN, OUT, RDNORM, WRNORM
from ..vpoll import VPoll
from .base import Link, Medium
from .limits import check_mtu, closed_error, longest_frame

__all__ = ["QUEUE", "WireHub", "WireLink", "wire_hub", "wire_pair"]

QUEUE: Final = 1024
"""Frames that may wait at one end."""

_READABLE: Final = IN | RDNORM
_WRITABLE: Final = OUT | WRNORM


class WireHub:
    """What the ends of a wire are plugged into: a frame of one reaches all the others.

    Parameters:
    name -- for `repr`
    medium -- ``"ethernet"``, or ``"ip"`` for a cable that carries bare IP packets
    mtu -- most bytes of IP packet in one frame
    queue -- most frames that may wait at one end

    An end whose queue is full misses frames, which its `dropped` counts, as long as
    another has room; when no end has room the sender is held.  So two ends lose
    nothing, and one that nobody reads does not stop a hub of many.  A frame that is
    sent with nobody else plugged in is dropped.

    Thread-safe, as its ends are.  Raises ValueError for a wrong medium, mtu or queue.
    """

    def __init__(
        self,
        name: str = "",
        *,
        medium: Medium = "ethernet",
        mtu: int = 1500,
        queue: int = QUEUE,
    ) -> None:
        if medium not in get_args(Medium):
            raise ValueError(f"medium {medium!r}: expected one of {', '.join(get_args(Medium))}")
        if queue < 1:
            raise ValueError(f"queue {queue!r}: expected at least one frame")
        self.name = name
        self.medium = medium
        self.mtu = check_mtu(mtu)
        self.queue = queue
        # Re-entrant: a waiter of an end's vpoll runs under it.
        self._lock = threading.RLock()
        self._ends: list[WireLink] = []
        _all_hubs.add(self)

    def _after_fork(self) -> None:
        """In a child, where the thread that has the lock may not be: take another one."""
        self._lock = threading.RLock()

    def open(self) -> WireLink:
        """Plug in another end and return it."""
        return WireLink(self)

    def __len__(self) -> int:
        """Return how many ends are plugged in."""
        return len(self._ends)

    def __repr__(self) -> str:
        named = f" {self.name!r}" if self.name else ""
        return f"<WireHub{named} ends={len(self._ends)} medium={self.medium} mtu={self.mtu}>"

    # What follows is the ends' side, called by them.

    def plug(self, end: WireLink) -> None:
        """Let `end` take part.  Called by the end itself."""
        with self._lock:
            self._ends.append(end)
            self._show_room()

    def unplug(self, end: WireLink) -> None:
        """Take `end` out.  Called by the end itself."""
        with self._lock:
            if end in self._ends:
                self._ends.remove(end)
                end.inbox.clear()
                self._show_room()

    def carry(self, sender: WireLink, frames: Sequence[bytes]) -> int:
        """Bring `frames` of `sender` to the other ends and return how many were taken."""
        longest = longest_frame(self.medium, self.mtu)
        with self._lock:
            if sender.closed:
                raise closed_error(sender)
            others = [end for end in self._ends if end is not sender]
            taken = 0
            for frame in frames:
                if not 0 < len(frame) <= longest or not others:
                    sender.dropped += 1
                else:
                    open_ends = [end for end in others if len(end.inbox) < self.queue]
                    if not open_ends:
                        break
                    frame = bytes(frame)
                    for end in open_ends:
                        end.inbox.append(frame)
                    if len(open_ends) < len(others):
                        for end in others:
                            if end not in open_ends:
                                end.dropped += 1
                taken += 1
            for end in others:
                if end.inbox:
                    _show(end.vpoll, _READABLE, on=True)
            self._show_room()
            return taken

    def fetch(self, end: WireLink, limit: int) -> list[bytes]:
        """Return up to `limit` frames that wait at `end`."""
        with self._lock:
            if end.closed:
                raise closed_error(end)
            inbox = end.inbox
            was_full = len(inbox) >= self.queue
            frames = [inbox.popleft() for _ in range(min(limit, len(inbox)))]
            if not inbox:
                _show(end.vpoll, _READABLE, on=False)
            if was_full and frames:
                self._show_room()
            return frames

    def _show_room(self) -> None:
        """Make every end writable, or not, by the room at the others.  Under the lock."""
        ends = self._ends
        room = [end for end in ends if len(end.inbox) < self.queue]
        for end in ends:
            alone = len(ends) == 1
            _show(end.vpoll, _WRITABLE, on=alone or len(room) > (end in room))


class WireLink(Link):
    """One end of a `WireHub`, made by `WireHub.open` or `wire_pair`.

    Thread-safe: any thread may send, receive and close.
    """

    def __init__(self, hub: WireHub) -> None:
        self._hub: WireHub | None = None
        self.medium = hub.medium
        self.mtu = hub.mtu
        self.name = hub.name
        self.inbox: deque[bytes] = deque()
        """Frames that wait for this end; the hub's lock guards it."""
        self.vpoll = VPoll()
        self._hub = hub
        hub.plug(self)

    @property
    def pollable(self) -> VPoll:
        if self._hub is None:
            raise closed_error(self)
        return self.vpoll

    def recv_batch(self, limit: int = 64) -> list[bytes]:
        hub = self._hub
        if hub is None:
            raise closed_error(self)
        return hub.fetch(self, limit)

    def send_batch(self, frames: Sequence[bytes]) -> int:
        hub = self._hub
        if hub is None:
            raise closed_error(self)
        return hub.carry(self, frames)

    def close(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.unplug(self)
            self.vpoll.close()

    @property
    def closed(self) -> bool:
        return self._hub is None

    def __repr__(self) -> str:
        named = f" wire://{self.name}" if self.name else ""
        state = " closed" if self._hub is None else f" waiting={len(self.inbox)}"
        return (
            f"<WireLink{named}{state} medium={self.medium} mtu={self.mtu} dropped={self.dropped}>"
        )


def _show(vpoll: VPoll, mask: int, *, on: bool) -> None:
    """Raise or clear `mask` where that changes anything: every operation is a wake-up."""
    if bool(vpoll.peek() & mask) is not on:
        if on:
            vpoll.add_events(mask)
        else:
            vpoll.del_events(mask)


_hubs: weakref.WeakValueDictionary[str, WireHub] = weakref.WeakValueDictionary()
_hubs_lock = threading.Lock()
_all_hubs: weakref.WeakSet[WireHub] = weakref.WeakSet()


def _in_child() -> None:
    global _hubs_lock
    _hubs_lock = threading.Lock()
    for hub in tuple(_all_hubs):
        hub._after_fork()


os.register_at_fork(after_in_child=_in_child)


def wire_hub(name: str) -> WireHub:
    """Return the process's Ethernet hub of that name, made by whoever asks first.

    It lasts as long as an end, or somebody who holds it.  Raises ValueError for an
    empty name.
    """
    if not name:
        raise ValueError("wire:// needs a name: wire://lab")
    with _hubs_lock:
        found = _hubs.get(name)
        if found is None:
            found = _hubs[name] = WireHub(name)
        return found


def wire_pair(
    *, medium: Medium = "ethernet", mtu: int = 1500, queue: int = QUEUE
) -> tuple[WireLink, WireLink]:
    """Return the two ends of a cable, which loses nothing.  Parameters as for `WireHub`."""
    cable = WireHub("", medium=medium, mtu=mtu, queue=queue)
    return cable.open(), cable.open()
