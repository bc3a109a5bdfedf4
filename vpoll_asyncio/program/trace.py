"""A record of how the event masks of user sockets change: a JSON object a line.

``time`` (seconds of CLOCK_MONOTONIC), ``thread``, ``socket`` (numbered as they were made),
``stack``, ``family``, ``type``, ``local`` and ``peer`` (the addresses at the time of
writing, null for none), ``old`` and ``new`` (names of events; a bit without a name is a
hexadecimal number).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Final, NamedTuple, TextIO

from ..events import EventMask
from ..sockets import UserSocket, observe_sockets

__all__ = ["masks_traced"]

_log = logging.getLogger(__name__)

_NAMES: Final = [(int(event), str(event.name)) for event in EventMask if event.name]
# Seconds that the end waits for the last lines to be written.
_PATIENCE: Final = 5.0


class _Change(NamedTuple):
    when: float
    thread: str
    number: int
    sock: weakref.ref[UserSocket]
    old: int
    new: int


def names_of(mask: int) -> list[str]:
    """Return the names of the events of `mask`."""
    names = [name for bit, name in _NAMES if mask & bit]
    for bit, _ in _NAMES:
        mask &= ~bit
    return [*names, hex(mask)] if mask else names


class _Trace:
    """Whoever changes a mask only queues it: a thread asks for addresses and writes."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._broken = False
        self._thread = threading.Thread(
            target=self._write_all, name="vpoll-asyncio-trace", daemon=True
        )
        self._thread.start()

    def observe(self, sock: UserSocket) -> None:
        """Record the mask of `sock`, and what becomes of it."""
        number = next(self._numbers)
        reference = weakref.ref(sock)
        known = 0

        def changed(mask: int) -> None:
            nonlocal known
            # In a child of fork(2) nobody writes.
            if mask != known and not self._broken and os.getpid() == self._pid:
                thread = threading.current_thread().name
                change = _Change(time.monotonic(), thread, number, reference, known, mask)
                known = mask
                self._changes.put(change)

        changed(sock.vpoll.peek())
        sock.vpoll.add_waiter(changed)

    def _write_all(self) -> None:
        while (change := self._changes.get()) is not None:
            if self._broken:
                continue
            try:
                self._file.write(f"{json.dumps(self._described(change))}\n")
                if self._changes.empty():
                    self._file.flush()
            except OSError as error:
                self._fail(error)
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            _log.warning("the trace of event masks has ended: %s", error)

    @staticmethod
    def _described(change: _Change) -> dict[str, object]:
        described: dict[str, object] = {
            "time": round(change.when, 6),
            "thread": change.thread,
            "socket": change.number,
        }
        sock = change.sock()
        if sock is not None:
            try:
                local, peer = sock.names()
            except AttributeError:
                # The stack has not finished making it.
                local = peer = None
            described |= {
                "stack": sock.stack.name,
                "family": sock.family.name,
                "type": sock.type.name,
                "local": local,
                "peer": peer,
            }
        return described | {"old": names_of(change.old), "new": names_of(change.new)}

    def close(self) -> None:
        """Write what is queued, and end."""
        self._changes.put(None)
        if os.getpid() == self._pid:
            self._thread.join(_PATIENCE)
        self._broken = True


@contextlib.contextmanager
def masks_traced(path: str | None) -> Iterator[None]:
    """Record in the file `path`, which is emptied, the masks of user sockets made meanwhile.

    path -- None records nothing

    A failure to write ends the trace with a warning, and nothing else.  Raises the
    OSError of opening the file.
    """
    if path is None:
        yield
        return
    # Its thread closes it.
    trace = _Trace(open(path, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        with observe_sockets(trace.observe):
            yield
    finally:
        trace.close()
