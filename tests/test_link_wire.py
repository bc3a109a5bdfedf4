"""The in-process hub and cable."""

from __future__ import annotations

import errno
import gc
import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from link_helpers import PATIENCE, is_ready, numbered, receive, send_all, wait_link
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import WireHub, WireLink, wire_hub, wire_pair
from vpoll_helpers import in_child

IN = EventMask.IN | EventMask.RDNORM
OUT = EventMask.OUT | EventMask.WRNORM


def test_a_frame_reaches_all_others_and_not_its_sender() -> None:
    hub = WireHub("lab")
    with hub.open() as one, hub.open() as two, hub.open() as three:
        assert one.send_batch(numbered(3)) == 3
        assert two.recv_batch() == three.recv_batch() == numbered(3)
        assert one.recv_batch() == []


def test_a_child_can_use_and_close_what_a_thread_was_about_to_change_at_the_fork() -> None:
    one, other = wire_pair()
    entered, let_go = threading.Event(), threading.Event()

    def waiter(mask: int) -> None:
        entered.set()
        let_go.wait(PATIENCE)

    def child() -> None:
        one.recv_batch(1)
        one.close()
        other.close()
        wire_hub("of the child").open().close()

    with one, other:
        other.pollable.add_waiter(waiter)
        thread = threading.Thread(target=one.send_batch, args=(numbered(1),))
        thread.start()
        try:
            assert entered.wait(PATIENCE)
            in_child(child)
        finally:
            let_go.set()
            thread.join()
        other.pollable.remove_waiter(waiter)


def test_readiness_is_in_the_kernels_pairs_of_bits() -> None:
    one, other = wire_pair(queue=2)
    with one, other:
        assert one.pollable.events == OUT
        one.send_batch(numbered(2))
        assert one.pollable.events == 0
        assert other.pollable.events == IN | OUT
        other.recv_batch(limit=1)
        assert one.pollable.events == OUT
        assert other.pollable.events == IN | OUT
        other.recv_batch()
        assert other.pollable.events == OUT


def test_two_ends_lose_nothing() -> None:
    one, other = wire_pair(queue=8)
    with one, other:
        assert one.send_batch(numbered(20)) == 8
        assert one.send_batch(numbered(20)) == 0
        assert other.recv_batch() == numbered(8)
        assert one.dropped == other.dropped == 0


def test_an_end_that_nobody_reads_does_not_stop_the_others() -> None:
    hub = WireHub(queue=4)
    with hub.open() as one, hub.open() as idle, hub.open() as reader:
        for frame in numbered(10):
            assert one.send_batch([frame]) == 1
            assert is_ready(one, EventMask.OUT)
            assert reader.recv_batch() == [frame]
        assert idle.recv_batch() == numbered(4)
        assert (one.dropped, idle.dropped, reader.dropped) == (0, 6, 0)


def test_when_no_end_has_room_the_sender_is_held() -> None:
    hub = WireHub(queue=2)
    with hub.open() as one, hub.open() as two, hub.open() as three:
        assert one.send_batch(numbered(5)) == 2
        assert not is_ready(one, EventMask.OUT)
        assert is_ready(two, EventMask.OUT)
        assert len(three.recv_batch(limit=1)) == 1
        assert is_ready(one, EventMask.OUT)


def test_alone_on_the_wire_frames_are_dropped_and_counted() -> None:
    one, other = wire_pair(queue=2)
    with one:
        one.send_batch(numbered(2))
        assert not is_ready(one, EventMask.OUT)
        other.close()
        assert is_ready(one, EventMask.OUT)
        assert one.send_batch(numbered(3)) == 3
        assert one.dropped == 3


@pytest.mark.parametrize(("medium", "longest"), [("ethernet", 1518), ("ip", 1500)])
def test_what_is_too_long_or_empty_is_dropped_and_counted(medium: str, longest: int) -> None:
    one, other = wire_pair(medium=medium)  # type: ignore[arg-type]
    with one, other:
        assert one.medium == medium
        assert one.send_batch([b"", b"x" * (longest + 1), b"x" * longest]) == 3
        assert other.recv_batch() == [b"x" * longest]
        assert one.dropped == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"medium": "token-ring"}, "expected one of"),
        ({"mtu": 0}, "expected 68"),
        ({"queue": 0}, "at least one frame"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WireHub(**options)  # type: ignore[arg-type]


def test_a_closed_end_says_ebadf() -> None:
    one, other = wire_pair()
    with other:
        one.close()
        one.close()
        assert one.closed
        for use in (lambda: one.pollable, one.recv_batch, lambda: one.send_batch([])):
            with pytest.raises(OSError, match="is closed") as caught:
                use()
            assert caught.value.errno == errno.EBADF


def test_a_named_hub_lasts_as_long_as_an_end() -> None:
    with wire_hub("lasting").open():
        assert len(wire_hub("lasting")) == 1
    gc.collect()
    assert len(wire_hub("lasting")) == 0


def test_threads_exchange_everything_in_order() -> None:
    one, other = wire_pair(queue=16)
    frames = numbered(5000)
    got: list[bytes] = []

    def reader() -> None:
        got.extend(receive(other, len(frames)))

    thread = threading.Thread(target=reader)
    with one, other:
        thread.start()
        send_all(one, frames)
        thread.join(PATIENCE)
        assert got == frames
        assert one.dropped == other.dropped == 0


def test_a_waiter_may_use_the_link_it_waits_for() -> None:
    one, other = wire_pair(queue=4)
    got: list[bytes] = []
    with one, other:

        def fetch(events: int) -> None:
            if events & EventMask.IN:
                got.extend(other.recv_batch())

        other.pollable.add_waiter(fetch)
        for frame in numbered(20):
            assert one.send_batch([frame]) == 1
        assert got == numbered(20)
        other.pollable.remove_waiter(fetch)


def test_a_sleeper_is_woken_by_another_thread() -> None:
    one, other = wire_pair()
    with one, other:
        thread = threading.Thread(target=lambda: one.send_batch(numbered(1)))
        thread.start()
        wait_link(other, EventMask.IN)
        thread.join()
        assert other.recv_batch() == numbered(1)


class WireModel(RuleBasedStateMachine):
    """A hub against lists: who has what waiting, who may send, who has lost how much."""

    QUEUE = 3

    def __init__(self) -> None:
        super().__init__()
        self.hub = WireHub(queue=self.QUEUE)
        self.ends: list[WireLink] = []
        self.waiting: dict[WireLink, deque[bytes]] = {}
        self.lost: dict[WireLink, int] = {}
        self.count = 0

    @precondition(lambda self: len(self.ends) < 4)
    @rule()
    def open(self) -> None:
        end = self.hub.open()
        self.ends.append(end)
        self.waiting[end] = deque()
        self.lost[end] = 0

    @precondition(lambda self: self.ends)
    @rule(choice=st.integers(0, 3))
    def close(self, choice: int) -> None:
        self.ends.pop(choice % len(self.ends)).close()

    @precondition(lambda self: self.ends)
    @rule(choice=st.integers(0, 3), count=st.integers(0, 5))
    def send(self, choice: int, count: int) -> None:
        sender = self.ends[choice % len(self.ends)]
        others = [end for end in self.ends if end is not sender]
        frames = [n.to_bytes(4, "big") for n in range(self.count, self.count + count)]
        self.count += count
        taken = 0
        for frame in frames:
            room = [end for end in others if len(self.waiting[end]) < self.QUEUE]
            if others and not room:
                break
            if not others:
                self.lost[sender] += 1
            for end in others:
                if end in room:
                    self.waiting[end].append(frame)
                else:
                    self.lost[end] += 1
            taken += 1
        assert sender.send_batch(frames) == taken

    @precondition(lambda self: self.ends)
    @rule(choice=st.integers(0, 3), limit=st.integers(1, 4))
    def recv(self, choice: int, limit: int) -> None:
        end = self.ends[choice % len(self.ends)]
        queue = self.waiting[end]
        expected = [queue.popleft() for _ in range(min(limit, len(queue)))]
        assert end.recv_batch(limit) == expected

    @invariant()
    def readiness_and_losses_are_the_models(self) -> None:
        for end in self.ends:
            others = [other for other in self.ends if other is not end]
            room = not others or any(len(self.waiting[other]) < self.QUEUE for other in others)
            expected = (IN if self.waiting[end] else 0) | (OUT if room else 0)
            assert end.pollable.events == expected
            assert end.dropped == self.lost[end]

    def teardown(self) -> None:
        for end in self.ends:
            end.close()


TestWireModel = WireModel.TestCase


@given(st.lists(st.binary(min_size=1, max_size=1518), max_size=30))
def test_frames_are_carried_as_they_are(frames: list[bytes]) -> None:
    one, other = wire_pair()
    with one, other:
        assert one.send_batch(frames) == len(frames)
        assert other.recv_batch(limit=100) == frames
