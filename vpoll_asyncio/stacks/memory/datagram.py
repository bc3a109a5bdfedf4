"""The datagram sockets of the memory stack."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data
from .addresses import destination, external, local, oserror
from .options import as_int, get_common, linger_bytes, linger_value, set_common
from .pcb import RCV, SND, Pcb, publish
from .udp import Datagram, DatagramPcb

if TYPE_CHECKING:
    from .stack import MemoryStack

__all__ = ["DatagramSocket"]

_SOL: Final = int(socket.SOL_SOCKET)
_OOB: Final = int(socket.MSG_OOB)
_PEEK: Final = int(socket.MSG_PEEK)
_TRUNC: Final = int(socket.MSG_TRUNC)

_FIONREAD: Final = 0x541B
_TIOCOUTQ: Final = 0x5411

# What Linux keeps for every socket, and only streams heed.
_WITHOUT_EFFECT: Final[dict[int, int | bytes]] = {
    socket.SO_LINGER: bytes(8),
    socket.SO_OOBINLINE: 0,
    socket.SO_RCVLOWAT: 1,
}

_HOW: Final = {socket.SHUT_RD: RCV, socket.SHUT_WR: SND, socket.SHUT_RDWR: RCV | SND}


class DatagramSocket(UserSocket):
    """A SOCK_DGRAM socket of a `MemoryStack`."""

    __slots__ = ("pcb",)

    pcb: DatagramPcb
    """The endpoint: of the memory stack, not for programs."""

    def __init__(
        self, stack: MemoryStack, family: int, type: int, proto: int, pcb: DatagramPcb
    ) -> None:
        super().__init__(stack, family, type, proto, events=pcb.mask)
        self.pcb = pcb
        pcb.vpoll = self.vpoll

    def _next(self, flags: int) -> Datagram:
        pcb = self.pcb
        before = pcb.mask
        try:
            with pcb.lock:
                before = pcb.mask
                pcb.check_up()
                if flags & _OOB:
                    raise oserror(errno.EOPNOTSUPP)
                try:
                    return pcb.next(bool(flags & _PEEK))
                except BlockingIOError:
                    if pcb.shut & RCV and self.gettimeout() != 0.0:
                        # Who would wait is told the end; who would not, EAGAIN.
                        return b"", "", 0
                    raise
        finally:
            if pcb.mask != before:
                publish(pcb)

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        return self._next(flags)[0][:bufsize]

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        data, host, port = self._next(flags)
        msg_flags = _TRUNC if len(data) > bufsize else 0
        sender = external(self.family, host, port) if host else None
        return data[:bufsize], msg_flags, sender

    def do_recv_into(self, buffer: memoryview, flags: int) -> int:
        data = self._next(flags)[0]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        return len(data) if flags & _TRUNC else count

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        pcb = self.pcb
        touched: list[Pcb] = []
        if flags & _OOB:
            raise oserror(errno.EOPNOTSUPP)
        target = None if address is None else destination(self.family, address)
        try:
            with pcb.lock:
                pcb.check_up()
                pcb.send_to(data if type(data) is bytes else bytes(data), target, touched)
        finally:
            publish(*touched)
        return len(data)

    def do_bind(self, address: Address) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.check_up()
            pcb.bind(*local(self.family, address))

    def do_connect(self, address: Address) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.check_up()
            pcb.connect(*destination(self.family, address, pcb.laddr))

    def do_shutdown(self, how: int) -> None:
        pcb = self.pcb
        try:
            with pcb.lock:
                pcb.check_up()
                pcb.shutdown(_HOW[how])
        finally:
            publish(pcb)

    def do_close(self) -> None:
        pcb = self.pcb
        with pcb.lock:
            pcb.close()

    def do_getsockname(self) -> Address:
        pcb = self.pcb
        return external(self.family, pcb.laddr, pcb.lport)

    def do_getpeername(self) -> Address:
        pcb = self.pcb
        with pcb.lock:
            if not pcb.rport:
                raise oserror(errno.ENOTCONN)
            return external(self.family, pcb.raddr, pcb.rport)

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        pcb = self.pcb
        with pcb.lock:
            before = pcb.mask
            if level == _SOL and optname == socket.SO_ACCEPTCONN:
                return 0
            if level == _SOL and optname in _WITHOUT_EFFECT:
                return (pcb.options or {}).get((level, optname), _WITHOUT_EFFECT[optname])
            value = get_common(pcb, level, optname, stream=False)
            changed = pcb.mask != before
        if changed:
            publish(pcb)
        return value

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        pcb = self.pcb
        with pcb.lock:
            if level != _SOL or optname not in _WITHOUT_EFFECT:
                set_common(pcb, level, optname, value, stream=False)
                return
            kept: int | bytes
            if optname == socket.SO_LINGER:
                kept = linger_bytes(linger_value(value))
            elif optname == socket.SO_OOBINLINE:
                kept = int(bool(as_int(value)))
            else:
                kept = as_int(value) or 1
            if pcb.options is None:
                pcb.options = {}
            pcb.options[level, optname] = kept

    def do_ioctl(self, request: int, argument: Any) -> Any:
        pcb = self.pcb
        with pcb.lock:
            if request == _FIONREAD:
                return len(pcb.queue[0][0]) if pcb.queue else 0
            if request == _TIOCOUTQ:
                return 0
        return super().do_ioctl(request, argument)
