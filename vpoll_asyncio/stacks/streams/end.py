"""One end of a connection: its state, what its protocol sends, and what arrives."""

from __future__ import annotations

import enum
import errno
import functools
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from ...events import ERR, HUP, IN, OUT, PRI, RDHUP, RDNORM, WRNORM
from ...sockets import UserSocket
from .buffer import ReceiveBuffer
from .table import HostPort, StreamTable, oserror

if TYPE_CHECKING:
    from ..base import Stack

__all__ = ["SOMAXCONN", "StreamEnd", "StreamState", "locked"]

_READABLE: Final = IN | RDNORM
_WRITABLE: Final = OUT | WRNORM
_WINDOW: Final = 65536
# What Linux's net.core.somaxconn is: nobody waits behind as many.
SOMAXCONN: Final = 4096

_End = TypeVar("_End", bound="StreamEnd")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def locked(method: Callable[Concatenate[_End, _P], _T]) -> Callable[Concatenate[_End, _P], _T]:
    """Let `method` run under the lock, and have the socket's mask shown afterwards."""

    @functools.wraps(method)
    def call(self: _End, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self.table.lock:
            self.table.lock.touch(self)
            return method(self, *args, **kwargs)

    return call


class StreamState(enum.Enum):
    """The state of a `StreamEnd`: RFC 9293's, of which a connection that is up has one."""

    CLOSED = enum.auto()
    """Not connected yet, or no longer."""
    LISTEN = enum.auto()
    SYN_SENT = enum.auto()
    """Has asked for a connection."""
    SYN_RECEIVED = enum.auto()
    """Has been asked for, and waits until the listener has room."""
    ESTABLISHED = enum.auto()
    """Connected, until both directions have ended."""


class StreamEnd(UserSocket):
    """The state of a stream socket.  Programs get a `StreamSocket`, which has the calls too.

    Parameters:
    stack -- the stack that it belongs to
    table -- the stack's ports and connections
    family, type, proto -- as for `socket.socket`

    Raises OSError: EAFNOSUPPORT for a family of which the stack has no address, ESOCKTNOSUPPORT
    for a type that is no stream.

    A protocol **overrides** what sends: `send_syn`, `send_ack`, `send_data`, `send_fin` and
    `send_rst`, and where it has that, `send_credit`, `send_urgent` and `source`.  They are called
    under the lock, must not wait, and must not tell a socket what arrives: they put it where the
    `deliver` of the `StreamLock`, or a thread, takes it up.  `local` and `remote` say who speaks
    to whom.  A subclass whose constructor takes something else overrides `new_end` too.

    A protocol **calls** what it has received: `knocked`, `connected`, `received`, `credited`,
    `peer_shut` and `peer_reset`, on the socket that `StreamTable.find` returns.  They may be
    called from any thread and never wait.  Each returns whether the socket has a state for it;
    where it does not, nothing has changed, and the protocol answers as it does to what is
    for nobody.

    How much may be sent is counted in bytes that the receiver has given credit for; its end
    keeps nothing that cannot be sent.  A protocol that has no such thing gives a large credit
    at the beginning.
    """

    state: StreamState
    local: HostPort
    """The own address and port; the port is 0 until there is one."""
    remote: HostPort
    """The peer's address and port, from the attempt to connect on."""
    window: int
    """How many bytes the receiver keeps, and how much credit the peer gets at first: SO_RCVBUF."""
    credit: int
    """How many bytes may be sent now."""
    buffer: ReceiveBuffer
    """What has been received and not been read."""
    queue: deque[StreamEnd]
    """A listener's connections that have not been accepted."""
    rcv_shutdown: bool
    """Nothing more will be received: the peer's FIN has come, or the program wants none."""
    send_shutdown: bool
    """Nothing more will be sent."""
    error: int
    """The errno that SO_ERROR or the next call takes; 0 for none."""

    def __init__(
        self,
        stack: Stack,
        table: StreamTable,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> None:
        if family not in table.families:
            raise oserror(errno.EAFNOSUPPORT)
        if type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) != socket.SOCK_STREAM:
            raise oserror(errno.ESOCKTNOSUPPORT)
        self.table = table
        self.local = ("::" if family == socket.AF_INET6 else "0.0.0.0"), 0
        self.window = _WINDOW
        self.queue = deque()
        self._backlog = 0
        self._linger_zero = False
        self._knocking: deque[StreamEnd] = deque()
        self.error = 0
        self._renew()
        self._mask = self.mask()
        super().__init__(stack, family, type, proto, events=self._mask)

    # What a protocol overrides.

    def send_syn(self) -> None:
        """Ask `remote` for a connection, in which it may send `window` bytes at first."""
        raise NotImplementedError

    def send_ack(self) -> None:
        """Tell `remote`, which has asked, that it is connected and may send `window` bytes."""
        raise NotImplementedError

    def send_data(self, data: bytes) -> None:
        """Send all of `data`, for which there is credit."""
        raise NotImplementedError

    def send_urgent(self, data: bytes) -> None:
        """Send all of `data`, of which the last byte is urgent: MSG_OOB.

        The credit has to do for the others only.  By default it raises OSError (EOPNOTSUPP).
        """
        raise oserror(errno.EOPNOTSUPP)

    def send_credit(self, count: int) -> None:
        """Let `remote` send `count` bytes more.  By default nothing happens."""

    def send_fin(self) -> None:
        """Tell `remote` that no more data will come."""
        raise NotImplementedError

    def send_rst(self) -> None:
        """Tell `remote` that there is no connection any more, or that there will be none."""
        raise NotImplementedError

    def source(self, host: str) -> str:
        """Return the own address from which `host` is reached, by default the first of its family.

        Raises OSError (ENETUNREACH) when it cannot be reached.
        """
        for address in self.table.addresses:
            if (":" in address) == (":" in host):
                return address
        raise oserror(errno.ENETUNREACH)

    def new_end(self) -> StreamEnd:
        """Return a new socket, for a connection that this listener has been asked for."""
        return type(self)(self.stack, self.table, self.family, self.type, self.proto)

    def mask(self) -> int:
        """Return the events that Linux's socket would show in this state: tcp_poll().

        Called under the lock whenever something may have changed.
        """
        state = self.state
        if state is StreamState.LISTEN:
            return _READABLE if self.queue else 0
        mask = ERR if self.error else 0
        if state is StreamState.CLOSED or (self.rcv_shutdown and self.send_shutdown):
            mask |= HUP
        if self.rcv_shutdown:
            mask |= _READABLE | RDHUP
        if state in (StreamState.SYN_SENT, StreamState.SYN_RECEIVED):
            return mask
        if self.buffer:
            mask |= _READABLE
        if self.credit or self.send_shutdown or state is StreamState.CLOSED:
            mask |= _WRITABLE
        if self.buffer.urgent_waits:
            mask |= PRI
        return mask

    # What a protocol calls.

    @locked
    def knocked(self, local: HostPort, remote: HostPort, credit: int = 0) -> bool:
        """`remote` has asked for a connection with `local`, and gives `credit`.

        `send_ack` of the new end answers, at once or when the listener has room again.
        """
        self._knocking = deque(
            end for end in self._knocking if end.state is StreamState.SYN_RECEIVED
        )
        if self.state is not StreamState.LISTEN or len(self._knocking) >= SOMAXCONN:
            return False
        end = self.new_end()
        end.state, end.local, end.remote = StreamState.SYN_RECEIVED, local, remote
        end.window, end.credit = self.window, credit
        self.table.enter(end, local, remote)
        self._knocking.append(end)
        self._admit()
        return True

    @locked
    def connected(self, credit: int = 0) -> bool:
        """`remote` has agreed to the connection and gives `credit`."""
        if self.state is not StreamState.SYN_SENT:
            return False
        self.state = StreamState.ESTABLISHED
        self.credit += credit
        self._new()
        return True

    @locked
    def received(self, data: bytes, urgent: bool = False) -> bool:
        """`data` have come, of which the last byte may be `urgent`."""
        if not self._is_synchronized() or (urgent and not data):
            return False
        if urgent:
            data, byte = data[:-1], data[-1:]
            self.buffer.add_urgent(byte, ahead=len(data))
        if self._fin_sent and self.rcv_shutdown:
            # Nobody will read it.
            self.send_rst()
            self._over(errno.ECONNRESET)
        else:
            self.buffer.add(data)
            self._granted -= len(data)
        self._new()
        return True

    @locked
    def credited(self, count: int) -> bool:
        """`count` bytes more may be sent."""
        if not self._is_synchronized():
            return False
        self.credit += count
        self._new()
        return True

    @locked
    def peer_shut(self) -> bool:
        """`remote` will send no more data."""
        if not self._is_synchronized():
            return False
        self._fin_came = self.rcv_shutdown = True
        self._over_when_both_have_ended()
        self._new()
        return True

    @locked
    def peer_reset(self) -> bool:
        """`remote` knows of no connection, or refuses one."""
        if not self._is_synchronized():
            return False
        if self.state is StreamState.SYN_RECEIVED:
            self._over()
            self.close()
            return True
        refused = self.state is StreamState.SYN_SENT
        closing = errno.EPIPE if self._fin_came else errno.ECONNRESET
        self._over(errno.ECONNREFUSED if refused else closing)
        self._new()
        return True

    # What the calls of a program do to the state; all of it under the lock.

    def _renew(self) -> None:
        """Be as before any connection; the local address and a pending error stay."""
        self.state = StreamState.CLOSED
        self.remote = "", 0
        self.buffer = ReceiveBuffer()
        self.rcv_shutdown = self.send_shutdown = self._fin_sent = self._fin_came = False
        self._attempted = self._told = False
        self.credit = self._granted = 0

    def _is_synchronized(self) -> bool:
        """Return whether there is a connection, or an attempt at one."""
        return self.state not in (StreamState.CLOSED, StreamState.LISTEN)

    def _begin(self, remote: HostPort) -> None:
        """Ask `remote` for a connection.  Raises OSError as `source` and `StreamTable.connect`."""
        host = self.source(remote[0])
        self.local = self.table.connect(self, self.local, host, remote)
        self.remote, self.state, self._attempted = remote, StreamState.SYN_SENT, True
        self._granted = self.window
        self.send_syn()

    def _admit(self) -> None:
        """Let those in who knock, as long as there is room."""
        while self._knocking and len(self.queue) <= self._backlog:
            end = self._knocking.popleft()
            if end.state is not StreamState.SYN_RECEIVED:
                continue
            self.queue.append(end)
            end.state, end._attempted, end._told = StreamState.ESTABLISHED, True, True
            end._granted = end.window
            end.send_ack()
            end.rcv_shutdown |= self.rcv_shutdown
            if self.send_shutdown:
                end._finish_sending()
            end._new()
            self._new()

    def _finish_sending(self) -> None:
        """Send FIN, once."""
        self.send_shutdown = True
        if self.state is StreamState.ESTABLISHED and not self._fin_sent:
            self._fin_sent = True
            self.send_fin()
            self._over_when_both_have_ended()

    def _grant(self) -> None:
        """Let the peer send as much as there is room for."""
        more = self.window - len(self.buffer) - self._granted
        if more > 0 and self.state is StreamState.ESTABLISHED and not self._fin_came:
            self._granted += more
            self.send_credit(more)

    def _over(self, error: int = 0) -> None:
        """The connection is over, in both directions."""
        self.state, self.error = StreamState.CLOSED, error
        self.rcv_shutdown = self.send_shutdown = True
        self.table.leave(self, self.local, self.remote)

    def _part(self) -> None:
        """Tell everybody who is connected, or waits to be, that there is nobody any more."""
        if self.state is StreamState.LISTEN:
            for end in (*self.queue, *self._knocking):
                end._linger_zero = True
                end.close()
            self.queue.clear()
            self._knocking.clear()
        elif self._is_synchronized():
            done = self.state is StreamState.ESTABLISHED and not self.buffer.unread
            if not done or self._linger_zero:
                self.send_rst()
            elif not self._fin_sent:
                self.send_fin()
            self.table.leave(self, self.local, self.remote)

    @locked
    def abandon(self) -> None:
        """The stack is closed under the socket."""
        self._linger_zero = True
        self._part()
        self._over(errno.ENETDOWN)
        self._new()

    def _over_when_both_have_ended(self) -> None:
        if self.state is StreamState.ESTABLISHED and self._fin_came and self._fin_sent:
            self._over()

    # The mask.

    def _new(self) -> None:
        self.table.lock.touch(self, new=True)

    def take_mask(self) -> None:
        """Take the mask that `show` shows; called under the lock."""
        self._mask = self.mask()

    def show(self, new: bool = False) -> None:
        """Show the mask to those who wait for events, when it has changed.

        new -- something has come: it is shown though it may be as before, since an
            edge-triggered waiter has to hear of more data while there are some already

        Called without the lock.  Of several threads, the last one finds the last mask.
        """
        vpoll = self.vpoll
        try:
            while not vpoll.closed and (new or vpoll.peek() != self._mask):
                new = False
                vpoll.set_events(self._mask)
        except OSError as exc:
            # The socket has been closed meanwhile, or its kernel object is gone, of which its
            # own waiters have been told.
            if exc.errno != errno.EBADF and vpoll.failure is None:
                raise
