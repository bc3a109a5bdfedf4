"""A stream socket's calls, and the error of each in each state, over any protocol."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data, would_block
from .end import SOMAXCONN, StreamEnd, StreamState, locked
from .table import HostPort, StreamTable, oserror

if TYPE_CHECKING:
    from ..base import Stack

__all__ = ["StreamSocket"]

_FIONREAD: Final = 0x541B
_SIOCATMARK: Final = 0x8905
_LINGER: Final = struct.Struct("ii")
_KEPT: Final = {
    (socket.SOL_SOCKET, socket.SO_SNDBUF): 65536,
    (socket.SOL_SOCKET, socket.SO_REUSEADDR): 0,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 0,
}
_SEND_FLAGS: Final = socket.MSG_OOB | socket.MSG_NOSIGNAL | socket.MSG_MORE


class StreamSocket(StreamEnd):
    """A stream socket of a protocol that is written as `StreamEnd` says.

    It has the calls of a socket, each with the errors that Linux's TCP has in each state; a
    backlog with those who wait behind it; half-closed connections; the urgent byte and its mark
    (MSG_OOB, SIOCATMARK); FIONREAD; SO_ERROR, SO_ACCEPTCONN, SO_RCVBUF and SO_LINGER.

    Of SO_LINGER the value (1, 0) counts: close(2) resets; others do not wait.  SO_RCVBUF is
    the window in bytes, not doubled as Linux does.  SO_SNDBUF, SO_REUSEADDR and TCP_NODELAY are
    kept without effect: what the peer has no room for is not taken, a port is free as soon as
    its socket is closed, and never shared, and nothing is delayed.  Other options are
    ENOPROTOOPT; a protocol that has them overrides `do_getsockopt` and `do_setsockopt`, and
    asks ``super()`` for the rest.  A socket of AF_INET6 speaks IPv6 only.
    """

    _linger = 0, 0

    def __init__(
        self,
        stack: Stack,
        table: StreamTable,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> None:
        super().__init__(stack, table, family, type, proto)
        self._kept = dict(_KEPT)

    def _address(self, address: HostPort) -> Address:
        return (*address, 0, 0) if self.family == socket.AF_INET6 else address

    @locked
    def do_bind(self, address: Address) -> None:
        self.table.check_up()
        self.table.check_local(address[0])
        if self.local[1]:
            raise oserror(errno.EINVAL)
        self.local = self.table.bind(self, address[0], address[1])

    @locked
    def do_listen(self, backlog: int) -> None:
        self.table.check_up()
        if self._attempted or self.state not in (StreamState.CLOSED, StreamState.LISTEN):
            raise oserror(errno.EINVAL)
        if not self.local[1]:
            self.local = self.table.bind(self, *self.local)
        self.state, self._backlog = StreamState.LISTEN, min(backlog, SOMAXCONN)
        self._admit()

    @locked
    def do_accept(self) -> tuple[UserSocket, Address]:
        self.table.check_up()
        if self.state is not StreamState.LISTEN:
            raise oserror(errno.EINVAL)
        if not self.queue:
            raise would_block()
        end = self.queue.popleft()
        self._admit()
        return end, self._address(end.remote)

    @locked
    def do_connect(self, address: Address) -> None:
        self.table.check_up()
        if self.state is StreamState.LISTEN or self._told:
            raise oserror(errno.EISCONN)
        if self.state is StreamState.SYN_SENT:
            raise oserror(errno.EALREADY)
        if self._attempted:
            self._tell()
            return
        self._begin((address[0], address[1]))
        raise oserror(errno.EINPROGRESS)

    @locked
    def do_finish_connect(self) -> int:
        try:
            self._tell()
        except OSError as exc:
            return exc.errno or 0
        return 0

    def _tell(self) -> None:
        """Tell once how an attempt to connect has ended."""
        if self.state is StreamState.ESTABLISHED:
            self._told = True
            return
        number = self._take_error() or errno.ECONNABORTED
        self._renew()
        raise oserror(number)

    def _take_error(self) -> int:
        number, self.error = self.error, 0
        return number

    @locked
    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        self.table.check_up()
        if self.error:
            raise oserror(self._take_error())
        if self.state is StreamState.SYN_SENT:
            raise would_block()
        if self.state is not StreamState.ESTABLISHED or self.send_shutdown:
            raise oserror(errno.EPIPE)
        if flags & ~_SEND_FLAGS:
            raise oserror(errno.EOPNOTSUPP)
        if data and not self.credit:
            raise would_block()
        taken = bytes(data[: self.credit])
        if flags & socket.MSG_OOB and 0 < len(data) <= self.credit:
            self.send_urgent(taken)
            self.credit -= len(taken) - 1
        elif taken:
            self.send_data(taken)
            self.credit -= len(taken)
        return len(taken)

    @locked
    def do_recv(self, bufsize: int, flags: int) -> bytes:
        self.table.check_up()
        if self.state is StreamState.LISTEN:
            raise oserror(errno.ENOTCONN)
        peek = bool(flags & socket.MSG_PEEK)
        if flags & socket.MSG_OOB:
            if not self.buffer.urgent_waits:
                raise oserror(errno.EINVAL)
            if self.state is StreamState.CLOSED and not self._fin_came:
                raise oserror(errno.ENOTCONN)
            return self.buffer.read_urgent(peek)
        waiting = len(self.buffer)
        data = self.buffer.read(bufsize, peek)
        if waiting:
            if not peek:
                self._grant()
            return data
        if self._fin_came:
            return b""
        if self.error:
            raise oserror(self._take_error())
        if self.rcv_shutdown:
            return b""
        raise oserror(errno.ENOTCONN) if self.state is StreamState.CLOSED else would_block()

    @locked
    def do_shutdown(self, how: int) -> None:
        self.table.check_up()
        receiving, sending = how != socket.SHUT_WR, how != socket.SHUT_RD
        if self.state is StreamState.LISTEN and not receiving:
            return
        if self.state in (StreamState.LISTEN, StreamState.SYN_SENT):
            self.error = errno.ECONNRESET if self.state is StreamState.SYN_SENT else 0
            self._part()
            self._renew()
            return
        self.rcv_shutdown |= receiving
        self.send_shutdown |= sending
        if self.state is not StreamState.ESTABLISHED:
            raise oserror(errno.ENOTCONN)
        if sending:
            self._finish_sending()

    def do_close(self) -> None:
        with self.table.lock:
            self._part()
            self.state = StreamState.CLOSED
            self.table.release(self)

    @locked
    def do_getsockname(self) -> Address:
        return self._address(self.local)

    @locked
    def do_getpeername(self) -> Address:
        if self.state is not StreamState.ESTABLISHED:
            raise oserror(errno.ENOTCONN)
        return self._address(self.remote)

    @locked
    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        if level == socket.SOL_SOCKET:
            match optname:
                case socket.SO_ERROR:
                    return self._take_error()
                case socket.SO_ACCEPTCONN:
                    return int(self.state is StreamState.LISTEN)
                case socket.SO_RCVBUF:
                    return self.window
                case socket.SO_LINGER:
                    return _LINGER.pack(*self._linger)
        kept = self._kept.get((level, optname))
        return super().do_getsockopt(level, optname) if kept is None else kept

    @locked
    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        match level, optname:
            case socket.SOL_SOCKET, socket.SO_RCVBUF:
                self.window = max(1, _number(value))
                self._grant()
            case socket.SOL_SOCKET, socket.SO_LINGER:
                if not isinstance(value, bytes) or len(value) < _LINGER.size:
                    raise oserror(errno.EINVAL)
                self._linger = _LINGER.unpack_from(value)
                self._linger_zero = bool(self._linger[0]) and not self._linger[1]
            case socket.SOL_SOCKET, socket.SO_SNDBUF:
                self._kept[level, optname] = max(1, _number(value))
            case switch if switch in self._kept:
                self._kept[switch] = int(_number(value) != 0)
            case _:
                super().do_setsockopt(level, optname, value)

    @locked
    def do_ioctl(self, request: int, argument: Any) -> Any:
        if request == _SIOCATMARK:
            return int(self.buffer.at_mark)
        if request != _FIONREAD:
            return super().do_ioctl(request, argument)
        if self.state is StreamState.LISTEN:
            raise oserror(errno.EINVAL)
        return self.buffer.readable


def _number(value: int | bytes) -> int:
    """Return an option's value as an int.  Raises OSError (EINVAL) for one that is too short."""
    if isinstance(value, int):
        return value
    if len(value) < 4:
        raise oserror(errno.EINVAL)
    return int.from_bytes(value[:4], sys.byteorder, signed=True)
