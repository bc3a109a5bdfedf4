"""What anybody on the wire can send must not stop the process: lwIP's assertions abort it."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwip_frames import (
    ACK,
    BROADCAST,
    FIN,
    MAC,
    PSH,
    RST,
    SYN,
    Fuzzer,
    arp,
    ethernet,
    frame,
    icmp,
    ipv4,
    ipv6,
    packed,
    parse_tcp,
    tcp,
    udp,
    with_checksum,
)
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, each, lwip_on_wire
from memory_helpers import failure, mask_of
from vpoll_asyncio import EventMask

pytestmark = pytest.mark.needs("lwip")

PORT, UDP_PORT = 80, 53


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


@pytest.fixture
def listener(peer: Peer) -> Iterator[socket.socket]:
    with peer.stack.socket(socket.AF_INET6) as sock:
        sock.setblocking(False)
        sock.bind(("::", PORT))
        sock.listen(64)
        yield sock


@pytest.fixture
def receiver(peer: Peer) -> Iterator[socket.socket]:
    with peer.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("::", UDP_PORT))
        yield sock


def attempt(call: Callable[..., Any], *args: Any) -> Any:
    """What `call` returns, or None when the connection has nothing to give or is over."""
    try:
        return call(*args)
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT):
            raise
        return None


def alive(peer: Peer, receiver: socket.socket) -> None:
    """The stack still answers, by both families."""
    peer.seen.clear()
    for host, other in ((HOST4, PEER4), (HOST6, PEER6)):
        peer.send(frame(udp((other, 4000), (host, UDP_PORT), b"still there?")))
        data, address = receiver.recvfrom(100)
        assert data == b"still there?"
        assert receiver.sendto(b"yes", address) == 3
    peer.send()
    answers = each(peer.seen, lambda got: got.endswith(b"yes"))
    assert {got[12:14] for got in answers} == {b"\x08\x00", b"\x86\xdd"}


class Established:
    """A connection whose one end is the test, segment by segment."""

    def __init__(
        self,
        peer: Peer,
        listener: socket.socket,
        *,
        six: bool = False,
        port: int = 5000,
        window: int = 65535,
        options: bytes = b"",
    ) -> None:
        self.peer = peer
        self.me = (PEER6 if six else PEER4, port)
        self.host = (HOST6 if six else HOST4, PORT)
        self.seq = 1000
        [synack] = self.send(SYN, window=window, options=options)
        assert synack["flags"] == SYN | ACK
        assert isinstance(synack["seq"], int)
        self.ack = synack["seq"] + 1
        self.seq += 1
        self.send(ACK, window=window)
        self.sock = peer.keep(listener.accept()[0])

    def send(
        self,
        flags: int,
        payload: bytes = b"",
        *,
        at: int = 0,
        window: int = 65535,
        options: bytes = b"",
    ) -> list[dict[str, int | bytes]]:
        """Send a segment; return the segments that come back."""
        ack = self.ack if flags & ACK else 0
        segment = tcp(
            self.me, self.host, flags, self.seq + at, ack, payload, window=window, options=options
        )
        return self.received(self.peer.send(frame(segment)))

    def received(self, frames: list[bytes]) -> list[dict[str, int | bytes]]:
        segments = [segment for got in frames if (segment := parse_tcp(got))]
        return [segment for segment in segments if segment["dport"] == self.me[1]]


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_random_frames(
    peer: Peer, listener: socket.socket, receiver: socket.socket, seed: int
) -> None:
    fuzzer = Fuzzer(seed, HOST4, HOST6, (PORT, UDP_PORT))
    before = peer.stack.counters
    for _ in range(2500 // 50):
        peer.send(*(fuzzer.frame() for _ in range(50)))
        peer.stack.skip_time(0.5)
        while attempt(receiver.recv, 2000) is not None:
            pass
    alive(peer, receiver)
    after = peer.stack.counters
    assert after["rx_frames"] - before["rx_frames"] >= 2500
    assert after["rx_malformed"] > before["rx_malformed"] + 250
    assert after["rx_foreign"] > before["rx_foreign"]


@given(frames=st.lists(st.binary(max_size=200), max_size=30))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_at_all(frames: list[bytes]) -> None:
    with lwip_on_wire() as peer:
        before = peer.stack.counters["rx_frames"]
        sent = [one for one in frames if one]
        peer.send(*sent)
        assert peer.stack.counters["rx_frames"] >= before + len(sent)


SHORT = [
    pytest.param(b"\x02", id="one byte"),
    pytest.param(MAC, id="an address alone"),
    pytest.param(MAC + MAC + b"\x08", id="half an ethertype"),
    pytest.param(ethernet(b"", 0x0800), id="no IPv4 header"),
    pytest.param(ethernet(b"\x45", 0x0800), id="one byte of IPv4"),
    pytest.param(ethernet(b"", 0x86DD), id="no IPv6 header"),
    pytest.param(ethernet(b"\x60" + bytes(38), 0x86DD), id="39 bytes of IPv6"),
    pytest.param(ethernet(bytes(27), 0x0806), id="27 bytes of ARP"),
    pytest.param(frame(ipv4(b"", 6, PEER4, HOST4)), id="no TCP header"),
    pytest.param(frame(ipv4(bytes(19), 6, PEER4, HOST4)), id="19 bytes of TCP"),
    pytest.param(frame(ipv4(bytes(7), 17, PEER4, HOST4)), id="7 bytes of UDP"),
    pytest.param(frame(ipv4(bytes(7), 1, PEER4, HOST4)), id="7 bytes of ICMP"),
    pytest.param(frame(ipv6(bytes(19), 6, PEER6, HOST6)), id="19 bytes of TCP over IPv6"),
    pytest.param(frame(ipv6(b"", 59, PEER6, HOST6)), id="jumbogram"),
    pytest.param(frame(tcp((PEER4, 1), (HOST4, PORT), SYN, 1))[:50], id="shorter than IPv4 says"),
    pytest.param(frame(tcp((PEER6, 1), (HOST6, PORT), SYN, 1))[:70], id="shorter than IPv6 says"),
    pytest.param(
        frame(ipv4(struct.pack("!HHHH", 1, UDP_PORT, 900, 0), 17, PEER4, HOST4)),
        id="UDP longer than its packet",
    ),
    pytest.param(frame(ipv4(bytes(12), 17, PEER4, HOST4, fragment=0x2001)), id="odd fragment"),
    pytest.param(ethernet(bytes(1600), 0x0800), id="longer than the link carries"),
]


@pytest.mark.parametrize("short", SHORT)
def test_a_frame_that_does_not_fit_is_dropped_and_counted(peer: Peer, short: bytes) -> None:
    before = peer.stack.counters["rx_malformed"]
    peer.stack.core.feed([short])
    assert peer.stack.counters["rx_malformed"] == before + 1


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(tcp((HOST4, PORT), (HOST4, PORT), SYN, 1), id="from ourselves"),
        pytest.param(tcp((HOST6, PORT), (HOST6, PORT), SYN, 1), id="from ourselves, IPv6"),
        pytest.param(udp(("127.0.0.1", 1), (HOST4, UDP_PORT), b"x"), id="from loopback"),
        pytest.param(udp((PEER4, 1), ("127.0.0.1", UDP_PORT), b"x"), id="to loopback"),
        pytest.param(udp(("::1", 1), (HOST6, UDP_PORT), b"x"), id="from ::1"),
        pytest.param(udp((PEER6, 1), ("::1", UDP_PORT), b"x"), id="to ::1"),
        pytest.param(udp(("10.0.0.255", 1), (HOST4, UDP_PORT), b"x"), id="from broadcast"),
        pytest.param(udp(("224.0.0.1", 1), (HOST4, UDP_PORT), b"x"), id="from multicast"),
        pytest.param(udp(("::ffff:10.0.0.2", 1), (HOST6, UDP_PORT), b"x"), id="mapped"),
    ],
)
def test_addresses_that_cannot_come_from_outside(
    peer: Peer, listener: socket.socket, receiver: socket.socket, packet: bytes
) -> None:
    before = peer.stack.counters["rx_martian"]
    assert peer.send(frame(packet)) == []
    assert peer.stack.counters["rx_martian"] == before + 1
    assert failure(receiver.recv, 10) == errno.EAGAIN


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            ethernet(udp((PEER4, 1), (HOST4, UDP_PORT), b"x"), 0x0800, dst=bytes(5) + b"\x02"),
            id="another host's hardware address",
        ),
        pytest.param(frame(udp((PEER4, 1), ("10.0.0.77", UDP_PORT), b"x")), id="another's IPv4"),
        pytest.param(frame(udp((PEER6, 1), ("fd00::77", UDP_PORT), b"x")), id="another's IPv6"),
        pytest.param(ethernet(bytes(46), 0x88CC), id="another protocol"),
        pytest.param(ethernet(bytes(46), 0x8100), id="a VLAN"),
    ],
)
def test_what_is_not_for_this_host_is_not_forwarded(peer: Peer, other: bytes) -> None:
    before = peer.stack.counters["rx_foreign"]
    assert peer.send(other) == []
    assert peer.stack.counters["rx_foreign"] == before + 1


def test_arp_is_answered_for_own_addresses_only(peer: Peer) -> None:
    def ask(host: str) -> list[bytes]:
        return peer.send(ethernet(arp(1, PEER4, host), 0x0806, dst=BROADCAST))

    [answer] = ask(HOST4)
    assert answer[20:22] == b"\0\2"
    assert answer[28:32] == packed(HOST4)
    assert ask("10.0.0.77") == []


@pytest.mark.parametrize("six", [False, True])
def test_ping_is_answered(peer: Peer, six: bool) -> None:
    src, dst = (PEER6, HOST6) if six else (PEER4, HOST4)
    rest = struct.pack("!HH", 7, 1) + b"ping" * 100
    answers = peer.send(frame(icmp(128 if six else 8, 0, rest, src, dst)))
    assert any(got.endswith(b"ping" * 100) for got in answers)


@pytest.mark.parametrize("six", [False, True])
def test_a_segment_size_after_the_handshake_is_refused(
    peer: Peer, listener: socket.socket, six: bool
) -> None:
    # lwIP would take it, and abort at the next write with a longer segment queued.
    connection = Established(peer, listener, six=six)
    assert connection.sock.send(bytes(30000)) > 0
    before = peer.stack.counters["rx_malformed"]
    connection.send(ACK, options=b"\x02\x04\x00\x20")
    assert peer.stack.counters["rx_malformed"] == before + 1
    assert connection.sock.send(bytes(30000)) > 0


@pytest.mark.parametrize("first", [0, 1, 2, 100])
@pytest.mark.parametrize("then", [1, 50, 3000])
def test_a_window_that_opens_late(
    peer: Peer, listener: socket.socket, first: int, then: int
) -> None:
    # lwIP cuts segments to half of the largest window seen, and asserts that it did.
    connection = Established(peer, listener, window=first)
    for size in (1, 30000, 1, 5):
        attempt(connection.sock.send, bytes(size))
        connection.send(ACK, window=then)
        attempt(connection.sock.send, bytes(size))
    peer.stack.skip_time(3)
    assert failure(connection.sock.recv, 1) == errno.EAGAIN


@pytest.mark.parametrize("mss", [1, 8, 48])
def test_a_tiny_segment_size_does_not_spin(peer: Peer, listener: socket.socket, mss: int) -> None:
    connection = Established(peer, listener, options=b"\x02\x04" + struct.pack("!H", mss))
    assert attempt(connection.sock.send, bytes(10000))
    while attempt(connection.sock.send, bytes(10000)):
        pass
    # Writable would be a lie that keeps the loop busy.
    assert not mask_of(connection.sock) & EventMask.OUT


def test_a_blind_reset_is_challenged(peer: Peer, listener: socket.socket) -> None:
    connection = Established(peer, listener)
    answers = connection.send(RST, at=100)
    assert [answer["flags"] for answer in answers] == [ACK]
    assert failure(connection.sock.recv, 1) == errno.EAGAIN
    connection.send(RST)
    assert failure(connection.sock.recv, 1) == errno.ECONNRESET


def test_initial_sequence_numbers_differ_and_are_not_lwips(
    peer: Peer, listener: socket.socket
) -> None:
    numbers = [Established(peer, listener, port=port).ack - 1 for port in range(6000, 6008)]
    assert len(set(numbers)) == len(numbers)
    gaps = {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(numbers)}
    # One clock alone would make them grow by the time between two connections.
    assert max(gaps) > 1 << 28


def replies(frames: list[bytes]) -> list[int | bytes]:
    return [segment["flags"] for got in frames if (segment := parse_tcp(got))]


def test_a_flood_of_requests_is_bounded(
    peer: Peer, listener: socket.socket, receiver: socket.socket
) -> None:
    # Until the peer's hardware address is known, few answers are kept.
    alive(peer, receiver)
    flood = [frame(tcp((PEER4, port), (HOST4, PORT), SYN, 1)) for port in range(2000, 3100)]
    assert replies(peer.send(*flood)) == [SYN | ACK] * 1024
    assert peer.stack.counters["rx_backlog"] == 1100 - 1024
    alive(peer, receiver)
    # Nobody completes them, so they go: TCP_SYN_RCVD_TIMEOUT.
    peer.stack.skip_time(60)
    peer.send()
    assert replies(peer.send(frame(tcp((PEER4, 4000), (HOST4, PORT), SYN, 1)))) == [SYN | ACK]


def test_a_full_accept_queue_keeps_requests_and_completions_out(peer: Peer) -> None:
    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, PORT))
    listener.listen(1)
    numbers: dict[int, int] = {}
    for port in (1, 2, 3):
        answered = [
            got
            for one in peer.send(frame(tcp((PEER4, port), (HOST4, PORT), SYN, 1)))
            if (got := parse_tcp(one))
        ]
        number = answered[0]["seq"]
        assert isinstance(number, int)
        numbers[port] = number + 1

    def complete(port: int) -> list[bytes]:
        return peer.send(frame(tcp((PEER4, port), (HOST4, PORT), ACK, 2, numbers[port], b"hello")))

    for port in (1, 2):
        complete(port)
    assert replies(complete(3)) == []
    assert replies(peer.send(frame(tcp((PEER4, 4), (HOST4, PORT), SYN, 1)))) == []
    assert peer.stack.counters["rx_backlog"] == 2
    accepted = [peer.keep(listener.accept()[0]).getpeername()[1] for _ in range(2)]
    assert accepted == [1, 2]
    assert failure(listener.accept) == errno.EAGAIN
    complete(3)
    third = peer.keep(listener.accept()[0])
    assert third.getpeername()[1] == 3
    assert third.recv(10) == b"hello"


@pytest.mark.parametrize("how", ["a later request", "a reset"])
def test_a_port_that_is_used_again_does_not_wait_for_time_wait(
    peer: Peer, listener: socket.socket, how: str
) -> None:
    first = Established(peer, listener)
    first.sock.close()
    first.ack += 1
    assert [answer["flags"] for answer in first.send(FIN | ACK)] == [FIN | ACK, ACK]
    first.seq += 1
    request = frame(tcp(first.me, first.host, SYN, first.seq - 100))
    assert replies(peer.send(request)) == [ACK]
    if how == "a reset":
        assert first.send(RST) == []
    else:
        request = frame(tcp(first.me, first.host, SYN, first.seq + 100))
    assert replies(peer.send(request)) == [SYN | ACK]


@pytest.mark.parametrize("six", [False, True])
def test_segments_that_lie_about_everything(
    peer: Peer, listener: socket.socket, receiver: socket.socket, six: bool
) -> None:
    fuzzer = Fuzzer(6 if six else 4, HOST4, HOST6, (PORT,))
    pick = fuzzer.random
    for port in range(7000, 7040):
        connection = Established(
            peer,
            listener,
            six=six,
            port=port,
            window=pick.choice((0, 1, 100, 65535)),
            options=pick.choice((b"", b"\x02\x04\x00\x30", b"\x02\x04\x05\xb4\x03\x03\x07")),
        )
        for _ in range(25):
            flags = pick.choice((ACK, ACK, ACK, PSH | ACK, FIN | ACK, SYN, SYN | ACK, 0xFF))
            connection.ack += pick.choice((0, 0, 1, 1460, -1, 70000))
            connection.send(
                flags,
                pick.randbytes(pick.choice((0, 0, 1, 100, 1400))),
                at=pick.choice((0, 0, 1, -1, 1460, 65000, -70000)),
                window=pick.choice((0, 1, 50, 65535)),
            )
            attempt(connection.sock.send, bytes(pick.choice((1, 3000, 60000))))
            attempt(connection.sock.recv, pick.choice((1, 60000)))
            peer.stack.skip_time(pick.choice((0, 0.3, 2)))
        connection.sock.close()
    alive(peer, receiver)


@pytest.mark.parametrize("size", [2000, 8000])
@pytest.mark.parametrize("backwards", [False, True])
def test_fragments_are_put_together(
    peer: Peer, receiver: socket.socket, size: int, backwards: bool
) -> None:
    payload = os.urandom(size)
    whole = udp((PEER4, 9), (HOST4, UDP_PORT), payload)[20:]
    pieces = [whole[at : at + 1480] for at in range(0, len(whole), 1480)]
    frames = [
        frame(
            ipv4(
                piece,
                17,
                PEER4,
                HOST4,
                ident=77,
                fragment=(0x2000 if number < len(pieces) - 1 else 0) | number * 185,
            )
        )
        for number, piece in enumerate(pieces)
    ]
    peer.send(*(reversed(frames) if backwards else frames))
    assert receiver.recv(65535) == payload


def test_fragments_of_ipv6_are_put_together(peer: Peer, receiver: socket.socket) -> None:
    payload = os.urandom(3000)
    whole = udp((PEER6, 9), (HOST6, UDP_PORT), payload)[40:]
    pieces = [whole[at : at + 1400] for at in range(0, len(whole), 1400)]
    for number, piece in enumerate(pieces):
        more = number < len(pieces) - 1
        header = struct.pack("!BBHI", 17, 0, number * 1400 | more, 5)
        peer.send(frame(ipv6(header + piece, 44, PEER6, HOST6)))
    assert receiver.recv(65535) == payload


def test_a_wrong_checksum_is_dropped(peer: Peer, receiver: socket.socket) -> None:
    good = udp((PEER4, 9), (HOST4, UDP_PORT), b"good")
    bad = bytearray(good)
    bad[-1] ^= 1
    peer.send(frame(bytes(bad)), frame(good))
    assert receiver.recv(10) == b"good"
    assert failure(receiver.recv, 10) == errno.EAGAIN
    assert with_checksum(good[20:], 6, PEER4, HOST4, 17) == good[20:]


@pytest.mark.parametrize("mtu", [0, 40, 48, 56, 61, 1279])
def test_a_path_of_less_than_ipv6s_least_mtu_is_not_believed(
    peer: Peer, receiver: socket.socket, mtu: int
) -> None:
    ping = frame(icmp(128, 0, struct.pack("!HH", 1, 1) + bytes(1000), PEER6, HOST6))

    def answers() -> list[bytes]:
        return [out for out in peer.send(ping) if out[20] == 58 and out[54] == 129]

    assert len(answers()) == 1
    inner = ipv6(struct.pack("!BBHHH", 129, 0, 0, 1, 1), 58, HOST6, PEER6)
    malformed = peer.stack.counters["rx_malformed"]
    peer.send(frame(icmp(2, 0, struct.pack("!I", mtu) + inner, PEER6, HOST6)))
    assert peer.stack.counters["rx_malformed"] == malformed + 1
    assert len(answers()) == 1
    alive(peer, receiver)


@pytest.mark.parametrize("last", ["byte", "FIN"])
@pytest.mark.parametrize("window", [0, 5000])
def test_a_probe_of_a_closed_window_that_takes_the_last_byte_is_survived(
    peer: Peer, receiver: socket.socket, last: str, window: int
) -> None:
    me, host = (PEER4, 5000), (HOST4, 80)

    def segments(*frames: bytes) -> list[dict[str, Any]]:
        return [segment for out in peer.send(*frames) if (segment := parse_tcp(out))]

    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, 80))
    listener.listen()
    listener.setblocking(False)
    ack = segments(frame(tcp(me, host, SYN, 1000, 0, window=100)))[0]["seq"] + 1
    segments(frame(tcp(me, host, ACK, 1001, ack, window=100)))
    sock = peer.keep(listener.accept()[0])
    sock.setblocking(False)
    assert sock.send(bytes(100)) == 100
    left = 100
    while left:
        for segment in segments():
            left -= len(segment["payload"])
            ack += len(segment["payload"])
            segments(frame(tcp(me, host, ACK, 1001, ack, window=left)))
        peer.stack.skip_time(0.5)
    if last == "byte":
        assert sock.send(b"y") == 1
    else:
        sock.close()
    probed = 0
    for _ in range(40):
        peer.stack.skip_time(0.5)
        for probe in segments():
            probed += 1
            ack = probe["seq"] + len(probe["payload"]) + bool(probe["flags"] & FIN)
            segments(frame(tcp(me, host, ACK, 1001, ack, window=window)))
    assert probed
    alive(peer, receiver)
