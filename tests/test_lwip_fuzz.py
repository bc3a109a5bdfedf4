"""Mutated captures of Linux's traffic leave an lwIP stack alive: its assertions would abort."""

from __future__ import annotations

import pytest

from lwip_frames import checksum, frame, icmp, ipv4, packed, tcp, udp
from lwip_fuzz import Mutator, captured, fitted, mended
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, lwip_on_wire
from processes import Program
from scale import LONG

FRAMES = 250_000 if LONG else 12_000
"""For each of four seeds."""

needs_lwip = pytest.mark.needs("lwip")


@needs_lwip
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_stack_under_mutated_captures_stays_alive_and_does_not_grow(seed: int) -> None:
    with Program("fuzz_lwip.py", str(seed), str(FRAMES)) as program:
        grown = int(program.wait_for("grown ").split()[1])
        done = int(program.wait_for("done ").split()[1])
        assert program.wait() == (0, "")
    assert done >= FRAMES
    assert grown < 8 << 20


@needs_lwip
def test_udp_lite_with_a_length_of_its_own_is_not_for_lwip() -> None:
    header = b"\x10\x00\x00\x35\xff\xff\x12\x34"
    with lwip_on_wire() as peer:
        before = peer.stack.counters["rx_foreign"]
        peer.send(frame(ipv4(header, 136, PEER4, HOST4)))
        assert peer.stack.counters["rx_foreign"] == before + 1


@needs_lwip
@pytest.mark.parametrize("flags", [0x11, 0x18])
def test_a_segment_of_one_at_the_opposite_end_of_the_sequence_numbers(flags: int) -> None:
    with lwip_on_wire() as peer, peer.stack.socket() as listener:
        listener.setblocking(False)
        listener.bind((HOST4, 80))
        listener.listen()
        me, host = (PEER4, 5000), (HOST4, 80)
        answers = peer.send(frame(tcp(me, host, 0x02, 1000)))
        ack = int.from_bytes(answers[-1][38:42], "big") + 1
        peer.send(frame(tcp(me, host, 0x10, 1001, ack)))
        connection = peer.keep(listener.accept()[0])
        payload = b"" if flags & 1 else b"x"
        peer.send(frame(tcp(me, host, flags, 1001 + (1 << 31), ack, payload)))
        peer.send(frame(tcp(me, host, 0x18, 1001, ack, b"still here")))
        assert connection.recv(100) == b"still here"


@needs_lwip
def test_a_neighbour_that_advertises_our_address_does_not_take_it_away() -> None:
    claim = icmp(
        136, 0, b"\x20\0\0\0" + packed(HOST6) + b"\x02\x01\x02\0\0\0\0\xbb", PEER6, "ff02::1"
    )
    with lwip_on_wire() as peer:
        # The detection of duplicates is over.
        peer.stack.skip_time(5)
        peer.send(frame(claim, dst=b"\x33\x33\0\0\0\1"))
        echo = icmp(128, 0, b"\0\1\0\1ping", PEER6, HOST6)
        assert any(got[54:55] == b"\x81" for got in peer.send(frame(echo)))


def test_the_capture_has_every_kind_of_frame() -> None:
    frames = captured()
    kinds = {one[12:14] for one in frames}
    assert kinds == {b"\x08\x00", b"\x08\x06", b"\x86\xdd"}
    assert {one[23] for one in frames if one[12:14] == b"\x08\x00"} == {1, 2, 6, 17}
    assert {one[20] for one in frames if one[12:14] == b"\x86\xdd"} == {0, 6, 17, 44, 58}


def test_the_same_seed_makes_the_same_frames() -> None:
    first, second, other = (Mutator(captured(), seed) for seed in (1, 1, 2))
    frames = [first.frame() for _ in range(200)]
    assert [second.frame() for _ in range(200)] == frames
    assert [other.frame() for _ in range(200)] != frames


@pytest.mark.parametrize("six", [False, True])
def test_mended_frames_have_right_lengths_and_checksums(six: bool) -> None:
    src, dst = (PEER6, HOST6) if six else (PEER4, HOST4)
    for made in (
        frame(udp((src, 1), (dst, 2), b"data")),
        frame(tcp((src, 1), (dst, 2), 0x10, 1, 1, b"data")),
    ):
        wrong = bytearray(made)
        wrong[-1] ^= 1
        wrong[17 if not six else 19] += 3
        assert mended(fitted(wrong)) != bytes(wrong)
        wrong[-1] ^= 1
        assert mended(fitted(wrong)) == made
        assert six or checksum(made[14:34]) == 0


PACKETS = 100_000 if LONG else 6_000
"""For each of two seeds."""


@needs_lwip
@pytest.mark.parametrize("seed", [1, 2])
def test_packets_of_all_kinds_meet_raw_ping_and_multicast_sockets(seed: int) -> None:
    with Program("fuzz_lwip_packets.py", str(seed), str(PACKETS)) as program:
        program.wait_for("done ")
        assert program.wait() == (0, "")


AUTOCONF = 100_000 if LONG else 1_600
"""For each of two seeds."""


@needs_lwip
@pytest.mark.needs("dpkt")
@pytest.mark.parametrize("seed", [1, 2])
def test_routers_and_servers_that_lie_leave_a_stack_that_believes_honest_ones(seed: int) -> None:
    with Program("fuzz_lwip_autoconf.py", str(seed), str(AUTOCONF)) as program:
        program.wait_for("done ")
        status, said = program.wait()
    assert (status, "Traceback" in said) == (0, False)
