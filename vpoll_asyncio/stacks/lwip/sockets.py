"""The sockets of the lwIP stack."""

from __future__ import annotations

import errno
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...sockaddr import Address
from ...sockets import UserSocket
from ...sockhooks import Data, StreamStart, would_block
from .addresses import raise_errno

if TYPE_CHECKING:
    from .stack import LwipStack

__all__ = ["LwipSocket"]

# Plain ints: an IntFlag's operators are Python, a tenth of what a short message costs.
_MSG_OOB: Final = int(socket.MSG_OOB)
_MSG_PEEK: Final = int(socket.MSG_PEEK)
_MSG_TRUNC: Final = int(socket.MSG_TRUNC)

_PEEK: Final = 1
_TRUNC: Final = 2
_WAIT: Final = 4
_EAGAIN: Final = -errno.EAGAIN
_FIONREAD: Final = termios.FIONREAD
_MAX: Final = 0xFFFF


class LwipSocket(UserSocket):
    """A TCP or UDP socket of `LwipStack`; made by its `socket` method, or by `accept`.

    Where it differs from the kernel's: there is no urgent data (MSG_OOB is EOPNOTSUPP
    to send and EINVAL to receive), a stream's receive window is 65,535 bytes whatever
    SO_RCVBUF says, SO_SNDBUF is kept between 4,096 and 262,144, closing with a linger
    time above zero does not wait, and a link-local address needs no scope where the stack
    has one interface.
    """

    __slots__ = ("_handle",)

    stack: LwipStack

    def __init__(
        self, stack: LwipStack, handle: int, family: int, type: int, proto: int, events: int
    ) -> None:
        super().__init__(stack, family, type, proto, events=events)
        self._handle = handle
        stack.core.register(handle, self.vpoll)

    @property
    def handle(self) -> int:
        """The number by which the C side knows the socket; never used again."""
        return self._handle

    def _native_flags(self, flags: int) -> int:
        waits = 0 if self.gettimeout() == 0.0 else _WAIT
        return waits | (_PEEK if flags & _MSG_PEEK else 0)

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        if flags & _MSG_OOB:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        count, data, _ = self.stack.core.receive(
            self._handle, min(bufsize, _MAX), self._native_flags(flags)
        )
        if count == _EAGAIN:
            raise would_block()
        raise_errno(count)
        return data

    def do_recv_some(self, bufsize: int) -> bytes:
        return self.stack.core.stream(self, self._handle).receive(bufsize)

    def stream_calls(self) -> tuple[Callable[[int], bytes], Callable[[Data, int, None], int]]:
        stream = self.stack.core.stream(self, self._handle)
        return stream.receive, stream.send

    def begin_stream(self, peername: Address | None) -> StreamStart:
        sockname = None
        try:
            sockname = self.stack.core.begin(self._handle)
            if peername is None:
                peername = self.do_getpeername()
        except OSError:
            pass
        return *self.stream_calls(), sockname, peername

    def do_recvfrom(self, bufsize: int, flags: int) -> tuple[bytes, int, Address | None]:
        if self._type == socket.SOCK_STREAM:
            return self.do_recv(bufsize, flags), 0, None
        if flags & _MSG_OOB:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        count, data, sender = self.stack.core.receive(
            self._handle, min(bufsize, _MAX), _TRUNC | self._native_flags(flags)
        )
        if count == _EAGAIN:
            raise would_block()
        raise_errno(count)
        return data, socket.MSG_TRUNC if count > len(data) else 0, sender

    def do_recv_into(self, buffer: memoryview, flags: int) -> int:
        if flags & _MSG_OOB or len(buffer) == 0:
            return super().do_recv_into(buffer, flags)
        wanted = _TRUNC if flags & _MSG_TRUNC else 0
        count = self.stack.core.receive_into(
            self._handle, buffer, self._native_flags(flags) | wanted
        )
        if count == _EAGAIN:
            raise would_block()
        raise_errno(count)
        return count

    def do_send(self, data: Data, flags: int, address: Address | None) -> int:
        if flags & _MSG_OOB:
            raise OSError(errno.EOPNOTSUPP, "lwIP has no urgent data")
        count = self.stack.core.send(self._handle, data, address)
        if count >= 0:
            return count
        if count == _EAGAIN:
            raise would_block()
        raise OSError(-count, os.strerror(-count))

    def do_bind(self, address: Address) -> None:
        raise_errno(self.stack.core.call("vp_bind", self._handle, address))

    def do_connect(self, address: Address) -> None:
        raise_errno(self.stack.core.call("vp_connect", self._handle, address))

    def do_finish_connect(self) -> int:
        return self.stack.core.finish_connect(self._handle)

    def do_listen(self, backlog: int) -> None:
        raise_errno(self.stack.core.call("vp_listen", self._handle, backlog))

    def do_accept(self) -> tuple[UserSocket, Address]:
        handle, peer, events = self.stack.core.accept(self._handle)
        if handle == _EAGAIN:
            raise would_block()
        raise_errno(handle)
        child = LwipSocket(self.stack, handle, self._family, self._type, self._proto, events)
        return child, peer

    def do_shutdown(self, how: int) -> None:
        raise_errno(self.stack.core.call("vp_shutdown", self._handle, how))

    def do_close(self) -> None:
        self.stack.core.forget(self._handle)

    def do_getsockname(self) -> Address:
        return self.stack.core.name_of("vp_sockname", self._handle)

    def do_getpeername(self) -> Address:
        return self.stack.core.name_of("vp_peername", self._handle)

    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        if level == socket.SOL_SOCKET and optname == socket.SO_BINDTODEVICE:
            index = self.stack.options.device(self._handle)
            return self.stack.if_indextoname(index).encode() + b"\0" if index else b""
        try:
            return self.stack.options.get(self._handle, level, optname)
        finally:
            self.stack.core.settle()

    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        if level == socket.SOL_SOCKET and optname == socket.SO_BINDTODEVICE:
            self._bind_to_device(value)
            return
        self.stack.options.set(self._handle, level, optname, value)
        self.stack.core.settle()

    def _bind_to_device(self, value: int | bytes) -> None:
        if isinstance(value, int):
            value = value.to_bytes(4, sys.byteorder, signed=True)
        name = value.partition(b"\0")[0].decode(errors="replace")
        index = self.stack.if_nametoindex(name) if name else 0
        self.stack.options.set_device(self._handle, index)
        self.stack.core.settle()

    def do_ioctl(self, request: int, argument: Any) -> Any:
        if request != _FIONREAD:
            return super().do_ioctl(request, argument)
        return self.stack.core.available(self._handle)
