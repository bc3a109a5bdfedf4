"""Within its exact set every backend shows the mask, to every poller, after any operations."""

from __future__ import annotations

import selectors

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale import fewer
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends import by_name
from vpoll_asyncio.backends.pair import NEAREST
from vpoll_asyncio.events import from_selector, to_select, to_selector
from vpoll_asyncio.testing import NAMED, Operation, masks, operations
from vpoll_helpers import KERNEL_BACKENDS, PAIRS, by_epoll, by_poll, by_select


def pairs_show(mask: int, exact: int) -> int:
    """What the table of nearest wake-ups says of `mask`."""
    shown = mask & exact
    for bit, instead in NEAREST.items():
        if mask & bit & ~exact:
            shown |= instead
    return shown


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_every_transition_between_masks_of_the_exact_set_is_seen(backend: str) -> None:
    exact = by_name(backend).exact & 0xF
    with VPoll(backend=backend) as vpoll:
        fd = vpoll.fileno()
        masks = [mask for mask in range(16) if not mask & ~exact]
        for before in masks:
            for after in masks:
                vpoll.set_events(before)
                assert by_poll(fd) & exact == before
                vpoll.set_events(after)
                assert by_poll(fd) & exact == after, f"from {before:#x}"


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
@settings(max_examples=fewer(40, least=10), deadline=None)
@given(data=st.data())
def test_all_pollers_agree_with_a_plain_mask(backend: str, data: st.DataObject) -> None:
    exact = by_name(backend).exact
    mask = data.draw(masks(exact), label="first mask")
    with VPoll(mask, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for step in data.draw(operations(exact)):
            mask = step.after(mask)
            assert step.on(vpoll) == mask
            assert vpoll.events == mask
            assert by_epoll(fd) & exact == mask
            assert by_poll(fd) & exact == mask & NAMED
            assert by_select(fd) == to_select(mask)
            with selectors.EpollSelector() as selector:
                key = selector.register(fd, 3)
                seen = to_selector(mask, from_selector(3))
                assert selector.select(0) == ([(key, seen)] if seen else [])


@pytest.mark.parametrize("backend", PAIRS)
@settings(max_examples=fewer(60, least=10), deadline=None)
@given(first=masks(NAMED), steps=operations(NAMED))
def test_a_pair_shows_the_nearest_wake_up_of_other_events(
    backend: str, first: int, steps: list[Operation]
) -> None:
    exact = by_name(backend).exact
    mask = first
    with VPoll(mask, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for step in steps:
            mask = step.after(mask)
            assert step.on(vpoll) == mask
            assert vpoll.events == mask
            assert by_epoll(fd) & exact == pairs_show(mask, exact)


@pytest.mark.parametrize("event", NEAREST)
def test_a_nearest_wake_up_is_one_that_every_pair_shows_exactly(event: int) -> None:
    for backend in PAIRS:
        assert NEAREST[event]
        assert not NEAREST[event] & ~by_name(backend).exact


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
@settings(max_examples=fewer(30, least=10), deadline=None)
@given(data=st.data())
def test_with_map_err_an_error_reads_as_in_and_out(backend: str, data: st.DataObject) -> None:
    exact = by_name(backend).exact
    mask = 0
    with VPoll(backend=backend, map_err=True) as vpoll:
        fd = vpoll.fileno()
        for step in data.draw(operations(int(exact | EventMask.ERR))):
            mask = step.after(mask)
            assert step.on(vpoll) == mask
            assert vpoll.events == mask
            shown = mask
            if mask & EventMask.ERR:
                shown = (mask ^ EventMask.ERR) | EventMask.IN | EventMask.OUT
            assert by_epoll(fd) & int(exact | EventMask.ERR) == shown
