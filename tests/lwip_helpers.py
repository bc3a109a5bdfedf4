"""An lwIP stack on a wire whose other end is the test itself."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator

from lwip_frames import MAC, PEER_MAC, arp, ethernet, frame, icmp, packed
from memory_helpers import Lab
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import WireLink, wire_pair
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.lwip import LwipStack

HOST4, PEER4 = "10.0.0.1", "10.0.0.2"
HOST6, PEER6 = "fd00::1", "fd00::2"


class Peer:
    """The other end of the wire: sends frames made by hand, answers for its addresses."""

    def __init__(self, stack: LwipStack, link: WireLink) -> None:
        self.stack = stack
        self.link = link
        self.seen: list[bytes] = []
        self._kept: list[socket.socket] = []

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close `sock` at the end; it is non-blocking from now on."""
        sock.setblocking(False)
        self._kept.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._kept:
            sock.close()

    def drive(self) -> None:
        """Let the stack take what waits on the wire."""
        near = self.stack.link
        assert isinstance(near, WireLink)
        self.stack.core.turn(True)
        while near.pollable.peek() & EventMask.IN:
            self.stack.core.turn(True)

    @staticmethod
    def answer(received: bytes) -> bytes | None:
        """The reply to a question for a hardware address, None to anything else."""
        if received[12:14] == b"\x08\x06" and received[20:22] == b"\0\1":
            wanted = str(ipaddress.ip_address(received[38:42]))
            asker = str(ipaddress.ip_address(received[28:32]))
            return ethernet(arp(2, wanted, asker), 0x0806) if wanted != asker else None
        if len(received) < 78:
            return None
        if received[12:14] == b"\x86\xdd" and received[20] == 58 and received[54] == 135:
            wanted = str(ipaddress.ip_address(received[62:78]))
            asker = str(ipaddress.ip_address(received[22:38]))
            if wanted != asker:
                rest = b"\x60\0\0\0" + packed(wanted) + b"\2\1" + PEER_MAC
                return frame(icmp(136, 0, rest, wanted, asker))
        return None

    def reply(self, received: bytes) -> bytes | None:
        """What comes back at once for a frame of the stack's: `answer`, unless overridden."""
        return self.answer(received)

    def send(self, *frames: bytes) -> list[bytes]:
        """Send `frames`; return what the stack sent until it had no more to say.

        Questions for hardware addresses are answered, and are among what is returned.
        """
        waiting = list(frames)
        answered: list[bytes] = []
        while True:
            while waiting:
                del waiting[: self.link.send_batch(waiting[:256])]
                self.drive()
            received: list[bytes] = []
            while batch := self.link.recv_batch(4096):
                received += batch
                # The wire may have been full.
                self.stack.core.turn(False)
            answered += received
            waiting = [answer for one in received if (answer := self.reply(one))]
            if not waiting:
                self.seen += answered
                return answered


@contextlib.contextmanager
def lwip_on_wire(**options: object) -> Iterator[Peer]:
    """Open an lwIP stack with addresses of both families, and a peer for it."""
    near, far = wire_pair()
    with far:
        settings = {"ip": [f"{HOST4}/24", f"{HOST6}/64"], "mac": MAC, **options}
        with open_stack("lwip", link=near, **settings) as stack:
            assert isinstance(stack, LwipStack)
            peer = Peer(stack, far)
            peer.send()
            try:
                yield peer
            finally:
                peer.close()


def each(found: list[bytes], wanted: Callable[[bytes], bool]) -> list[bytes]:
    """Those frames of `found` that `wanted` accepts."""
    return [one for one in found if wanted(one)]


@contextlib.contextmanager
def lab_on(stack: str) -> Iterator[Lab]:
    """Give a lab on ``"lwip"`` or on the kernel's own stack, ``"host"``."""
    with lwip_on_wire() as peer:
        lab = Lab(peer.stack if stack == "lwip" else host_stack())
        try:
            yield lab
        finally:
            lab.close()
