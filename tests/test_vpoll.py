"""A vpoll is a mask and a wait queue, with the rules of EFD_VPOLL."""

from __future__ import annotations

import copy
import errno
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.events import ALWAYS, KEPT

IN, OUT, PRI, ERR, HUP = (
    EventMask.IN,
    EventMask.OUT,
    EventMask.PRI,
    EventMask.ERR,
    EventMask.HUP,
)

OPERATIONS = [VPoll.add_events, VPoll.del_events, VPoll.set_events]

masks = st.integers(0, KEPT)
steps = st.lists(st.tuples(st.sampled_from(["add", "del", "set"]), masks), max_size=20)


@given(first=masks, steps=steps)
def test_every_operation_returns_the_new_mask_and_wakes_all_waiters_with_it(
    first: int, steps: list[tuple[str, int]]
) -> None:
    heard: list[int] = []
    heard_too: list[int] = []
    expected = []
    mask = first
    with VPoll(first) as vpoll:
        vpoll.add_waiter(heard.append)
        vpoll.add_waiter(heard_too.append)
        for command, argument in steps:
            if command == "add":
                mask |= argument
                assert vpoll.add_events(argument) == mask
            elif command == "del":
                mask &= ~argument
                assert vpoll.del_events(argument) == mask
            else:
                mask = argument
                assert vpoll.set_events(argument) == mask
            expected.append(mask)
            assert vpoll.events == vpoll.peek() == mask
    assert heard == heard_too == expected


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mask", [EventMask.IN, 1, True])
def test_masks_of_any_integer_type_become_plain_ints(
    operation: Callable[[VPoll, int], int], mask: int
) -> None:
    with VPoll(EventMask.OUT) as vpoll:
        assert type(operation(vpoll, mask)) is int
        assert type(vpoll.peek()) is int
        assert type(vpoll.events) is EventMask


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mask", [1 << 28, 1 << 31, -1, 1 << 40])
def test_a_mask_outside_bits_0_to_27_changes_nothing(
    operation: Callable[[VPoll, int], int], mask: int
) -> None:
    heard: list[int] = []
    with VPoll(OUT) as vpoll:
        vpoll.add_waiter(heard.append)
        with pytest.raises(ValueError, match="bits outside"):
            operation(vpoll, mask)
        assert vpoll.events == OUT
    assert heard == []


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mask", ["IN", None, 1.0])
def test_what_is_no_integer_changes_nothing(
    operation: Callable[[VPoll, Any], int], mask: object
) -> None:
    with VPoll(OUT) as vpoll:
        with pytest.raises(TypeError):
            operation(vpoll, mask)
        assert vpoll.events == OUT


@pytest.mark.parametrize("argument", ["events", "need"])
def test_a_bad_first_mask_or_need_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match="bits outside"):
        VPoll(**{argument: 1 << 28})  # type: ignore[arg-type]


def test_a_waiter_that_is_added_twice_is_called_twice_and_removed_once_a_time() -> None:
    heard: list[int] = []
    with VPoll() as vpoll:
        waiter = heard.append
        vpoll.add_waiter(waiter)
        vpoll.add_waiter(waiter)
        vpoll.add_events(IN)
        assert heard == [IN, IN]
        assert vpoll.remove_waiter(waiter)
        vpoll.add_events(OUT)
        assert heard == [IN, IN, IN | OUT]
        assert vpoll.remove_waiter(waiter)
        assert not vpoll.remove_waiter(waiter)
        vpoll.set_events(0)
        assert heard == [IN, IN, IN | OUT]


def test_a_waiter_may_remove_itself_and_add_others_while_it_is_called() -> None:
    heard: list[int] = []
    with VPoll() as vpoll:

        def once(mask: int) -> None:
            vpoll.remove_waiter(once)
            vpoll.add_waiter(heard.append)

        vpoll.add_waiter(once)
        vpoll.add_events(IN)
        vpoll.add_events(OUT)
    assert heard == [IN | OUT]


def test_a_waiter_may_operate_the_vpoll_it_waits_on() -> None:
    with VPoll() as vpoll:

        def clear(mask: int) -> None:
            if mask & IN:
                vpoll.del_events(IN)

        vpoll.add_waiter(clear)
        assert vpoll.add_events(IN | OUT) == IN | OUT
        assert vpoll.events == OUT


@pytest.mark.parametrize("wanted", [IN, OUT, IN | OUT])
def test_wait_returns_at_once_what_is_pending_of_the_wanted(wanted: EventMask) -> None:
    with VPoll(IN | OUT | PRI) as vpoll:
        assert vpoll.wait(wanted) == wanted


@given(mask=masks, wanted=masks)
def test_wait_reports_errors_and_hang_ups_unasked(mask: int, wanted: int) -> None:
    with VPoll(mask) as vpoll:
        assert vpoll.wait(wanted, 0) == mask & (wanted | ALWAYS)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_wait_returns_nothing_when_the_time_is_over(timeout: float) -> None:
    with VPoll(OUT) as vpoll:
        assert vpoll.wait(IN, timeout) == 0


def test_wait_sleeps_on_after_an_event_that_was_gone_before_it_looked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with VPoll() as vpoll:
        clock = [0.0, 1.0, 2.0, 3.0, 99.0]

        def tick() -> float:
            # Each look at the clock is followed by one sleep: wake it, for nothing.
            vpoll.add_events(IN)
            vpoll.del_events(IN)
            return clock.pop(0)

        monkeypatch.setattr(time, "monotonic", tick)
        assert vpoll.wait(IN, 10) == 0
        assert clock == []


def test_wait_leaves_no_waiter_behind() -> None:
    with VPoll() as vpoll:
        vpoll.wait(IN, 0.001)
        calls: list[int] = []
        vpoll.add_waiter(calls.append)
        vpoll.add_events(IN)
        assert calls == [IN]


def test_wait_refuses_a_bad_mask() -> None:
    with VPoll() as vpoll, pytest.raises(ValueError, match="bits outside"):
        vpoll.wait(1 << 29, 0)


@pytest.mark.parametrize(
    "use",
    [
        lambda vpoll: vpoll.add_events(IN),
        lambda vpoll: vpoll.del_events(IN),
        lambda vpoll: vpoll.set_events(IN),
        lambda vpoll: vpoll.events,
        lambda vpoll: vpoll.peek(),
        lambda vpoll: vpoll.add_waiter(print),
        lambda vpoll: vpoll.wait(IN, 0),
        lambda vpoll: vpoll.fileno(),
        lambda vpoll: vpoll.dup(),
    ],
)
def test_a_closed_vpoll_answers_ebadf(use: Callable[[VPoll], object]) -> None:
    vpoll = VPoll(IN)
    twin = vpoll.dup()
    vpoll.close()
    with twin, pytest.raises(OSError) as fault:
        use(vpoll)
    assert fault.value.errno == errno.EBADF
    assert vpoll.closed
    assert not vpoll.remove_waiter(print)


def test_closing_twice_is_allowed() -> None:
    vpoll = VPoll()
    twin = vpoll.dup()
    vpoll.close()
    vpoll.close()
    assert twin.add_events(IN) == IN
    twin.close()


def test_duplicates_share_events_and_waiters_until_the_last_is_closed() -> None:
    heard: list[int] = []
    vpoll = VPoll()
    twin = vpoll.dup()
    vpoll.add_waiter(heard.append)
    twin.add_events(IN)
    assert vpoll.events == IN
    vpoll.close()
    twin.add_events(OUT)
    assert heard == [IN, IN | OUT]
    twin.close()
    assert heard == [IN, IN | OUT]


def test_closing_wakes_no_waiter() -> None:
    heard: list[int] = []
    vpoll = VPoll(IN)
    vpoll.add_waiter(heard.append)
    vpoll.close()
    assert heard == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_vpoll_cannot_be_pickled(protocol: int) -> None:
    with VPoll() as vpoll, pytest.raises(TypeError, match="cannot pickle a VPoll"):
        pickle.dumps(vpoll, protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_vpoll_cannot_be_copied(duplicate: Callable[[VPoll], VPoll]) -> None:
    with VPoll() as vpoll, pytest.raises(TypeError, match="cannot pickle a VPoll"):
        duplicate(vpoll)


def test_the_representation_shows_events_descriptor_and_backend() -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        assert repr(vpoll) == "<VPoll <EventMask.IN: 1> backend=unixpair>"
        fd = vpoll.fileno()
        assert repr(vpoll) == f"<VPoll <EventMask.IN: 1> fd={fd} backend=unixpair>"
    assert repr(vpoll) == "<VPoll closed>"
