"""A bad network on purpose: what happens to which frame, exactly, and on which loop."""

from __future__ import annotations

import asyncio
import errno
import itertools
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpoll_asyncio as va
from link_helpers import (
    PATIENCE,
    close_in_a_child,
    numbered,
    packets,
    receive,
    send_all,
)
from vpoll_asyncio.links import FdLink, Link, NetemCounters, NetemLink, wire_pair
from vpoll_asyncio.links.netemqueue import NetemQueue, flip_bit
from vpoll_asyncio.links.netemspec import parse_settings

SECOND = 10**9
FRAMES = numbered(2000, size=60)


def number(frame: bytes) -> int:
    return int.from_bytes(frame[14:18], "big")


def through(queue: NetemQueue[bytes], frames: list[bytes], now: int = 0) -> list[int]:
    """The numbers of the frames that come out of `queue`, in their order, whenever that is."""
    queue.put(frames, now)
    return [number(frame) for frame in queue.take(1 << 62, 1 << 30)]


def queue(seed: str = "1", **words: Any) -> NetemQueue[bytes]:
    return NetemQueue(parse_settings(**{"limit": 1 << 30, **words}), seed, flip_bit)


def fd_pair() -> tuple[Link, Link]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return FdLink(one), FdLink(other)


CABLES = pytest.mark.parametrize("cable", [wire_pair, fd_pair])
Cable = Callable[[], tuple[Link, Link]]


# Which frames: the seed says it.

LOST_30 = [0, 3, 8, 9, 10, 11, 13, 14, 16, 17, 18, 19]
DOUBLED_20 = [0, 1, 1, 2, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11]
REORDERED_25 = [1, 2, 5, 6, 7, 0, 3, 4, 8, 9, 10, 11]


def test_the_lost_frames_are_those_that_the_seed_says() -> None:
    assert through(queue(loss="30%"), FRAMES[:20]) == LOST_30


def test_the_doubled_frames_are_those_that_the_seed_says() -> None:
    assert through(queue(duplicate="20%"), FRAMES[:12]) == DOUBLED_20


def test_the_reordered_frames_are_those_that_the_seed_says() -> None:
    assert through(queue(delay="10ms", reorder="25%"), FRAMES[:12]) == REORDERED_25


WORDS = st.fixed_dictionaries(
    {},
    optional={
        "loss": st.floats(0, 1),
        "duplicate": st.tuples(st.floats(0, 1), st.floats(0, 1)),
        "corrupt": st.floats(0, 1),
        "jitter": st.floats(0, 1),
        "distribution": st.sampled_from(["uniform", "normal"]),
        "rate": st.sampled_from([0, "1mbit"]),
        "gap": st.integers(0, 5),
    },
)


@given(words=WORDS, seed=st.text(), cuts=st.sets(st.integers(0, 60)), data=st.data())
def test_the_time_and_the_batches_change_nothing_in_what_happens(
    words: dict[str, Any], seed: str, cuts: set[int], data: st.DataObject
) -> None:
    at_once, in_pieces = queue(seed, delay=1, **words), queue(seed, delay=1, **words)
    at_once.put(FRAMES[:60], 0)
    whole = sorted(at_once.take(1 << 62, 1000))
    now, got = 0, list[bytes]()
    edges = [0, *sorted(cuts), 60]
    for start, end in itertools.pairwise(edges):
        in_pieces.put(FRAMES[start:end], now)
        now += data.draw(st.integers(0, SECOND))
        got += in_pieces.take(now, data.draw(st.integers(0, 10)))
    got += in_pieces.take(1 << 62, 1000)
    assert sorted(got) == whole
    for name in ("lost", "duplicated", "corrupted", "reordered"):
        assert getattr(at_once, name) == getattr(in_pieces, name)


@CABLES
def test_a_direction_does_not_depend_on_what_the_other_one_carries(cable: Cable) -> None:
    def received(extra: int) -> list[bytes]:
        near, far = cable()
        with far, NetemLink(near, loss="40%", seed=3) as link:
            got = list[bytes]()
            for frame in FRAMES[:50]:
                link.send_batch(FRAMES[:extra])
                send_all(far, [frame])
                got += link.recv_batch()
                far.recv_batch()
            assert link.counters("in").lost == 50 - len(got)
            return got

    assert received(0) == received(3)
    assert 0 < len(received(0)) < 50


def test_another_seed_is_another_network_and_one_is_chosen_where_none_is_given() -> None:
    assert through(queue("1", loss=0.5), FRAMES) != through(queue("2", loss=0.5), FRAMES)
    near, far = wire_pair()
    with far, NetemLink(near) as link:
        chosen = link.seed
    near, far = wire_pair()
    with far, NetemLink(near) as link:
        assert link.seed != chosen


# How many, and how: the rules of tc-netem.


@pytest.mark.parametrize("word", ["loss", "duplicate", "corrupt"])
def test_as_many_frames_are_hit_as_were_asked_for(word: str) -> None:
    hit = queue(**{word: "10%"})
    through(hit, FRAMES)
    found = {"loss": hit.lost, "duplicate": hit.duplicated, "corrupt": hit.corrupted}
    assert 160 < found.pop(word) < 240
    assert not any(found.values())


def test_what_correlates_comes_in_bursts() -> None:
    def changes(word: str) -> int:
        kept = set(through(queue(loss=word), FRAMES))
        return sum((n in kept) != (n + 1 in kept) for n in range(len(FRAMES) - 1))

    assert changes("50% 90%") * 2 < changes("50%")


def test_exactly_one_bit_of_a_corrupted_frame_is_flipped() -> None:
    hit = queue(corrupt="100%")
    hit.put(FRAMES[:200], 0)
    places = set()
    for before, after in zip(FRAMES, hit.take(0, 200), strict=False):
        difference = int.from_bytes(before, "big") ^ int.from_bytes(after, "big")
        assert difference.bit_count() == 1
        places.add(difference)
    assert len(places) > 100


def test_a_constant_delay_keeps_the_order_and_the_distances() -> None:
    slow = queue(delay="10ms")
    for n in range(5):
        slow.put([FRAMES[n]], n * 1000)
    assert slow.due == 10_000_000
    assert slow.take(9_999_999, 10) == []
    assert slow.take(10_002_000, 10) == FRAMES[:3]
    assert slow.take(10_002_000, 10) == []
    assert slow.take(10_004_000, 10) == FRAMES[3:5]
    assert slow.due is None


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_jitter_is_spread_about_the_delay(distribution: str) -> None:
    times = []
    varying = queue(delay="100ms", jitter="10ms", distribution=distribution)
    for frame in FRAMES:
        varying.put([frame], 0)
        assert varying.due is not None
        times.append(varying.due)
        varying.take(1 << 62, 1)
    mean = sum(times) / len(times)
    deviation = (sum((t - mean) ** 2 for t in times) / len(times)) ** 0.5
    assert mean == pytest.approx(100e6, rel=0.01)
    # A uniform spread of 10 ms to either side deviates by 10 / sqrt(3).
    assert deviation == pytest.approx(10e6 if distribution == "normal" else 5.77e6, rel=0.05)
    if distribution == "uniform":
        assert 90e6 <= min(times) < max(times) <= 110e6
    varying.put(FRAMES, 0)
    assert [number(f) for f in varying.take(1 << 62, 5000)] != list(range(len(FRAMES)))


def test_every_gapth_frame_overtakes() -> None:
    every_third = queue(delay="10ms", gap=3)
    assert through(every_third, FRAMES[:9]) == [2, 5, 8, 0, 1, 3, 4, 6, 7]
    assert every_third.reordered == 3


def test_a_rate_keeps_frames_apart_by_the_time_that_they_take() -> None:
    # 60 bytes at 48 kbit/s are 10 ms.
    slow = queue(rate="48kbit")
    slow.put(FRAMES[:3], 0)
    assert slow.take(9_999_999, 10) == []
    assert slow.take(10_000_000, 10) == FRAMES[:1]
    assert slow.take(29_999_999, 10) == FRAMES[1:2]
    assert slow.take(30_000_000, 10) == FRAMES[2:3]
    # An idle line saves nothing up.
    slow.put(FRAMES[3:5], SECOND)
    assert slow.due == SECOND + 10_000_000


def test_delay_and_rate_pass_at_the_same_time() -> None:
    both = queue(rate="48kbit", delay="15ms")
    both.put(FRAMES[:3], 0)
    found = []
    while both.due is not None:
        found.append(both.due // 10**6)
        both.take(both.due, 1)
    # The second waits for the line rather than for the delay once more.
    assert found == [25, 35, 45]


def test_more_than_limit_frames_do_not_wait() -> None:
    near, far = wire_pair()
    with far, NetemLink(near, delay=60, limit=10) as link:
        assert link.send_batch(FRAMES[:25]) == 25
        assert link.counters("out") == NetemCounters(0, 15, 0, 0, 0)
        assert link.counters("in") == NetemCounters(0, 0, 0, 0, 0)
        assert link.dropped == 15


# The link: on kernel descriptors and on vpolls, on every loop.


def wait_readable(link: Link) -> None:
    assert isinstance(link.pollable, int)
    poll = select.poll()
    poll.register(link.pollable, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)


@CABLES
def test_without_any_word_it_is_the_inner_link(cable: Cable) -> None:
    near, far = cable()
    with far, NetemLink(near) as link:
        send_all(link, FRAMES[:20])
        assert receive(far, 20) == FRAMES[:20]
        send_all(far, FRAMES[:20])
        assert receive(link, 20) == FRAMES[:20]
        assert link.dropped == 0


@CABLES
@pytest.mark.usefixtures("no_fd_leak")
def test_a_delayed_frame_is_not_there_before_its_time(cable: Cable) -> None:
    near, far = cable()
    with far, NetemLink(near, delay="50ms") as link:
        start = time.monotonic()
        send_all(far, FRAMES[:1])
        wait_readable(link)
        assert link.recv_batch() == []
        wakeups = 0
        while not (got := link.recv_batch()):
            wait_readable(link)
            wakeups += 1
        assert got == FRAMES[:1]
        assert time.monotonic() - start >= 0.05
        # It slept in between.
        assert wakeups <= 2
        start = time.monotonic()
        link.send_batch(FRAMES[1:3])
        while not (got := far.recv_batch()):
            wait_readable(link)
            assert link.recv_batch() == []
        assert got == FRAMES[1:3]
        assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_direction_alone_may_be_bad(direction: str) -> None:
    near, far = wire_pair()
    with far, NetemLink(near, loss="100%", direction=direction) as link:
        link.send_batch(FRAMES[:5])
        far.send_batch(FRAMES[:5])
        good, bad = (far, link) if direction == "in" else (link, far)
        assert good.recv_batch() == FRAMES[:5]
        assert bad.recv_batch() == []


@CABLES
@pytest.mark.parametrize("words", [{}, {"delay": "1ms"}], ids=["at once", "delayed"])
def test_a_full_inner_link_keeps_the_order_and_loses_nothing(
    cable: Cable, words: dict[str, Any]
) -> None:
    near, far = cable() if cable is fd_pair else wire_pair(queue=16)
    with far, NetemLink(near, limit=3000, **words) as link:
        assert link.send_batch(FRAMES) == len(FRAMES)
        got = list[bytes]()
        while len(got := [*got, *far.recv_batch(1000)]) < len(FRAMES):
            wait_readable(link)
            assert link.recv_batch() == []
        assert got == FRAMES
        assert link.dropped == 0


def test_a_frame_that_the_medium_cannot_carry_is_dropped_and_counted() -> None:
    near, far = wire_pair()
    with far, NetemLink(near) as link:
        assert link.send_batch([b"x" * 9000, b"short", FRAMES[0]]) == 3
        assert far.recv_batch() == FRAMES[:1]
        assert link.dropped == 2


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
@CABLES
@pytest.mark.usefixtures("no_fd_leak")
def test_it_works_on_a_loop_and_lets_it_sleep(cable: Cable, loop: str) -> None:
    async def main() -> None:
        near, far = cable()
        running = asyncio.get_running_loop()
        with far, NetemLink(near, delay="20ms") as link:
            got = list[bytes]()
            done = asyncio.Event()
            calls = 0

            def readable() -> None:
                nonlocal calls
                calls += 1
                got.extend(link.recv_batch())
                if len(got) == 10:
                    done.set()

            running.add_reader(link.pollable, readable)
            # Who watches for room as well does not make it spin.
            running.add_writer(link.pollable, lambda: None)
            far.send_batch(FRAMES[:10])
            async with asyncio.timeout(PATIENCE):
                await done.wait()
            running.remove_reader(link.pollable)
            running.remove_writer(link.pollable)
            assert got == FRAMES[:10]
            assert calls <= 10

    va.run(main(), loop=loop)


def test_an_inner_link_that_breaks_is_told_once_what_came_is_delivered() -> None:
    near, far = fd_pair()
    with far, NetemLink(near, delay="30ms") as link:
        far.send_batch(FRAMES[:3])
        far.close()
        got = list[bytes]()
        wakeups = 0
        while len(got) < 3:
            wait_readable(link)
            wakeups += 1
            got += link.recv_batch()
        assert got == FRAMES[:3]
        # A descriptor of which the end can be read did not keep it awake.
        assert wakeups <= 8
        for _ in range(2):
            wait_readable(link)
            with pytest.raises(ConnectionResetError):
                link.recv_batch()
            with pytest.raises(ConnectionResetError):
                link.send_batch(FRAMES[:1])


@CABLES
@pytest.mark.usefixtures("no_fd_leak")
def test_close_hands_over_what_is_on_its_way(cable: Cable) -> None:
    near, far = cable()
    with far:
        link = NetemLink(near, delay=60)
        link.send_batch(FRAMES[:5])
        far.send_batch(FRAMES[:5])
        link.recv_batch()
        link.close()
        link.close()
        assert far.recv_batch() == FRAMES[:5]
        assert near.closed
        assert link.closed
        assert "closed" in repr(link)
        for use in (link.recv_batch, lambda: link.send_batch([]), lambda: link.pollable):
            with pytest.raises(OSError, match="closed") as caught:
                use()
            assert caught.value.errno == errno.EBADF


def test_a_child_that_closes_its_copy_changes_nothing() -> None:
    near, far = fd_pair()
    with far, NetemLink(near, delay="20ms") as link:
        link.send_batch(FRAMES[:3])
        close_in_a_child(link)
        got = list[bytes]()
        while len(got) < 3:
            wait_readable(link)
            link.recv_batch()
            got += far.recv_batch()
        assert got == FRAMES[:3]
        far.send_batch(FRAMES[:1])
        assert receive(link, 1) == FRAMES[:1]


def test_bare_packets_stay_bare_packets() -> None:
    near, far = wire_pair(medium="ip", mtu=1400)
    with far, NetemLink(near) as link:
        assert (link.medium, link.mtu, link.native) == ("ip", 1400, None)
        link.send_batch(packets(3))
        assert far.recv_batch() == packets(3)
