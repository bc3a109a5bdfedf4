"""Who has which port, who is connected with whom, and the lock under which that changes."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from .end import StreamEnd

__all__ = ["HostPort", "StreamLock", "StreamTable", "oserror", "wildcard"]

HostPort = tuple[str, int]
"""A numeric address and a port."""

# The dynamic ports of RFC 6335.
_FIRST: Final = 49152
_PORTS: Final = 65536 - _FIRST


def oserror(number: int) -> OSError:
    """Return the OSError that a system call with errno `number` raises."""
    return OSError(number, os.strerror(number))


def wildcard(host: str) -> str:
    """Return the address of `host`'s family that stands for every own address."""
    return "::" if ":" in host else "0.0.0.0"


class StreamLock:
    """The lock under which streams change, of one stack or of several.

    Stacks that hand to each other what they send, in one process, have one lock together.  At
    the end of each section, when every socket is whole again, `deliver` is called under the
    lock: there a protocol carries what its sockets have sent.  Then the sockets' event masks are
    taken, and shown once the lock is released, so that nobody who waits is woken under it.

    It is a context manager, and a thread may enter it again, also in a finalizer or a signal
    handler: `deliver` and the masks wait for the outermost section.  In a child of fork(2) it may
    be used only when no other thread of the parent was using it.
    """

    def __init__(self, deliver: Callable[[], object] | None = None) -> None:
        self._lock = threading.RLock()
        self._deliver = deliver
        self._depth = 0
        self._again = False
        self._touched: dict[StreamEnd, bool] = {}

    def touch(self, sock: StreamEnd, new: bool = False) -> None:
        """Have the mask of `sock` shown; called under the lock.

        new -- something has come, so that who waits is woken though the mask may be as before
        """
        self._touched[sock] = self._touched.get(sock, False) or new

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        touched: dict[StreamEnd, bool] = {}
        try:
            if self._depth == 1:
                self._settle(touched)
            else:
                self._again = True
        finally:
            self._depth -= 1
            self._lock.release()
            _show(touched)

    def _settle(self, shown: dict[StreamEnd, bool]) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                if self._deliver is not None:
                    self._deliver()
            finally:
                # Whatever is called here may let a finalizer run that sends, too.
                while self._touched:
                    sock, new = self._touched.popitem()
                    shown[sock] = shown.get(sock, False) or new
                    sock.take_mask()


def _show(touched: dict[StreamEnd, bool]) -> None:
    error: Exception | None = None
    for sock, new in touched.items():
        try:
            sock.show(new)
        except Exception as exc:
            # A waiter's own: the others have to hear of theirs all the same.
            error = error or exc
    if error is not None:
        raise error


class StreamTable:
    """The ports and the connections of one stack's streams.

    Parameters:
    addresses -- the stack's own numeric addresses, without prefix length
    lock -- the lock that the stack shares with others; None: one of its own

    It refers to sockets weakly: one that its program forgets is closed.  Methods may be called
    from any thread.
    """

    def __init__(self, addresses: Sequence[str], lock: StreamLock | None = None) -> None:
        self.addresses = tuple(addresses)
        six = {":" in address for address in self.addresses}
        self.families = frozenset(socket.AF_INET6 if each else socket.AF_INET for each in six)
        """The address families of `addresses`."""
        self.lock = StreamLock() if lock is None else lock
        self.closed = False
        """Whether `close` has been called."""
        self._bound: WeakValueDictionary[HostPort, StreamEnd] = WeakValueDictionary()
        self._connected: WeakValueDictionary[tuple[HostPort, HostPort], StreamEnd]
        self._connected = WeakValueDictionary()
        self._last = _FIRST - 1

    def find(self, local: HostPort, remote: HostPort) -> StreamEnd | None:
        """Return the socket that something from `remote` to `local` is for, None for nobody.

        It is the connection between the two, or else the socket that is bound to `local`, which
        need not listen: what is told to a `StreamEnd` in a state for which it is not is refused.
        """
        with self.lock:
            found = self._connected.get((local, remote)) or self._bound.get(local)
            return found or self._bound.get((wildcard(local[0]), local[1]))

    def close(self) -> None:
        """Reset every connection; what uses the sockets is ENETDOWN from now on.

        Closing twice is allowed.
        """
        with self.lock:
            self.closed = True
            for sock in {*self._connected.values(), *self._bound.values()}:
                sock.abandon()

    def check_up(self) -> None:
        """Raise OSError (ENETDOWN) when the stack is closed."""
        if self.closed:
            raise OSError(
                errno.ENETDOWN,
                "the stack of this socket is closed: keep it open until its sockets are done with",
            )

    def check_local(self, host: str) -> None:
        """Raise OSError (EADDRNOTAVAIL) for what is neither an own address nor a wildcard."""
        if host != wildcard(host) and host not in self.addresses:
            raise oserror(errno.EADDRNOTAVAIL)

    def bind(self, sock: StreamEnd, host: str, port: int) -> HostPort:
        """Give `sock` the address `host` with `port`, or with a free one for 0; return both.

        Raises OSError: EADDRNOTAVAIL for an address that is not the stack's, EADDRINUSE for a
        port that another socket has, or when none is free, ENETDOWN when the stack is closed.
        """
        self.check_up()
        self.check_local(host)
        with self.lock:
            local = host, port or self._choose(lambda free: not self._taken(host, free))
            if not local[1] or self._taken(*local):
                raise oserror(errno.EADDRINUSE)
            self._bound[local] = sock
        return local

    def connect(self, sock: StreamEnd, bound: HostPort, host: str, remote: HostPort) -> HostPort:
        """Enter the connection of `sock` from the own address `host` to `remote`.

        bound -- what `bind` has returned; port 0: a free one is taken

        Returns its local end.  Raises OSError (EADDRNOTAVAIL) when there is one of these two
        ends already, or no port is free, and else as `bind`.
        """
        self.check_up()
        with self.lock:
            port = bound[1] or self._choose(
                lambda free: (
                    not self._taken(bound[0], free)
                    and ((host, free), remote) not in self._connected
                )
            )
            local = host, port
            if not port or (local, remote) in self._connected:
                raise oserror(errno.EADDRNOTAVAIL)
            if not bound[1]:
                self._bound[bound[0], port] = sock
            self.enter(sock, local, remote)
        return local

    def enter(self, sock: StreamEnd, local: HostPort, remote: HostPort) -> None:
        """Let `find` return `sock` for what comes from `remote` to `local`."""
        with self.lock:
            self._connected[local, remote] = sock

    def leave(self, sock: StreamEnd, local: HostPort, remote: HostPort) -> None:
        """Forget the connection between `local` and `remote` when it is that of `sock`."""
        with self.lock:
            if self._connected.get((local, remote)) is sock:
                del self._connected[local, remote]

    def release(self, sock: StreamEnd) -> None:
        """Give back the port that `sock` is bound to, if any."""
        with self.lock:
            port = sock.local[1]
            for host in (wildcard(sock.local[0]), *self.addresses):
                if self._bound.get((host, port)) is sock:
                    del self._bound[host, port]

    def _taken(self, host: str, port: int) -> bool:
        wild = wildcard(host)
        same = (own for own in self.addresses if wildcard(own) == wild)
        others = (wild, *same) if host == wild else (wild, host)
        return any((other, port) in self._bound for other in others)

    def _choose(self, free: Callable[[int], bool]) -> int:
        """Return the next of the dynamic ports that is `free`, 0 when none is."""
        for _ in range(_PORTS):
            self._last = _FIRST + (self._last + 1 - _FIRST) % _PORTS
            if free(self._last):
                return self._last
        return 0
