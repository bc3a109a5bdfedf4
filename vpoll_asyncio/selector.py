"""VPollSelector: descriptors of the kernel and vpolls in one wait.

The kernel's descriptors are in an epoll.  A vpoll is not: the selector sits on its
wait queue, and a vpoll that has something to tell puts itself into the ready set, from
whichever thread set the event.  `select` then asks only those in the ready set for
their masks, so that it costs what is active and not what is registered; what is still
pending stays in the set, which makes it level-triggered.

A wake-up must not be lost between the look at the ready set and the sleep in epoll.
Whoever sets events first publishes (the mask, then the ready set), then checks
whether the selector has said that it sleeps, and wakes it if so.  The selector first
says that it sleeps, then looks once more.  Which thread it is does not matter: signal
handlers and finalizers run in the selector's own thread while it sleeps.
"""

from __future__ import annotations

import errno
import math
import os
import select
import selectors
import threading
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

from .backends.virtual import FIRST_NUMBER, lookup, new_number
from .ending import ending
from .events import ALWAYS, IN, OUT, EventMask, check_mask, from_selector
from .hot.selector import SelectorState
from .vpoll import VPoll

__all__ = ["VPollSelector", "vpoll_of"]

_EVENT_READ: Final = selectors.EVENT_READ
_EVENT_WRITE: Final = selectors.EVENT_WRITE
_EVENTS: Final = _EVENT_READ | _EVENT_WRITE
_NOT_IN: Final = ~IN
_NOT_OUT: Final = ~OUT

# How many vpolls one select() reports: the rest come first in the next one.
_BATCH: Final = 256


def vpoll_of(fileobj: object) -> VPoll | None:
    """Return the vpoll that `fileobj` stands for, None when it is the kernel's business.

    `fileobj` is a VPoll, an object whose `vpoll` is one (a user socket), or a virtual
    number.  Raises OSError (EBADF) for a virtual number without a vpoll, which is what
    the kernel answers to a closed descriptor.
    """
    if isinstance(fileobj, int):
        if fileobj < FIRST_NUMBER:
            return None
        vpoll = lookup(fileobj)
        if vpoll is None:
            raise OSError(errno.EBADF, f"no vpoll has the number {fileobj}")
        assert isinstance(vpoll, VPoll)
        return vpoll
    if isinstance(fileobj, VPoll):
        return fileobj
    inner = getattr(fileobj, "vpoll", None)
    return inner if isinstance(inner, VPoll) else None


def _check_events(events: int) -> None:
    if not events or events & ~_EVENTS:
        raise ValueError(f"Invalid events: {events!r}")
    if isinstance(events, EventMask):
        # EPOLLPRI and EVENT_WRITE are the same number.
        raise ValueError(
            f"Invalid events: {events!r}: expected EVENT_READ and EVENT_WRITE; "
            "register_mask and modify_mask take an EventMask"
        )


def _interest(events: int) -> int:
    """Return the event mask that a key's `events` ask for."""
    return int(events) if isinstance(events, EventMask) else from_selector(events)


class _Registration:
    """One vpoll in a selector: a waiter that puts itself into the ready set.

    A million of them are no rarity, so a key is made when somebody asks for it.
    """

    __slots__ = (
        "data",
        "events",
        "fileobj",
        "key",
        "number",
        "queued",
        "selector",
        "turn",
        "vpoll",
        "wanted",
    )

    def __init__(
        self,
        selector: VPollSelector,
        vpoll: VPoll,
        number: int,
        fileobj: Any,
        events: int,
        data: Any,
    ) -> None:
        self.selector = selector
        self.vpoll = vpoll
        self.number = number
        self.fileobj = fileobj
        self.queued = False
        self.turn = 0
        self.change(events, data)

    def change(self, events: int, data: Any) -> None:
        self.events = events
        self.data = data
        self.key: selectors.SelectorKey | None = None
        self.wanted = _interest(events) | ALWAYS

    def new_key(self) -> selectors.SelectorKey:
        return selectors.SelectorKey(self.fileobj, self.number, self.events, self.data)

    def kept_key(self) -> selectors.SelectorKey:
        """Return the key, which is then kept: who asks for it once asks again."""
        key = self.key
        if key is None:
            key = self.key = self.new_key()
        return key

    def drop(self) -> None:
        self.wanted = 0
        self.vpoll.remove_waiter(self)

    def __call__(self, mask: int) -> None:
        if mask & self.wanted and not self.queued:
            self.queued = True
            selector = self.selector
            selector.ready.append(self)
            if selector.asleep:
                selector.wake()


_Entry = selectors.SelectorKey | _Registration


def _key_of(entry: _Entry) -> selectors.SelectorKey:
    return entry.kept_key() if isinstance(entry, _Registration) else entry


class _Map(Mapping[Any, selectors.SelectorKey]):
    """What `VPollSelector.get_map` returns: keys by descriptor, number or object."""

    def __init__(
        self,
        entries: dict[int, _Entry],
        number_for: Callable[[Any], int],
    ) -> None:
        self._entries = entries
        self._number_for = number_for

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        entry = self._entries.get(self._number_for(fileobj))
        if entry is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return _key_of(entry)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)


class VPollSelector(SelectorState, selectors.BaseSelector):
    """A selector for descriptors, vpolls and user sockets; drop-in for EpollSelector.

    `register` takes what `selectors.EpollSelector.register` takes, a `VPoll`, an object
    with a `vpoll` (a user socket) or the number of a vpoll of the `virtual` backend.
    Vpolls need no descriptor: a key's `fd` is then a virtual number.  The descriptor
    that `VPoll.fileno` gives on another backend is the kernel's, as any other.

    As in epoll, a vpoll that is closed while registered reports nothing any more and
    remains in the map until it is unregistered; ERR and HUP are reported to everybody,
    as READ, as WRITE or both, as `EpollSelector` does.  Of two handles of one vpoll
    (`VPoll.dup`) each can be registered.

    Methods are for one thread; events may be set from any thread, from signal handlers
    and finalizers, and wake a `select` that sleeps.  A child of fork(2) shares the epoll
    and must make a selector of its own, as with `EpollSelector`.

    Raises OSError (EMFILE, ENFILE) when there is no descriptor for it.
    """

    entries: dict[int, _Entry]

    def __init__(self) -> None:
        super().__init__(select.epoll())
        self._vpolls: dict[VPoll, _Registration] = {}
        self._by_mask: set[int] = set()
        self._map: _Map | None = _Map(self.entries, self._number_for)
        self._turn = 0
        # Re-entrant: a signal handler may wake a selector that this thread is waking.
        self._wake_lock = threading.RLock()
        self._wake_fd = -1
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            # Edge-triggered: every write is a wake-up, and nobody needs to read.
            self.epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
        except BaseException:
            self.close()
            raise

    # Registration.

    def _number_for(self, fileobj: Any) -> int:
        """Return the number that `fileobj` has or would have in the map."""
        if isinstance(fileobj, int):
            if fileobj < 0:
                raise ValueError(f"Invalid file descriptor: {fileobj}")
            return fileobj
        vpoll = vpoll_of(fileobj)
        if vpoll is not None:
            registration = self._vpolls.get(vpoll)
            if registration is not None:
                return registration.number
            if vpoll.closed or vpoll.backend != "virtual":
                return FIRST_NUMBER - 1
            return vpoll.fileno()
        try:
            fd = int(fileobj.fileno())
            if fd < 0:
                raise ValueError(f"Invalid file descriptor: {fd}")
            return fd
        except (AttributeError, TypeError, ValueError) as exc:
            for number, entry in self.entries.items():
                if entry.fileobj is fileobj:
                    return number
            if isinstance(exc, ValueError):
                raise
            raise ValueError(f"Invalid file object: {fileobj!r}") from None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Register `fileobj` for `events`, EVENT_READ or EVENT_WRITE or both.

        Returns the key.  Raises ValueError for bad `events` or an object that is no
        file, KeyError when it is registered already, OSError: EBADF when it is closed,
        EPERM when the kernel cannot poll it.
        """
        _check_events(events)
        return self._register(fileobj, events, data)

    def register_mask(self, fileobj: Any, mask: int, data: Any = None) -> selectors.SelectorKey:
        """Register `fileobj` for the events of `mask`, bits 0 to 27, and nothing else.

        Returns the key, whose `events` are `mask` as an EventMask; `select` reports for
        it, as an EventMask too, what is pending of them, and ERR and HUP.  Everything
        else is as for a key of `register`; an object is registered in one of the two
        ways.  Raises as `register` does, and ValueError for other bits.
        """
        return self._register(fileobj, EventMask(check_mask(mask)), data)

    def _register(self, fileobj: Any, events: int, data: Any) -> selectors.SelectorKey:
        number = self._number_for(fileobj)
        if number in self.entries:
            raise KeyError(f"{fileobj!r} (FD {number}) is already registered")
        vpoll = vpoll_of(fileobj)
        if vpoll is None and number >= FIRST_NUMBER:
            vpoll = vpoll_of(number)
        if vpoll is not None:
            return self._register_vpoll(fileobj, vpoll, events, data)
        key = selectors.SelectorKey(fileobj, number, events, data)
        self.epoll.register(number, _interest(events))
        self.entries[number] = key
        self._note_kind(number, events)
        return key

    def _note_kind(self, number: int, events: int) -> None:
        if isinstance(events, EventMask):
            self._by_mask.add(number)
        else:
            self._by_mask.discard(number)

    def _register_vpoll(
        self, fileobj: Any, vpoll: VPoll, events: int, data: Any
    ) -> selectors.SelectorKey:
        vpoll.peek()
        number = vpoll.fileno() if vpoll.backend == "virtual" else new_number()
        registration = _Registration(self, vpoll, number, fileobj, events, data)
        vpoll.add_waiter(registration)
        self.entries[number] = self._vpolls[vpoll] = registration
        self._note_kind(number, events)
        # What is pending already brings no call.
        if not vpoll.closed:
            registration(vpoll.peek())
        return registration.new_key()

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Unregister `fileobj` and return its key, be it closed or not.

        Raises KeyError when it is not registered, ValueError for what is no file.
        """
        number = self._number_for(fileobj)
        entry = self.entries.pop(number, None)
        if entry is None:
            raise KeyError(f"{fileobj!r} is not registered")
        self._by_mask.discard(number)
        if isinstance(entry, _Registration):
            entry.drop()
            self._vpolls.pop(entry.vpoll, None)
            return entry.new_key()
        try:
            self.epoll.unregister(number)
        except OSError:
            # Closed meanwhile; the kernel has forgotten it.
            pass
        return entry

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change what `fileobj` is registered for, or its data; return the new key.

        It may have been registered by mask before.  Raises as `register` and
        `unregister` do; after an OSError it is unregistered.
        """
        _check_events(events)
        return self._modify(fileobj, events, data)

    def modify_mask(self, fileobj: Any, mask: int, data: Any = None) -> selectors.SelectorKey:
        """Register `fileobj` for the events of `mask` instead, as `register_mask` does.

        It need not have been registered by mask before.  Raises as `register_mask` and
        `unregister` do; after an OSError it is unregistered.
        """
        return self._modify(fileobj, EventMask(check_mask(mask)), data)

    def _modify(self, fileobj: Any, events: int, data: Any) -> selectors.SelectorKey:
        number = self._number_for(fileobj)
        entry = self.entries.get(number)
        if entry is None:
            raise KeyError(f"{fileobj!r} is not registered")
        if isinstance(entry, _Registration):
            entry.change(events, data)
            self._note_kind(number, events)
            if not entry.vpoll.closed:
                entry(entry.vpoll.peek())
            return entry.new_key()
        interest = _interest(events)
        if interest != _interest(entry.events):
            try:
                self.epoll.modify(number, interest)
            except BaseException:
                self.unregister(fileobj)
                raise
        key = entry._replace(events=events, data=data)
        self.entries[number] = key
        self._note_kind(number, events)
        return key

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the keys of both kinds by descriptor or number; None once closed.

        It can be asked for file objects, too.
        """
        return self._map  # type: ignore[return-value]  # as the selectors module does

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return the key of `fileobj`.

        Raises KeyError when it is not registered and RuntimeError when the selector is
        closed.
        """
        if self._map is None:
            raise RuntimeError("Selector is closed")
        return self._map[fileobj]

    def fileno(self) -> int:
        """Return the epoll's descriptor.  It does not show the events of vpolls."""
        return self.epoll.fileno()

    # Waiting.

    def _select_slowly(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = []
        if self.ready:
            self._take_ready(found)
        if found or (timeout is not None and timeout <= 0):
            if not (self.spare and self.may_spare()):
                self.spared = 0
                found += self._keys(self.epoll.poll(0, len(self.entries) + 1))
            return found
        self.spared = 0
        left = timeout
        deadline = None if timeout is None else monotonic() + timeout
        ready, work = self.ready, self.work
        while True:
            wait = -1 if left is None else math.ceil(left * 1e3) * 1e-3
            self.asleep = True
            try:
                # The second look: whoever came before the announcement did not wake us.
                if ready or work:
                    wait = 0
                seen = self.epoll.poll(wait, len(self.entries) + 1)
            finally:
                self.asleep = False
            if seen:
                found += self._keys(seen)
            if ready:
                self._take_ready(found)
            if found or work:
                return found
            if deadline is not None:
                left = deadline - monotonic()
                if left <= 0:
                    return found

    def _keys(self, seen: list[tuple[int, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = []
        entries, by_mask = self.entries, self._by_mask
        for fd, mask in seen:
            key: Any = entries.get(fd)
            if key is not None:
                if by_mask and fd in by_mask:
                    found.append((key, EventMask(mask)))
                    continue
                events = (mask & _NOT_IN and _EVENT_WRITE) | (mask & _NOT_OUT and _EVENT_READ)
                found.append((key, events & key.events))
        return found

    def _take_ready(self, found: list[tuple[selectors.SelectorKey, int]]) -> None:
        ready, by_mask = self.ready, self._by_mask
        self._turn = turn = self._turn + 1
        for _ in range(min(len(ready), _BATCH)):
            registration = ready.popleft()
            if registration.turn == turn:
                # Two threads queued it at once; it is behind us in the queue already.
                continue
            registration.turn = turn
            try:
                mask = registration.vpoll.peek() & registration.wanted
                if not mask:
                    # Reset, then look: an event published in between queues anew.
                    registration.queued = False
                    mask = registration.vpoll.peek() & registration.wanted
                    if not mask:
                        continue
                    registration.queued = True
            except OSError:
                # Closed: as with epoll, nothing is heard of it any more.
                registration.queued = False
                continue
            ready.append(registration)
            key = registration.key or registration.kept_key()
            if by_mask and registration.number in by_mask:
                found.append((key, EventMask(mask)))
                continue
            events = (mask & _NOT_IN and _EVENT_WRITE) | (mask & _NOT_OUT and _EVENT_READ)
            found.append((key, events & registration.events))

    def wake(self) -> None:
        """Wake a `select` that sleeps; from any thread, signal handler or finalizer."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                # One write a sleep is enough.  Reset before the write: a selector that
                # goes back to sleep in between is woken by it.
                self.asleep = False
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Give back the descriptors and leave all wait queues.  Closing twice is allowed."""
        with self._wake_lock:
            fd, self._wake_fd = self._wake_fd, -1
            if fd >= 0:
                os.close(fd)
        self.close_epoll()
        for registration in self._vpolls.values():
            registration.drop()
        self._vpolls.clear()
        self.entries.clear()
        self._by_mask.clear()
        self.ready.clear()
        self._map = None

    def __del__(self, _ending: Callable[[], bool] = ending) -> None:
        # As quietly as epoll's own object, which closes itself.
        if getattr(self, "_wake_fd", -1) >= 0 and not _ending():
            self.close()
