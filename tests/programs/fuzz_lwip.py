"""Feed a stack FRAMES mutated frames from SEED on, while its sockets are used.

Prints ``done`` and what the stack counted.  Whoever started it sees how it ended: an
assertion of lwIP's aborts the process.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import resource
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lwip_frames import ACK, SYN, frame, parse_tcp, tcp, udp
from lwip_fuzz import Mutator, captured
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, each, lwip_on_wire

ECHO, DISCARD = 80, 53
_BATCH = 64
# Frames after which listeners are made anew.
_LIFE = 4096


class Victims:
    """The sockets of the stack that the frames are for."""

    def __init__(self, peer: Peer, pick: random.Random) -> None:
        self._peer = peer
        self._pick = pick
        stack = peer.stack
        self._listener = stack.socket(socket.AF_INET6)
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("::", ECHO))
        self._listener.listen(64)
        self._sink = stack.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._sink.setblocking(False)
        self._sink.bind(("::", DISCARD))
        self._accepted: list[socket.socket] = []

    def connections(self) -> list[tuple[bool, int, int, int]]:
        """Open some by hand; return (IPv6?, port, seq, ack) of each."""
        made = []
        for number in range(8):
            six = number % 2 == 1
            me, host = (PEER6 if six else PEER4, 0), (HOST6 if six else HOST4, ECHO)
            me = me[0], self._pick.randrange(1024, 65536)
            options = b"\x02\x04\x05\xb4" if number < 6 else b"\x02\x04\x00\x20"
            seq = self._pick.getrandbits(32)
            sent = self._peer.send(frame(tcp(me, host, SYN, seq, options=options)))
            for answer in map(parse_tcp, sent):
                if answer and answer["dport"] == me[1] and answer["flags"] == SYN | ACK:
                    ack = int(answer["seq"]) + 1
                    self._peer.send(frame(tcp(me, host, ACK, seq + 1, ack)))
                    made.append((six, me[1], seq + 1, ack))
        return made

    def use(self) -> None:
        """Do what a program does: accept, receive, send, and now and then close."""
        pick = self._pick
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted = self._listener.accept()[0]
                accepted.setblocking(False)
                self._accepted.append(accepted)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = self._sink.recvfrom(65536)
                with contextlib.suppress(OSError):
                    self._sink.sendto(data[:1000], sender)
        for sock in self._accepted[:]:
            # Some are slow, so that their windows close.
            if pick.random() < 0.3:
                continue
            try:
                sock.send(sock.recv(pick.choice((1, 100, 70000))) or b"x")
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in (
                    errno.EPIPE,
                    errno.ECONNRESET,
                    errno.ETIMEDOUT,
                    errno.ECONNABORTED,
                    errno.EHOSTUNREACH,
                    errno.ENETUNREACH,
                ):
                    raise
                self._drop(sock)
        if self._accepted and pick.random() < 0.05:
            self._drop(pick.choice(self._accepted))

    def _drop(self, sock: socket.socket) -> None:
        self._accepted.remove(sock)
        sock.close()

    def alive(self) -> None:
        """Check that the stack still answers, by both families."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._sink.recv(65536)
        for host, other in ((HOST4, PEER4), (HOST6, PEER6)):
            self._peer.seen.clear()
            # What is known of the peer may be a lie by now.
            for _ in range(20):
                self._peer.send(frame(udp((other, 4000), (host, DISCARD), b"still there?")))
                with contextlib.suppress(OSError):
                    while True:
                        data, sender = self._sink.recvfrom(100)
                        self._sink.sendto(b"yes" + data[:0], sender)
                self._peer.send()
                if each(self._peer.seen, lambda got: got.endswith(b"yes")):
                    break
                self._peer.stack.skip_time(10)
            else:
                raise AssertionError(f"{host} answers nobody any more")

    def close(self) -> None:
        self._listener.close()
        self._sink.close()
        for sock in self._accepted:
            sock.close()


def followed(
    connections: list[tuple[bool, int, int, int]], frames: list[bytes]
) -> list[tuple[bool, int, int, int]]:
    """Return the connections as far as the stack's answers say that they have come."""
    latest = {segment["dport"]: segment for segment in map(parse_tcp, frames) if segment}
    now = []
    for six, port, seq, ack in connections:
        if segment := latest.get(port):
            payload = segment["payload"]
            assert isinstance(payload, bytes)
            seq, ack = int(segment["ack"]) or seq, int(segment["seq"]) + len(payload)
        now.append((six, port, seq, ack))
    return now


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(seed: int, frames: int) -> None:
    mutator = Mutator(captured(), seed)
    pick = random.Random(seed)
    early = 0
    with lwip_on_wire() as peer:
        sent = 0
        while sent < frames:
            victims = Victims(peer, pick)
            for batch in range(_LIFE // _BATCH):
                if batch % 4 == 0:
                    # Few outlive that much.
                    mutator.connections = victims.connections()
                peer.send(*(mutator.frame() for _ in range(_BATCH)))
                mutator.connections = followed(mutator.connections, peer.seen)
                peer.seen.clear()
                victims.use()
                sent += _BATCH
                if pick.random() < 0.3:
                    peer.stack.skip_time(pick.choice((0.1, 0.3, 1, 5)))
            victims.alive()
            victims.close()
            # 2 MSL, and whatever waits to be put together.
            peer.stack.skip_time(150)
            if not early and sent >= frames // 4:
                gc.collect()
                early = _resident()
        gc.collect()
        print("counters", peer.stack.counters)
        print("grown", _resident() - early)
        print("done", sent, flush=True)


if __name__ == "__main__":
    # Before anything of lwIP is loaded: the seed names the frames for whoever reads a crash.
    print("seed", sys.argv[1], "pid", os.getpid(), flush=True)
    main(int(sys.argv[1]), int(sys.argv[2]))
