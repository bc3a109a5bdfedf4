"""Sending and receiving on a stream in every case, as TCP of Linux does it."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ...hot.pipe import CLOSE_WAIT, ESTABLISHED, RCV, SND, R, by_reference, would_block
from .addresses import oserror
from .pcb import Pcb, publish
from .queue import URG_READ, URG_VALID
from .tcp import CLOSE, FIN_CAME, FIN_WAIT, LISTEN, SYN_SENT, Connection

if TYPE_CHECKING:
    from ...sockhooks import Data

__all__ = ["Transfer"]

_OOB: Final = int(socket.MSG_OOB)
_PEEK: Final = int(socket.MSG_PEEK)
# What changes nothing here: who sends them sends as without.
_SEND_IGNORED: Final = int(socket.MSG_NOSIGNAL | socket.MSG_MORE | socket.MSG_DONTROUTE)

_SENDING: Final = (ESTABLISHED, CLOSE_WAIT)


class Transfer(Connection):
    """One end of a stream, as far as data go through it."""

    __slots__ = ()

    def mend(self) -> None:
        # What a call had taken by then is gone, as it is with recv(2); counts, masks and
        # what the peer may send are right again.
        touched: list[Pcb] = [self]
        with self.lock:
            self.recount()
            self.room_made(touched)
            self.refresh()
            peer = self.peer
            if peer is not None:
                peer.recount()
                peer.refresh()
                touched.append(peer)
        publish(*touched)

    def send_special(self, data: Data, flags: int) -> int:
        touched: list[Pcb] = []
        try:
            with self.lock:
                return self._send(data, flags & ~_SEND_IGNORED, touched)
        finally:
            publish(*touched)

    def _send(self, data: Data, flags: int, touched: list[Pcb]) -> int:
        """tcp_sendmsg(), every case."""
        self.check_up()
        if self.state not in _SENDING or self.error or self.shut & SND:
            if self.error:
                touched.append(self)
                raise oserror(self.take_error())
            if self.state == SYN_SENT:
                raise would_block()
            raise oserror(errno.EPIPE)
        if flags & ~_OOB:
            raise oserror(errno.EOPNOTSUPP)
        peer = self.peer
        assert peer is not None
        count = len(data)
        if not count:
            return 0
        if peer.orphan or (peer.state == FIN_WAIT and peer.shut & RCV):
            # Nobody will read it (TCPAbortOnData): a reset comes back.
            if flags & _OOB:
                peer.mark_urgent(bytes(data))
            peer.receive_reset(touched)
            self.receive_reset(touched)
            return count
        space = self.sndbuf + peer.rcvbuf - peer.used
        if space <= 0:
            raise would_block()
        count = min(count, space)
        if flags & _OOB:
            peer.mark_urgent(bytes(data[:count]))
        taken: Any = by_reference(data, count)
        peer.append(taken)
        peer.refresh()
        touched.append(peer)
        if peer is not self:
            self.refresh()
            touched.append(self)
        return count

    def recv(self, bufsize: int, flags: int) -> bytes:
        """Receive up to `bufsize` bytes, all that wait.  Raises as recv(2) does."""
        try:
            if not flags and bufsize:
                touched: list[Pcb] = []
                with self.lock:
                    before = self.used
                    if before and not self.urg and self.lowat == 1:
                        data = self.take(bufsize)
                        if not data:
                            # A signal handler has come in between and taken it.
                            raise would_block()
                        emptied = not self.used and not self.shut & RCV
                        if emptied:
                            self.mask &= ~R
                        if before > self.rcvbuf:
                            self.room_made(touched)
                    else:
                        data = b""
                if data:
                    if emptied:
                        self.show_cleared()
                    publish(*touched)
                    return data
            return self.recv_special(bufsize, flags)
        except OSError:
            raise
        except BaseException:
            self.mend()
            raise

    def recv_special(self, bufsize: int, flags: int) -> bytes:
        touched: list[Pcb] = []
        try:
            with self.lock:
                return self._recv(bufsize, flags, touched)
        finally:
            publish(*touched)

    def _recv(self, bufsize: int, flags: int, touched: list[Pcb]) -> bytes:
        """tcp_recvmsg(), every case."""
        self.check_up()
        if self.state == LISTEN:
            raise oserror(errno.ENOTCONN)
        if flags & _OOB:
            return self._recv_urgent(bufsize, flags, touched)
        if self.used:
            if not bufsize:
                return b""
            before = self.used
            if flags & _PEEK:
                data = self.peek_ordinary(bufsize)
            else:
                data = self.take_ordinary(bufsize)
                touched.append(self)
                if before > self.rcvbuf:
                    self.room_made(touched)
                self.refresh()
            if data:
                return data
        if self.fin == FIN_CAME:
            return b""
        if self.error:
            touched.append(self)
            raise oserror(self.take_error())
        if self.shut & RCV:
            return b""
        if self.state == CLOSE:
            raise oserror(errno.ENOTCONN)
        raise would_block()

    def _recv_urgent(self, bufsize: int, flags: int, touched: list[Pcb]) -> bytes:
        """tcp_recv_urg()"""
        if self.oobinline or self.urg != URG_VALID:
            raise oserror(errno.EINVAL)
        if self.state == CLOSE and self.fin != FIN_CAME:
            raise oserror(errno.ENOTCONN)
        byte = self.urg_byte
        if not flags & _PEEK:
            self.urg = URG_READ
            self.refresh()
            touched.append(self)
        return byte[:bufsize]
