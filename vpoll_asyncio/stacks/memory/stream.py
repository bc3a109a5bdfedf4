"""The stream sockets of the memory stack."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data, StreamStart
from .addresses import destination, external, local, oserror
from .opening import StreamPcb
from .options import (
    JUST_NODELAY,
    as_int,
    get_common,
    linger_bytes,
    linger_value,
    set_common,
)
from .pcb import RCV, SND, Pcb, publish
from .tcp import (
    CLOSE,
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    SYN_SENT,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stack import MemoryStack

__all__ = ["StreamSocket"]

_SOL: Final = int(socket.SOL_SOCKET)
_TCP: Final = int(socket.IPPROTO_TCP)
_NODELAY: Final = int(socket.TCP_NODELAY)
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
        mask = pcb.mask
        UserSocket.__init__(self, stack, family, type, proto, events=mask)
        self.pcb = pcb
        pcb.vpoll = self.vpoll
        # Between the two statements an event may have come.
        if mask != pcb.mask:
            publish(pcb)

    # Data.

    def stream_calls(self) -> tuple[Callable[[int], bytes], Callable[[Data, int, None], int]]:
        return self.pcb.recv_some, self.pcb.send

    def begin_stream(self, peername: Address | None) -> StreamStart:
        pcb = self.pcb
        if pcb.options is None:
            pcb.options = JUST_NODELAY
        elif pcb.options is not JUST_NODELAY:
            self.do_setsockopt(_TCP, _NODELAY, 1)
        family = self._family
        sockname = external(family, pcb.laddr, pcb.lport)
        if peername is None:
            # As `do_getpeername`: between these looks there is no call.
            host, port, state = pcb.raddr, pcb.rport, pcb.state
            if port and state not in (CLOSE, SYN_SENT):
                peername = external(family, host, port)
        return pcb.recv_some, pcb.send, sockname, peername

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        return self.pcb.send(data, flags)

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        return self.pcb.recv(bufsize, flags)

    def do_recv_some(self, bufsize: int) -> bytes:
        return self.pcb.recv_some(bufsize)

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        return self.do_recv(bufsize, flags), flags & _OOB, None

    # Connections.

    def do_bind(self, address: Address) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.check_up()
            pcb.bind(*local(self.family, address))

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
            family = self._family
            connection = StreamSocket(self._memory(), family, self._type, self._proto, child)
            peer = external(family, child.raddr, child.rport)
        publish(*touched)
        return connection, peer

    def _memory(self) -> MemoryStack:
        stack: Any = self.stack
        return stack  # type: ignore[no-any-return]

    def do_connect(self, address: Address) -> None:
        if not self.begin_connect(address):
            raise oserror(errno.EINPROGRESS)

    def begin_connect(self, address: Address) -> bool:
        pcb = self.pcb
        touched: list[Pcb] = []
        try:
            with pcb.lock:
                pcb.check_up()
                return pcb.begin(*destination(self._family, address, pcb.laddr), touched)
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
        if level != _SOL:
            with pcb.lock:
                set_common(pcb, level, optname, value, stream=True)
            return
        touched: list[Pcb] = [pcb]
        with pcb.lock:
            if optname == socket.SO_LINGER:
                pcb.linger = linger_value(value)
            elif optname == socket.SO_OOBINLINE:
                pcb.oobinline = bool(as_int(value))
                pcb.refresh()
            elif optname == socket.SO_RCVLOWAT:
                pcb.lowat = max(1, min(as_int(value), pcb.rcvbuf))
                pcb.refresh()
            else:
                set_common(pcb, level, optname, value, stream=True)
                if optname == socket.SO_RCVBUF:
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
