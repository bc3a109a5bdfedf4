"""A network of two hosts on a serial line: frames, credit for what may be sent, an urgent byte."""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from vpoll_asyncio import EventMask, Stack, UserSocket, would_block

R = EventMask.IN | EventMask.RDNORM
W = EventMask.OUT | EventMask.WRNORM
RCV, SND, BOTH = 1, 2, 3
FRESH, LISTENING, CONNECTING, OPEN, DEAD = range(5)
SYN, ACK, DATA, URGENT, CREDIT, FIN, RST = range(7)
HEADER = struct.Struct("!BHHI")  # the kind, the receiver's port, the sender's, a number
WINDOW = 65536
FIONREAD, SIOCATMARK = 0x541B, 0x8905


def oserror(number: int) -> OSError:
    """Return the error that the kernel's call would raise."""
    return OSError(number, os.strerror(number))


class Line:
    """Two byte pipes, each with a host at its end."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pipes = bytearray(), bytearray()
        self.hosts: dict[int, SerialStack] = {}
        self.busy = False

    def deliver(self) -> None:
        """Hand over what is on the line, frame by frame, answers included."""
        if self.busy:
            return
        self.busy = True
        try:
            while any(self.pipes):
                for end, pipe in enumerate(self.pipes):
                    while pipe:
                        kind, to, sender, number = HEADER.unpack_from(pipe)
                        size = HEADER.size + (number if kind in (DATA, URGENT) else 0)
                        data = bytes(pipe[HEADER.size : size])
                        del pipe[:size]
                        if end in self.hosts:
                            self.hosts[end].frame(kind, to, sender, number, data)
        finally:
            self.busy = False


class SerialStack(Stack):
    """The host at one end of a line: 10.0.0.1 or 10.0.0.2."""

    name = "serial"

    def __init__(self, line: Line, end: int) -> None:
        self.line, self.end, self.address = line, end, f"10.0.0.{end + 1}"
        self.bound: WeakValueDictionary[int, SerialSocket] = WeakValueDictionary()
        self.connections: WeakValueDictionary[tuple[int, int], SerialSocket]
        self.connections = WeakValueDictionary()
        self.last = 49151
        line.hosts[end] = self

    def supported_domain(self, family: int) -> bool:
        return family == socket.AF_INET

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> SerialSocket:
        self.refuse_closed()
        if family != socket.AF_INET:
            raise oserror(errno.EAFNOSUPPORT)
        if type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) != socket.SOCK_STREAM:
            raise oserror(errno.ESOCKTNOSUPPORT)
        return SerialSocket(self, type, proto)

    @property
    def addresses(self) -> list[str]:
        return [f"{self.address}/24"]

    @property
    def closed(self) -> bool:
        return self.line.hosts.get(self.end) is not self

    def close(self) -> None:
        with self.line.lock:
            for sock in {*self.connections.values(), *self.bound.values()}:
                sock.abandon()
            self.line.deliver()
            if not self.closed:
                del self.line.hosts[self.end]

    def transmit(self, kind: int, to: int, sender: int, number: int = 0, data: bytes = b"") -> None:
        self.line.pipes[1 - self.end].extend(HEADER.pack(kind, to, sender, number) + data)

    def frame(self, kind: int, port: int, sender: int, number: int, data: bytes) -> None:
        """Take a frame from the line."""
        sock = self.connections.get((port, sender)) or self.bound.get(port)
        taken = sock is not None and sock.frame(kind, sender, number, data)
        if not taken and kind in (SYN, DATA, URGENT):
            self.transmit(RST, sender, port)


Self = TypeVar("Self", bound="SerialSocket")
P = ParamSpec("P")
T = TypeVar("T")


def hook(method: Callable[Concatenate[Self, P], T]) -> Callable[Concatenate[Self, P], T]:
    """Let `method` run under the line's lock, then show the mask and deliver the frames."""

    @functools.wraps(method)
    def call(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.host.line.lock:
            try:
                return method(self, *args, **kwargs)
            finally:
                self.show()
                self.host.line.deliver()

    return call


class SerialSocket(UserSocket):
    """A stream socket: the state of its end of the connection, and the hooks."""

    def __init__(self, host: SerialStack, type: int, proto: int = 0) -> None:
        self.host, self.local, self.port, self.peer = host, "0.0.0.0", 0, 0
        self.state, self.shut, self.error = FRESH, 0, 0
        self.told = self.fin_sent = self.fin_came = self.linger_zero = False
        self.buffer, self.window, self.granted, self.credit = bytearray(), WINDOW, 0, 0
        self.urgent, self.urgent_waits, self.mark = b"", False, -1
        self.queue: deque[SerialSocket] = deque()
        self.knocking: dict[int, int] = {}
        self.backlog = 0
        super().__init__(host, socket.AF_INET, type, proto, events=self.mask())

    # What is pending.

    def mask(self) -> int:
        """Return the events that Linux's socket would show: tcp_poll()."""
        if self.state == LISTENING:
            return R if self.queue else 0
        mask = 0
        if self.shut == BOTH or self.state in (FRESH, DEAD):
            mask |= EventMask.HUP
        if self.shut & RCV:
            mask |= R | EventMask.RDHUP
        if self.state != CONNECTING:
            if self.buffer:
                mask |= R
            if self.credit or self.shut & SND or self.state != OPEN:
                mask |= W
            if self.urgent_waits:
                mask |= EventMask.PRI
        if self.error:
            mask |= EventMask.ERR
        return mask

    def show(self, event: bool = False) -> None:
        """Show the mask when it has changed, or when there is something new for who waits."""
        if not self.vpoll.closed and (event or self.vpoll.peek() != self.mask()):
            self.vpoll.set_events(self.mask())

    # What comes from the line.

    def frame(self, kind: int, sender: int, number: int, data: bytes) -> bool:
        """Take a frame; return whether it was for this socket."""
        if self.state == LISTENING:
            if kind == SYN:
                self.knocking[sender] = number
                self.admit()
            elif kind == RST:
                self.knocking.pop(sender, None)
            self.show(event=True)
            return kind in (SYN, RST)
        if self.peer != sender or self.state not in (CONNECTING, OPEN):
            return False
        if kind == ACK:
            self.state, self.credit = OPEN, number
        elif kind == CREDIT:
            self.credit += number
        elif kind in (DATA, URGENT):
            self.arrive(kind, data)
        elif kind == FIN:
            self.fin_came = True
            self.shut |= RCV
        elif kind == RST:
            closing = errno.EPIPE if self.fin_came else errno.ECONNRESET
            self.over(errno.ECONNREFUSED if self.state == CONNECTING else closing)
        self.over_if_both_have()
        self.show(event=True)
        return True

    def arrive(self, kind: int, data: bytes) -> None:
        """Take data, of which the last byte may be urgent."""
        if kind == URGENT:
            if self.mark > 0:
                # One that has not been passed becomes ordinary.
                self.buffer[self.mark : self.mark] = self.urgent
            self.urgent, self.urgent_waits, data = data[-1:], True, data[:-1]
            self.mark = len(self.buffer) + len(data)
        if self.fin_sent and self.shut & RCV:
            # Nobody will read it.
            self.transmit(RST)
            self.over(errno.ECONNRESET)
        else:
            self.buffer += data
            self.granted -= len(data)

    def transmit(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        self.host.transmit(kind, self.peer, self.port, number, data)

    def grant(self) -> None:
        """Let the peer send as much as there is room for."""
        more = self.window - len(self.buffer) - self.granted
        if more > 0 and self.state == OPEN and not self.fin_came:
            self.granted += more
            self.transmit(CREDIT, more)

    def admit(self) -> None:
        """Let those in who knock, as long as there is room."""
        while self.knocking and len(self.queue) <= self.backlog:
            self.queue.append(child := SerialSocket(self.host, socket.SOCK_STREAM))
            child.peer = next(iter(self.knocking))
            child.credit = self.knocking.pop(child.peer)
            child.local, child.port, child.window = self.host.address, self.port, self.window
            child.state, child.granted, child.told = OPEN, self.window, True
            self.host.connections[child.port, child.peer] = child
            child.transmit(ACK, child.window)
            if self.shut:
                child.do_shutdown(self.shut - 1)
            child.show()

    def over(self, error: int = 0) -> None:
        """The connection is over, in both directions."""
        self.state, self.shut, self.error = DEAD, BOTH, error
        self.host.connections.pop((self.port, self.peer), None)

    def over_if_both_have(self) -> None:
        if self.state == OPEN and self.fin_came and self.fin_sent:
            self.over()

    # The hooks.

    @hook
    def do_bind(self, address: Any) -> None:
        if address[0] not in ("0.0.0.0", self.host.address):
            raise oserror(errno.EADDRNOTAVAIL)
        if self.port:
            raise oserror(errno.EINVAL)
        if address[1] in self.host.bound:
            raise oserror(errno.EADDRINUSE)
        self.take_port(address[1])
        self.local = address[0]

    def take_port(self, port: int = 0) -> None:
        while not port:
            self.host.last = 49152 + (self.host.last + 1) % 16384
            port = self.host.last if self.host.last not in self.host.bound else 0
        self.port = port
        self.host.bound[port] = self

    @hook
    def do_listen(self, backlog: int) -> None:
        if self.state not in (FRESH, LISTENING):
            raise oserror(errno.EINVAL)
        if not self.port:
            self.take_port()
        self.state, self.backlog = LISTENING, backlog

    @hook
    def do_accept(self) -> tuple[UserSocket, Any]:
        if self.state != LISTENING:
            raise oserror(errno.EINVAL)
        if not self.queue:
            raise would_block()
        child = self.queue.popleft()
        self.admit()
        return child, (f"10.0.0.{2 - self.host.end}", child.peer)

    @hook
    def do_connect(self, address: Any) -> None:
        if self.state == LISTENING or self.told:
            raise oserror(errno.EISCONN)
        if self.state == CONNECTING:
            raise oserror(errno.EALREADY)
        if self.state != FRESH:
            self.finish()
            return
        if address[0] != f"10.0.0.{2 - self.host.end}":
            raise oserror(errno.ENETUNREACH)
        if not self.port:
            self.take_port()
        self.local, self.peer, self.granted = self.host.address, address[1], self.window
        self.state = CONNECTING
        self.host.connections[self.port, self.peer] = self
        self.transmit(SYN, self.window)
        raise oserror(errno.EINPROGRESS)

    def finish(self) -> None:
        """Tell once how an attempt to connect has ended."""
        if self.state == OPEN:
            self.told = True
            return
        number = self.take_error() or errno.ECONNABORTED
        self.state, self.shut = FRESH, 0
        raise oserror(number)

    @hook
    def do_finish_connect(self) -> int:
        try:
            self.finish()
        except OSError as exc:
            return exc.errno or 0
        return 0

    def take_error(self) -> int:
        number, self.error = self.error, 0
        return number

    @hook
    def do_send(self, data: bytes | memoryview, flags: int, address: Any) -> int:
        if self.error:
            raise oserror(self.take_error())
        if self.state == CONNECTING:
            raise would_block()
        if self.state != OPEN or self.shut & SND:
            raise oserror(errno.EPIPE)
        if flags & ~(socket.MSG_OOB | socket.MSG_NOSIGNAL):
            raise oserror(errno.EOPNOTSUPP)
        if data and not self.credit:
            raise would_block()
        urgent = bool(flags & socket.MSG_OOB and 0 < len(data) <= self.credit)
        taken = bytes(data[: self.credit])
        if taken:
            self.credit -= len(taken) - urgent
            self.transmit(URGENT if urgent else DATA, len(taken), taken)
        return len(taken)

    @hook
    def do_recv(self, bufsize: int, flags: int) -> bytes:
        if self.state == LISTENING:
            raise oserror(errno.ENOTCONN)
        if flags & socket.MSG_OOB:
            if not self.urgent_waits:
                raise oserror(errno.EINVAL)
            if self.state == DEAD and not self.fin_came:
                raise oserror(errno.ENOTCONN)
            self.urgent_waits = bool(flags & socket.MSG_PEEK)
            return self.urgent
        if self.buffer:
            data = bytes(self.buffer[: min(bufsize, self.mark) if self.mark > 0 else bufsize])
            if not flags & socket.MSG_PEEK:
                self.pass_mark(len(data))
                del self.buffer[: len(data)]
                self.grant()
            return data
        if not flags & socket.MSG_PEEK:
            self.pass_mark(0)
        if self.fin_came:
            return b""
        if self.error:
            raise oserror(self.take_error())
        if self.shut & RCV:
            return b""
        raise oserror(errno.ENOTCONN) if self.state in (FRESH, DEAD) else would_block()

    def pass_mark(self, count: int) -> None:
        """What is read up to the urgent byte's place comes nearer to it; beyond, it is gone."""
        if self.mark > 0:
            self.mark -= count
        elif self.mark == 0:
            self.mark, self.urgent_waits = -1, False

    @hook
    def do_shutdown(self, how: int) -> None:
        how = (RCV, SND, BOTH)[how]
        if self.state == LISTENING and not how & RCV:
            return
        if self.state in (LISTENING, CONNECTING):
            self.error = errno.ECONNRESET if self.state == CONNECTING else 0
            self.leave()
            self.state = FRESH
            return
        self.shut |= how
        if self.state != OPEN:
            raise oserror(errno.ENOTCONN)
        if how & SND and not self.fin_sent:
            self.fin_sent = True
            self.transmit(FIN)
            self.over_if_both_have()

    def leave(self) -> None:
        """Tell everybody who is connected, or waits to be, that there is nobody any more."""
        if self.state == LISTENING:
            for child in self.queue:
                child.linger_zero = True
                child.close()
            self.queue.clear()
            for peer in self.knocking:
                self.host.transmit(RST, peer, self.port)
            self.knocking.clear()
        elif self.state == CONNECTING or self.buffer or self.mark >= 0 or self.linger_zero:
            self.transmit(RST)
        elif not self.fin_sent:
            self.transmit(FIN)
        self.host.connections.pop((self.port, self.peer), None)

    def abandon(self) -> None:
        """The stack is closed under the socket."""
        self.linger_zero = True
        if self.state in (LISTENING, CONNECTING, OPEN):
            self.leave()
        self.over(errno.ENETDOWN)
        self.show(event=True)

    @hook
    def do_close(self) -> None:
        if self.state in (LISTENING, CONNECTING, OPEN):
            self.leave()
        self.state = DEAD
        if self.host.bound.get(self.port) is self:
            del self.host.bound[self.port]

    @hook
    def do_getsockname(self) -> Any:
        return self.local, self.port

    @hook
    def do_getpeername(self) -> Any:
        if self.state != OPEN:
            raise oserror(errno.ENOTCONN)
        return f"10.0.0.{2 - self.host.end}", self.peer

    @hook
    def do_getsockopt(self, level: int, optname: int) -> int | bytes:
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return self.take_error()
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return int(self.state == LISTENING)
        return super().do_getsockopt(level, optname)

    @hook
    def do_setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_LINGER):
            assert isinstance(value, bytes)
            self.linger_zero = struct.unpack("ii", value) == (1, 0)
        elif (level, optname) == (socket.SOL_SOCKET, socket.SO_RCVBUF):
            assert isinstance(value, int)
            self.window = value
        elif (level, optname) != (socket.SOL_SOCKET, socket.SO_SNDBUF):
            # Nothing is kept by the sender.
            super().do_setsockopt(level, optname, value)

    @hook
    def do_ioctl(self, request: int, argument: Any) -> Any:
        if request == SIOCATMARK:
            return int(self.mark == 0)
        if request == FIONREAD and self.state != LISTENING:
            return min(self.mark, len(self.buffer)) if self.mark >= 0 else len(self.buffer)
        if request == FIONREAD:
            raise oserror(errno.EINVAL)
        return super().do_ioctl(request, argument)
