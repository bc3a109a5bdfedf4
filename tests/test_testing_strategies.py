"""What the strategies of `vpoll_asyncio.testing` generate for streams, networks and programs."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from path_helpers import hosts
from vpoll_asyncio.links import open_link, wire_pair
from vpoll_asyncio.links.netemspec import parse_settings
from vpoll_asyncio.stacks.memory import ManualClock
from vpoll_asyncio.testing import (
    DATAGRAM_CALLS,
    FAULT_WORDS,
    STREAM_CALLS,
    ByteStream,
    Faults,
    Hosts,
    Lab,
    SocketStep,
    byte_streams,
    chunkings,
    faults,
    socket_programs,
)

Drawn = TypeVar("Drawn")

few = settings(max_examples=50, deadline=None)


def anything(_: object) -> bool:
    return True


def least(strategy: st.SearchStrategy[Drawn], condition: Callable[[Drawn], bool]) -> Drawn:
    """Return what values of `strategy` with `condition` shrink to."""
    return find(strategy, condition, settings=settings(max_examples=100, database=None))


@few
@given(st.data(), st.integers(0, 5000), st.integers(1, 20))
def test_chunks_are_not_empty_and_are_the_whole_together(
    data: st.DataObject, length: int, most: int
) -> None:
    sizes = data.draw(chunkings(length, max_pieces=most))
    assert sum(sizes) == length
    assert len(sizes) <= most
    assert all(size > 0 for size in sizes)


@pytest.mark.parametrize(("length", "sizes"), [(0, ()), (1, (1,)), (1000, (1000,))])
def test_chunks_shrink_to_one_piece(length: int, sizes: tuple[int, ...]) -> None:
    assert least(chunkings(length), anything) == sizes


def test_chunks_shrink_to_short_pieces_first() -> None:
    assert least(chunkings(1000), lambda sizes: len(sizes) == 3) == (1, 1, 998)


@pytest.mark.parametrize("wanted", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_any_way_to_cut_is_found(wanted: tuple[int, ...]) -> None:
    assert least(chunkings(4), lambda sizes: sizes == wanted) == wanted


@few
@given(byte_streams(max_size=300, max_pieces=5, max_receive=7))
def test_a_stream_s_pieces_are_its_payload(stream: ByteStream) -> None:
    assert len(stream.payload) <= 300
    assert b"".join(stream.pieces()) == stream.payload
    assert [len(piece) for piece in stream.pieces()] == list(stream.sends)
    assert len(stream.sends) <= 5
    asked = list(itertools.islice(stream.sizes(), 2 * len(stream.receives)))
    assert asked == [*stream.receives, *stream.receives]
    assert all(1 <= size <= 7 for size in asked)


def test_a_stream_shrinks_to_nothing() -> None:
    assert least(byte_streams(), anything) == ByteStream(b"", (), (1,))


def test_a_stream_shrinks_to_the_shortest_with_its_fault() -> None:
    found = least(
        byte_streams(), lambda stream: len(stream.payload) >= 3 and len(stream.sends) >= 2
    )
    assert found == ByteStream(b"\0\0\0", (1, 2), (1,))


def test_a_long_payload_shows_a_byte_out_of_its_place() -> None:
    found = least(byte_streams(), lambda stream: len(stream.payload) > 200)
    assert found.payload == bytes(range(201))


@few
@given(faults(FAULT_WORDS, max_delay=0.02, max_share=0.1, min_rate=5e5, max_rate=1e6))
def test_faults_are_within_their_bounds(found: Faults) -> None:
    assert 0 <= found.delay <= 0.02
    assert 0 <= found.jitter <= 0.02
    for share in (found.loss, found.duplicate, found.corrupt, found.reorder):
        assert 0 <= share <= 0.1
    assert not found.rate or 5e5 <= found.rate <= 1e6
    assert not found.partition


@few
@given(faults(FAULT_WORDS, partitions=True))
def test_faults_are_netem_s_settings(found: Faults) -> None:
    meant = parse_settings(**found.settings())
    assert (meant.delay, meant.loss.value, meant.rate) == (found.delay, found.loss, found.rate)


@few
@given(faults(["loss", "jitter"]))
def test_only_the_words_that_are_asked_for(found: Faults) -> None:
    assert set(found.settings()) <= {"loss", "jitter"}


def test_faults_shrink_to_a_perfect_network() -> None:
    assert least(faults(), anything) == Faults()


def test_faults_shrink_to_the_one_that_matters() -> None:
    found = least(faults(FAULT_WORDS), lambda drawn: drawn.loss >= 0.05)
    assert found == Faults(loss=0.05)


def test_a_partition_is_found_where_it_is_asked_for() -> None:
    found = least(faults(partitions=True), lambda drawn: drawn.partition)
    assert found == Faults(loss=1.0)


def test_faults_are_put_around_a_link() -> None:
    near, far = wire_pair()
    with Faults(loss=1.0).around(near) as lossy, far:
        lossy.send_batch([bytes(60)])
        assert far.recv_batch() == []


def test_faults_are_written_as_a_locator() -> None:
    found = Faults(delay=0.015, loss=0.01, rate=1e6)
    assert (
        found.locator("wire://x")
        == "netem://delay=15000us,loss=1%,rate=1000000bit,seed=0{wire://x}"
    )
    with open_link(found.locator("wire://locator")):
        pass


@settings(max_examples=30, deadline=None)
@given(byte_streams(max_size=3000, max_pieces=5), faults(FAULT_WORDS))
def test_any_stream_arrives_over_any_faulty_path(stream: ByteStream, found: Faults) -> None:
    with hosts(**found.settings()) as (server, client):
        clock = server.network.clock = ManualClock()
        lab = Lab(Hosts(server, client, "10.0.0.1", "10.0.0.2", drive=clock.step))
        near, far = lab.pair()
        assert lab.carry(stream, near, far) == stream.payload
        lab.close()


def test_nothing_arrives_over_a_partition() -> None:
    with hosts(**Faults(loss=1.0).settings()) as (server, client):
        clock = server.network.clock = ManualClock()
        lab = Lab(Hosts(server, client, "10.0.0.1", "10.0.0.2", drive=clock.step))
        waiting = lab.connecting(lab.listener())
        assert lab.error(waiting) == errno.ETIMEDOUT
        lab.close()


@few
@given(socket_programs(max_size=6))
def test_programs_begin_with_a_socket(program: list[SocketStep]) -> None:
    assert 1 <= len(program) <= 6
    assert program[0].call in ("pair", "listener", "refused")
    assert {step.call for step in program} <= set(STREAM_CALLS)


@few
@given(socket_programs(["pair", "send", "recv"]))
def test_programs_leave_out_what_the_stack_does_not_have(program: list[SocketStep]) -> None:
    assert {step.call for step in program} <= {"pair", "send", "recv"}


@pytest.mark.parametrize(
    ("calls", "first"), [(STREAM_CALLS, "pair"), (DATAGRAM_CALLS, "datagram_pair")]
)
def test_programs_shrink_to_a_pair(calls: tuple[str, ...], first: str) -> None:
    assert least(socket_programs(calls), anything) == [SocketStep(first)]


def test_programs_shrink_to_the_steps_that_matter() -> None:
    found = least(
        socket_programs(["pair", "send", "send_urgent"], max_size=5),
        lambda program: any(step.call == "send_urgent" for step in program),
    )
    assert found == [SocketStep("pair"), SocketStep("send_urgent", 0, b"")]


@pytest.mark.parametrize(
    ("strategy", "arguments", "named"),
    [
        (chunkings, {"length": -1}, "length=-1"),
        (chunkings, {"length": 3, "max_pieces": 0}, "max_pieces=0"),
        (byte_streams, {"max_size": 0}, "max_size=0"),
        (byte_streams, {"max_receive": 0}, "max_receive=0"),
        (faults, {"words": ["delay", "lost"]}, "lost"),
        (faults, {"max_share": 1.5}, "max_share=1.5"),
        (faults, {"max_delay": -1}, "max_delay=-1"),
        (faults, {"min_rate": 10, "max_rate": 5}, "min_rate=10"),
        (faults, {"max_rate": float("inf")}, "max_rate=inf"),
        (socket_programs, {"calls": ["sent"]}, "sent"),
        (socket_programs, {"calls": []}, "calls=\\[\\]"),
        (socket_programs, {"max_size": 0}, "max_size=0"),
        (socket_programs, {"max_size": 101}, "max_size=101"),
    ],
)
def test_a_bound_that_holds_nothing_is_refused(
    strategy: Any, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        strategy(**arguments)
