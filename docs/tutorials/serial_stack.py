"""A network of two hosts on a serial line: frames, credit for what may be sent, an urgent byte."""

from __future__ import annotations

import errno
import os
import socket
import struct

from vpoll_asyncio import EventMask, Stack
from vpoll_asyncio.stacks.streams import StreamLock, StreamSocket, StreamState, StreamTable

R = EventMask.IN | EventMask.RDNORM
W = EventMask.OUT | EventMask.WRNORM
SYN, ACK, DATA, URGENT, CREDIT, FIN, RST = range(7)
HEADER = struct.Struct("!BHHI")  # the kind, the receiver's port, the sender's, a number


class Line:
    """Two byte pipes, each with a host at its end."""

    def __init__(self) -> None:
        self.lock = StreamLock(self.deliver)
        self.pipes = bytearray(), bytearray()
        self.hosts: dict[int, SerialStack] = {}

    def deliver(self) -> None:
        """Hand over what is on the line, frame by frame, answers included."""
        while any(self.pipes):
            for end, pipe in enumerate(self.pipes):
                while pipe:
                    kind, to, sender, number = HEADER.unpack_from(pipe)
                    size = HEADER.size + (number if kind in (DATA, URGENT) else 0)
                    data = bytes(pipe[HEADER.size : size])
                    del pipe[:size]
                    if end in self.hosts:
                        self.hosts[end].frame(kind, to, sender, number, data)


class SerialStack(Stack):
    """The host at one end of a line: 10.0.0.1 or 10.0.0.2."""

    name = "serial"

    def __init__(self, line: Line, end: int) -> None:
        self.line, self.end = line, end
        self.address, self.peer = f"10.0.0.{end + 1}", f"10.0.0.{2 - end}"
        self.table = StreamTable([self.address], line.lock)
        line.hosts[end] = self

    def supported_domain(self, family: int) -> bool:
        return family == socket.AF_INET

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> SerialSocket:
        self.refuse_closed()
        return SerialSocket(self, self.table, family, type, proto)

    @property
    def addresses(self) -> list[str]:
        return [f"{self.address}/24"]

    @property
    def closed(self) -> bool:
        return self.table.closed

    def close(self) -> None:
        self.table.close()
        self.line.hosts.pop(self.end, None)

    def transmit(self, kind: int, to: int, sender: int, number: int = 0, data: bytes = b"") -> None:
        self.line.pipes[1 - self.end].extend(HEADER.pack(kind, to, sender, number) + data)

    def frame(self, kind: int, port: int, sender: int, number: int, data: bytes) -> None:
        """Take a frame from the line."""
        local, remote = (self.address, port), (self.peer, sender)
        sock = self.table.find(local, remote)
        if sock is None:
            taken = False
        elif kind == SYN:
            taken = sock.knocked(local, remote, number)
        elif kind == ACK:
            taken = sock.connected(number)
        elif kind == CREDIT:
            taken = sock.credited(number)
        elif kind in (DATA, URGENT):
            taken = sock.received(data, urgent=kind == URGENT)
        else:
            taken = sock.peer_shut() if kind == FIN else sock.peer_reset()
        if not taken and kind in (SYN, DATA, URGENT):
            self.transmit(RST, sender, port)


class SerialSocket(StreamSocket):
    """A stream socket: what it sends, and which events are pending."""

    stack: SerialStack

    def transmit(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        self.stack.transmit(kind, self.remote[1], self.local[1], number, data)

    def send_syn(self) -> None:
        self.transmit(SYN, self.window)

    def send_ack(self) -> None:
        self.transmit(ACK, self.window)

    def send_data(self, data: bytes) -> None:
        self.transmit(DATA, len(data), data)

    def send_urgent(self, data: bytes) -> None:
        self.transmit(URGENT, len(data), data)

    def send_credit(self, count: int) -> None:
        self.transmit(CREDIT, count)

    def send_fin(self) -> None:
        self.transmit(FIN)

    def send_rst(self) -> None:
        self.transmit(RST)

    def source(self, host: str) -> str:
        if host != self.stack.peer:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return self.stack.address

    def mask(self) -> int:
        """Return the events that Linux's socket would show: tcp_poll()."""
        if self.state is StreamState.LISTEN:
            return R if self.queue else 0
        mask = 0
        if self.state is StreamState.CLOSED or (self.rcv_shutdown and self.send_shutdown):
            mask |= EventMask.HUP
        if self.rcv_shutdown:
            mask |= R | EventMask.RDHUP
        if self.state in (StreamState.ESTABLISHED, StreamState.CLOSED):
            if self.buffer:
                mask |= R
            if self.credit or self.send_shutdown or self.state is StreamState.CLOSED:
                mask |= W
            if self.buffer.urgent_waits:
                mask |= EventMask.PRI
        if self.error:
            mask |= EventMask.ERR
        return mask
