"""What the model says of a vpoll and an epoll: the rules of epoll(7) and of EFD_VPOLL."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio import EventMask
from vpoll_asyncio.testing import (
    NAMED,
    EpollModel,
    Operation,
    VPollModel,
    interests,
    masks,
    operation,
    operations,
)

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP
ET, ONE_SHOT, EXCLUSIVE = select.EPOLLET, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE


def watched(vpoll: VPollModel, interest: int) -> EpollModel:
    epoll = EpollModel()
    epoll.register(vpoll, interest)
    return epoll


def seen(epoll: EpollModel) -> list[int]:
    return [int(events) for _, events in epoll.wait()]


def number_of(action: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        action()
    return caught.value.errno


@given(first=masks(), steps=operations())
def test_every_operation_tells_waiters_the_whole_mask(first: int, steps: list[Operation]) -> None:
    vpoll, heard, expected = VPollModel(first), list[int](), list[int]()
    vpoll.add_waiter(heard.append)
    mask = first
    for step in steps:
        mask = step.after(mask)
        assert step.on(vpoll) == vpoll.events == mask
        expected.append(mask)
    assert heard == expected
    assert vpoll.remove_waiter(heard.append)
    assert not vpoll.remove_waiter(heard.append)


@pytest.mark.parametrize("command", ["add", "del", "set"])
def test_refused_bit_changes_nothing_and_wakes_nobody(command: Any) -> None:
    vpoll = VPollModel(IN)
    epoll, heard = watched(vpoll, IN | ET), list[int]()
    assert seen(epoll) == [IN]
    vpoll.add_waiter(heard.append)
    with pytest.raises(ValueError, match="event mask"):
        Operation(command, 1 << 28).on(vpoll)
    assert (vpoll.events, heard, seen(epoll)) == (IN, [], [])


@given(mask=masks(), interest=masks())
def test_level_is_told_until_it_is_cleared(mask: int, interest: int) -> None:
    vpoll = VPollModel(mask)
    epoll = watched(vpoll, interest)
    told = mask & (interest | ERR | HUP)
    assert seen(epoll) == seen(epoll) == ([told] if told else [])
    vpoll.set_events(0)
    assert seen(epoll) == []


@given(mask=masks(), interest=masks(), step=operation())
def test_each_operation_is_an_edge_where_an_event_is_pending_afterwards(
    mask: int, interest: int, step: Operation
) -> None:
    vpoll = VPollModel(mask)
    epoll = watched(vpoll, interest | ET)
    epoll.wait()
    assert seen(epoll) == []
    told = step.on(vpoll) & (interest | ERR | HUP)
    assert seen(epoll) == ([told] if told else [])
    assert seen(epoll) == []


def test_what_came_and_went_unseen_is_no_event() -> None:
    vpoll = VPollModel()
    epoll = watched(vpoll, IN | ET)
    vpoll.add_events(IN)
    vpoll.del_events(IN)
    assert seen(epoll) == []


def test_one_shot_is_silent_even_of_errors_until_it_is_modified() -> None:
    vpoll = VPollModel(IN)
    epoll = watched(vpoll, IN | ONE_SHOT)
    assert seen(epoll) == [IN]
    vpoll.add_events(ERR | HUP)
    assert seen(epoll) == []
    epoll.modify(vpoll, IN | ONE_SHOT)
    assert seen(epoll) == [IN | ERR | HUP]
    assert seen(epoll) == []


def test_modifying_is_a_new_edge() -> None:
    vpoll = VPollModel(IN)
    epoll = watched(vpoll, IN | ET)
    assert seen(epoll) == [IN]
    epoll.modify(vpoll, IN | ET)
    assert seen(epoll) == [IN]


@pytest.mark.parametrize("keyed", [True, False])
def test_exclusive_wakes_one_of_the_threads_that_sleep(keyed: bool) -> None:
    vpoll = VPollModel(keyed=keyed)
    crowd = [watched(vpoll, IN | EXCLUSIVE) for _ in range(3)]
    assert all(epoll.sleep() for epoll in crowd)
    vpoll.add_events(IN)
    assert [epoll.resume() for epoll in crowd] == [[(vpoll, IN)], [], []]
    vpoll.add_events(IN)
    assert [epoll.resume() for epoll in crowd] == [[], [(vpoll, IN)], []]


def test_all_who_are_not_exclusive_are_woken() -> None:
    vpoll = VPollModel()
    crowd = [watched(vpoll, flags) for flags in (IN, IN | EXCLUSIVE, IN | ET)]
    assert all(epoll.sleep() for epoll in crowd)
    vpoll.add_events(IN)
    assert [bool(epoll.resume()) for epoll in crowd] == [True] * 3


def test_thread_does_not_sleep_while_something_is_pending() -> None:
    epoll = watched(VPollModel(IN), IN)
    assert not epoll.sleep()
    assert epoll.resume() == []


def test_epoll_in_an_epoll_is_readable_while_it_has_something_to_tell() -> None:
    vpoll, outer = VPollModel(), EpollModel()
    inner = watched(vpoll, PRI)
    outer.register(inner, IN)
    edges = watched_by_edge(inner)
    assert (seen(outer), inner.poll(IN), inner.select()) == ([], 0, (False, False, False))
    vpoll.add_events(PRI)
    assert (seen(outer), inner.poll(IN), inner.select()) == ([IN], IN, (True, False, False))
    assert (seen(edges), seen(edges)) == ([IN], [])
    vpoll.add_events(PRI)
    assert seen(edges) == [IN]
    vpoll.set_events(0)
    assert (seen(outer), seen(inner)) == ([], [])


def watched_by_edge(inner: EpollModel) -> EpollModel:
    outer = EpollModel()
    outer.register(inner, IN | ET)
    return outer


@pytest.mark.parametrize(("keyed", "told"), [(True, []), (False, [IN])])
def test_wake_up_that_names_no_events_is_an_edge_for_whoever_waits_for_the_epoll(
    keyed: bool, told: list[int]
) -> None:
    pending, other = VPollModel(IN), VPollModel(keyed=keyed)
    inner = watched(pending, IN)
    inner.register(other, PRI)
    outer = watched_by_edge(inner)
    assert seen(outer) == [IN]
    other.add_events(OUT)
    assert seen(outer) == told


def test_at_most_so_many_are_told_and_the_others_come_first_next_time() -> None:
    epoll = EpollModel()
    vpolls = [VPollModel(IN) for _ in range(3)]
    for vpoll in vpolls:
        epoll.register(vpoll, IN)
    order = [vpolls.index(vpoll) for _ in range(3) for vpoll, _ in told_two(epoll)]
    assert order == [0, 1, 2, 0, 1, 2]


def told_two(epoll: EpollModel) -> list[tuple[Any, EventMask]]:
    return list(epoll.wait(2))


def test_registration_lives_until_the_last_duplicate_is_closed() -> None:
    vpoll = VPollModel(IN)
    twin = vpoll.dup()
    epoll = watched(vpoll, IN)
    epoll.register(twin, PRI)
    vpoll.close()
    assert epoll.wait() == [(vpoll, IN)]
    twin.add_events(PRI)
    assert dict(epoll.wait()) == {vpoll: IN, twin: PRI}
    assert number_of(lambda: epoll.unregister(vpoll)) == errno.EBADF
    twin.close()
    assert epoll.wait() == []


def test_duplicate_with_the_number_of_a_closed_one_has_its_registrations() -> None:
    vpoll = VPollModel(IN)
    closed, other = vpoll.dup(), vpoll.dup()
    closed.number = other.number = 7
    epoll = watched(closed, IN)
    closed.close()
    assert number_of(lambda: epoll.register(other, IN)) == errno.EEXIST
    assert number_of(lambda: epoll.unregister(vpoll)) == errno.ENOENT
    epoll.unregister(other)
    assert epoll.wait() == []


def test_closing_wakes_nobody() -> None:
    vpoll = VPollModel(IN)
    twin, heard = vpoll.dup(), list[int]()
    epoll = watched(twin, IN | ET)
    twin.add_waiter(heard.append)
    epoll.wait()
    vpoll.close()
    vpoll.close()
    assert (epoll.wait(), heard) == ([], [])


def test_closed_descriptor_is_ebadf_and_nval() -> None:
    with VPollModel(IN) as vpoll:
        assert not vpoll.closed
    epoll = EpollModel()
    for action in (
        lambda: vpoll.add_events(IN),
        lambda: vpoll.events,
        vpoll.dup,
        vpoll.select,
        lambda: vpoll.add_waiter(print),
        lambda: epoll.register(vpoll, IN),
    ):
        assert number_of(action) == errno.EBADF
    assert vpoll.poll(IN) == EventMask.NVAL
    assert not vpoll.remove_waiter(print)
    epoll.close()
    assert number_of(epoll.wait) == errno.EBADF


def test_errors_are_those_of_epoll_ctl() -> None:
    vpoll, inner, outer = VPollModel(), EpollModel(), EpollModel()
    exclusive = watched(vpoll, IN | EXCLUSIVE)
    outer.register(inner, IN)
    for expected, action in (
        (errno.EEXIST, lambda: exclusive.register(vpoll, IN)),
        (errno.ENOENT, lambda: inner.modify(vpoll, IN)),
        (errno.ENOENT, lambda: inner.unregister(vpoll)),
        (errno.EINVAL, lambda: inner.register(inner, IN)),
        (errno.EINVAL, lambda: inner.register(vpoll, IN | EXCLUSIVE | ONE_SHOT)),
        (errno.EINVAL, lambda: inner.register(vpoll, PRI | EXCLUSIVE)),
        (errno.EINVAL, lambda: inner.register(exclusive, IN | EXCLUSIVE)),
        (errno.EINVAL, lambda: exclusive.modify(vpoll, IN)),
        (errno.EINVAL, lambda: outer.modify(inner, IN | EXCLUSIVE)),
        (errno.ELOOP, lambda: inner.register(outer, IN)),
    ):
        assert number_of(action) == expected


@given(mask=masks((1 << 28) - 1), interest=masks())
def test_poll_tells_named_events_and_select_its_three_sets(mask: int, interest: int) -> None:
    vpoll = VPollModel(mask)
    assert vpoll.poll(interest) == mask & (interest | ERR | HUP) & NAMED
    assert vpoll.poll(1 << 27) == mask & (ERR | HUP)
    readable, writable, exceptional = vpoll.select()
    assert readable == bool(mask & 0xF9)
    assert writable == bool(mask & 0x32C)
    assert exceptional == bool(mask & 0x22)


@given(interest=interests())
def test_every_interest_is_one_that_the_kernel_takes(interest: int) -> None:
    fd = os.eventfd(0)
    try:
        with select.epoll() as epoll:
            epoll.register(fd, interest)
    finally:
        os.close(fd)
    EpollModel().register(VPollModel(), interest)


@given(bits=masks((1 << 28) - 1), data=st.data())
def test_strategies_keep_to_their_bits(bits: int, data: st.DataObject) -> None:
    assert not data.draw(masks(bits)) & ~bits
    assert not data.draw(interests(bits, triggers=False)) & ~bits
    assert not data.draw(interests(bits)) & ~bits & ~(ET | ONE_SHOT | EXCLUSIVE)
    steps = data.draw(operations(bits, max_size=3))
    assert len(steps) <= 3
    assert not any(step.mask & ~bits for step in steps)


@pytest.mark.parametrize("strategy", [masks, interests, operation, operations])
def test_bits_that_no_vpoll_keeps_are_a_value_error(strategy: Callable[[int], object]) -> None:
    with pytest.raises(ValueError, match="event mask"):
        strategy(1 << 28)
