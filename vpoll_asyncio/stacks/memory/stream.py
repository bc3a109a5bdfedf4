"""The stream sockets of the memory stack."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data, would_block
from .addresses import external, internal, oserror
from .opening import StreamPcb
from .options import as_int, get_common, linger_bytes, linger_value, set_common
from .pcb import RCV, SND, Pcb, R, W, publish, show_cleared
from .queue import URG_READ, URG_VALID
from .tcp import (
    CLOSE,
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_CAME,
    FIN_WAIT,
    LISTEN,
    SYN_SENT,
)

if TYPE_CHECKING:
    from .stack import MemoryStack

__all__ = ["StreamSocket"]

_SOL: Final = int(socket.SOL_SOCKET)
_OOB: Final = int(socket.MSG_OOB)
_PEEK: Final = int(socket.MSG_PEEK)
# What changes nothing here: who sends them sends as without.
_SEND_IGNORED: Final = int(socket.MSG_NOSIGNAL | socket.MSG_MORE | socket.MSG_DONTROUTE)
_SOMAXCONN: Final = 4096

_FIONREAD: Final = 0x541B
_TIOCOUTQ: Final = 0x5411
_SIOCATMARK: Final = 0x8905

_SENDING: Final = frozenset((ESTABLISHED, CLOSE_WAIT))
_HOW: Final = {socket.SHUT_RD: RCV, socket.SHUT_WR: SND, socket.SHUT_RDWR: RCV | SND}


class StreamSocket(UserSocket):
    """A SOCK_STREAM socket of a `MemoryStack`."""

    __slots__ = ("pcb",)

    pcb: StreamPcb
    """The endpoint: of the memory stack, not for programs."""

    def __init__(
        self, stack: MemoryStack, family: int, type: int, proto: int, pcb: StreamPcb
    ) -> None:
        super().__init__(stack, family, type, proto, events=pcb.mask)
        self.pcb = pcb
        pcb.vpoll = self.vpoll
        # Between the two statements an event may have come.
        if self.vpoll.peek() != pcb.mask:
            publish(pcb)

    # Data.

    def _mend(self) -> None:
        """Set right what an exception out of a signal handler has left half done.

        What a call had taken by then is gone, as it is with recv(2); counts, masks and
        what the peer may send are right again.
        """
        pcb = self.pcb
        touched: list[Pcb] = [pcb]
        with pcb.lock:
            pcb.recount()
            pcb.room_made(touched)
            pcb.refresh()
            peer = pcb.peer
            if peer is not None:
                peer.recount()
                peer.refresh()
                touched.append(peer)
        publish(*touched)

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        pcb = self.pcb
        try:
            with pcb.lock:
                peer = pcb.peer
                if (
                    peer is None
                    or pcb.state not in _SENDING
                    or flags
                    or pcb.error
                    or pcb.shut & SND
                    or peer.shut & RCV
                    or peer.orphan
                ):
                    return self._send_special(data, flags)
                count = len(data)
                space = pcb.sndbuf + peer.rcvbuf - peer.used
                if count > space:
                    if space <= 0:
                        raise would_block()
                    data = data[:space]
                    count = space
                if not count:
                    return 0
                peer.append(data if type(data) is bytes else bytes(data))
                if peer.urg or peer.lowat > 1:
                    peer.refresh()
                else:
                    peer.mask |= R
                full = peer.used > peer.rcvbuf and not pcb.writable()
                if full:
                    pcb.mask &= ~W
            if full:
                show_cleared(pcb)
            vpoll = peer.vpoll
            if vpoll is not None:
                # What `show` does, of which this is the most frequent call.
                file = vpoll.file
                if file is None or file.pending is not None:
                    publish(peer)
                else:
                    mask = file.mask = peer.mask
                    for waiter in file.waiters:
                        waiter(mask)
                    if peer.mask != mask:
                        publish(peer)
            return count
        except OSError:
            raise
        except BaseException:
            self._mend()
            raise

    def _send_special(self, data: Data, flags: int) -> int:
        touched: list[Pcb] = []
        try:
            with self.pcb.lock:
                return self._send(data, flags & ~_SEND_IGNORED, touched)
        finally:
            publish(*touched)

    def _send(self, data: Data, flags: int, touched: list[Pcb]) -> int:
        """tcp_sendmsg(), every case."""
        pcb = self.pcb
        pcb.check_up()
        if pcb.state not in _SENDING or pcb.error or pcb.shut & SND:
            if pcb.error:
                touched.append(pcb)
                raise oserror(pcb.take_error())
            if pcb.state == SYN_SENT:
                raise would_block()
            raise oserror(errno.EPIPE)
        if flags & ~_OOB:
            raise oserror(errno.EOPNOTSUPP)
        peer = pcb.peer
        assert peer is not None
        count = len(data)
        if not count:
            return 0
        if peer.orphan or (peer.state == FIN_WAIT and peer.shut & RCV):
            # Nobody will read it (TCPAbortOnData): a reset comes back.
            if flags & _OOB:
                peer.mark_urgent(bytes(data))
            peer.receive_reset(touched)
            pcb.receive_reset(touched)
            return count
        space = pcb.sndbuf + peer.rcvbuf - peer.used
        if space <= 0:
            raise would_block()
        count = min(count, space)
        taken = bytes(data[:count])
        if flags & _OOB:
            peer.mark_urgent(taken)
        peer.append(taken)
        peer.refresh()
        touched.append(peer)
        if peer is not pcb:
            pcb.refresh()
            touched.append(pcb)
        return count

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        if not flags:
            return self.do_recv_some(bufsize, some=False)
        try:
            return self._recv_special(bufsize, flags)
        except OSError:
            raise
        except BaseException:
            self._mend()
            raise

    def do_recv_some(self, bufsize: int, some: bool = True) -> bytes:
        pcb = self.pcb
        try:
            with pcb.lock:
                before = pcb.used
                if not before or pcb.urg or pcb.lowat > 1:
                    return self._recv_special(bufsize, 0)
                data = pcb.take_some(bufsize) if some else pcb.take(bufsize)
                if not data:
                    # A signal handler has come in between and taken it.
                    raise would_block()
                emptied = not pcb.used and not pcb.shut & RCV
                if emptied:
                    pcb.mask &= ~R
                touched: list[Pcb] = []
                if before > pcb.rcvbuf:
                    pcb.room_made(touched)
            if emptied:
                show_cleared(pcb)
            if touched:
                publish(*touched)
            return data
        except OSError:
            raise
        except BaseException:
            self._mend()
            raise

    def _recv_special(self, bufsize: int, flags: int) -> bytes:
        touched: list[Pcb] = []
        try:
            with self.pcb.lock:
                return self._recv(bufsize, flags, touched)
        finally:
            publish(*touched)

    def _recv(self, bufsize: int, flags: int, touched: list[Pcb]) -> bytes:
        """tcp_recvmsg(), every case."""
        pcb = self.pcb
        pcb.check_up()
        if pcb.state == LISTEN:
            raise oserror(errno.ENOTCONN)
        if flags & _OOB:
            return self._recv_urgent(bufsize, flags, touched)
        if pcb.used:
            before = pcb.used
            if flags & _PEEK:
                data = pcb.peek_ordinary(bufsize)
            else:
                data = pcb.take_ordinary(bufsize)
                touched.append(pcb)
                if before > pcb.rcvbuf:
                    pcb.room_made(touched)
                pcb.refresh()
            if data:
                return data
        if pcb.fin == FIN_CAME:
            return b""
        if pcb.error:
            touched.append(pcb)
            raise oserror(pcb.take_error())
        if pcb.shut & RCV:
            return b""
        if pcb.state == CLOSE:
            raise oserror(errno.ENOTCONN)
        raise would_block()

    def _recv_urgent(self, bufsize: int, flags: int, touched: list[Pcb]) -> bytes:
        """tcp_recv_urg()"""
        pcb = self.pcb
        if pcb.oobinline or pcb.urg != URG_VALID:
            raise oserror(errno.EINVAL)
        if pcb.state == CLOSE and pcb.fin != FIN_CAME:
            raise oserror(errno.ENOTCONN)
        byte = pcb.urg_byte
        if not flags & _PEEK:
            pcb.urg = URG_READ
            pcb.refresh()
            touched.append(pcb)
        return byte[:bufsize]

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        return self.do_recv(bufsize, flags), flags & _OOB, None

    # Connections.

    def do_bind(self, address: Address) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.check_up()
            pcb.bind(*internal(self.family, address))

    def do_listen(self, backlog: int) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.check_up()
            pcb.listen(min(backlog, _SOMAXCONN))
        publish(pcb)

    def do_accept(self) -> tuple[UserSocket, Address]:
        pcb = self.pcb
        touched: list[Pcb] = []
        with pcb.lock:
            pcb.check_up()
            child = pcb.accept(touched)
            connection = StreamSocket(self._memory(), self.family, self.type, self.proto, child)
            peer = external(self.family, child.raddr, child.rport)
        publish(*touched)
        return connection, peer

    def _memory(self) -> MemoryStack:
        stack: Any = self.stack
        return stack  # type: ignore[no-any-return]

    def do_connect(self, address: Address) -> None:
        pcb = self.pcb
        touched: list[Pcb] = []
        try:
            with pcb.lock:
                pcb.check_up()
                pcb.connect(*internal(self.family, address), touched)
        finally:
            publish(*touched)

    def do_finish_connect(self) -> int:
        pcb = self.pcb
        touched: list[Pcb] = []
        try:
            with pcb.lock:
                pcb.finish_connect(touched)
        except OSError as exc:
            return exc.errno or 0
        finally:
            publish(*touched)
        return 0

    def do_shutdown(self, how: int) -> None:
        pcb = self.pcb
        touched: list[Pcb] = []
        try:
            with pcb.lock:
                pcb.check_up()
                pcb.shutdown(_HOW[how], touched)
        finally:
            publish(*touched)

    def do_close(self) -> None:
        pcb = self.pcb
        touched: list[Pcb] = []
        with pcb.lock:
            pcb.close(touched)
        publish(*touched)

    def do_getsockname(self) -> Address:
        pcb = self.pcb
        return external(self.family, pcb.laddr, pcb.lport)

    def do_getpeername(self) -> Address:
        pcb = self.pcb
        with pcb.lock:
            if not pcb.rport or pcb.state in (CLOSE, SYN_SENT):
                raise oserror(errno.ENOTCONN)
            return external(self.family, pcb.raddr, pcb.rport)

    # Options.

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        pcb = self.pcb
        with pcb.lock:
            before = pcb.mask
            if level == _SOL and optname == socket.SO_LINGER:
                return linger_bytes(pcb.linger)
            if level == _SOL and optname == socket.SO_ACCEPTCONN:
                return int(pcb.listening)
            if level == _SOL and optname == socket.SO_OOBINLINE:
                return int(pcb.oobinline)
            if level == _SOL and optname == socket.SO_RCVLOWAT:
                return pcb.lowat
            value = get_common(pcb, level, optname, stream=True)
            changed = pcb.mask != before
        if changed:
            publish(pcb)
        return value

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        pcb = self.pcb
        touched: list[Pcb] = [pcb]
        with pcb.lock:
            if level == _SOL and optname == socket.SO_LINGER:
                pcb.linger = linger_value(value)
            elif level == _SOL and optname == socket.SO_OOBINLINE:
                pcb.oobinline = bool(as_int(value))
                pcb.refresh()
            elif level == _SOL and optname == socket.SO_RCVLOWAT:
                pcb.lowat = max(1, min(as_int(value), pcb.rcvbuf))
                pcb.refresh()
            else:
                set_common(pcb, level, optname, value, stream=True)
                if level == _SOL and optname == socket.SO_RCVBUF:
                    pcb.room_made(touched)
        publish(*touched)

    def do_ioctl(self, request: int, argument: Any) -> Any:
        pcb = self.pcb
        with pcb.lock:
            if request == _SIOCATMARK:
                return int(pcb.at_mark())
            if request not in (_FIONREAD, _TIOCOUTQ):
                return super().do_ioctl(request, argument)
            if pcb.state == LISTEN:
                raise oserror(errno.EINVAL)
            if request == _TIOCOUTQ:
                peer = pcb.peer
                return 0 if peer is None else max(0, peer.used - peer.rcvbuf)
            return pcb.waiting()
