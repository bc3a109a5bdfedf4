"""Within its exact set every backend shows the mask, to every poller, after any operations."""

from __future__ import annotations

import selectors

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scale import fewer
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends import by_name
from vpoll_asyncio.backends.pair import NEAREST
from vpoll_asyncio.events import from_selector, to_select, to_selector
from vpoll_helpers import KERNEL_BACKENDS, PAIRS, by_epoll, by_poll, by_select, open_descriptors

NAMED = sum(EventMask)


def model(mask: int, command: str, argument: int) -> int:
    return {"add": mask | argument, "del": mask & ~argument, "set": argument}[command]


def subsets(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, bits).map(lambda mask: mask & bits)


def operations(bits: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(["add", "del", "set"]), subsets(bits)), max_size=30)


def operate(vpoll: VPoll, command: str, argument: int) -> int:
    return {
        "add": vpoll.add_events,
        "del": vpoll.del_events,
        "set": vpoll.set_events,
    }[command](argument)


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
    mask = data.draw(subsets(exact), label="first mask")
    with VPoll(mask, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for command, argument in data.draw(operations(exact)):
            mask = model(mask, command, argument)
            assert operate(vpoll, command, argument) == mask
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
@given(first=subsets(NAMED), steps=operations(NAMED))
def test_a_pair_shows_the_nearest_wake_up_of_other_events(
    backend: str, first: int, steps: list[tuple[str, int]]
) -> None:
    exact = by_name(backend).exact
    mask = first
    with VPoll(mask, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for command, argument in steps:
            mask = model(mask, command, argument)
            assert operate(vpoll, command, argument) == mask
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
        for command, argument in data.draw(operations(int(exact | EventMask.ERR))):
            mask = model(mask, command, argument)
            assert operate(vpoll, command, argument) == mask
            assert vpoll.events == mask
            shown = mask
            if mask & EventMask.ERR:
                shown = (mask ^ EventMask.ERR) | EventMask.IN | EventMask.OUT
            assert by_epoll(fd) & int(exact | EventMask.ERR) == shown


class Handles(RuleBasedStateMachine):
    """Duplicates of one vpoll are made, used and closed in any order."""

    backend = ""
    handles = Bundle("handles")

    @initialize(target=handles)
    def make(self) -> VPoll:
        self.before = open_descriptors()
        self.exact = by_name(self.backend).exact
        self.mask = 0
        self.heard: list[int] = []
        self.numbers: dict[VPoll, int] = {}
        self.open = [VPoll(backend=self.backend)]
        self.open[0].add_waiter(self.heard.append)
        return self.open[0]

    @rule(target=handles, handle=handles)
    def duplicate(self, handle: VPoll) -> VPoll:
        twin = handle.dup()
        self.open.append(twin)
        return twin

    @rule(handle=handles)
    def ask_for_the_descriptor(self, handle: VPoll) -> None:
        number = self.numbers.setdefault(handle, handle.fileno())
        assert handle.fileno() == number >= 0
        assert len(set(self.numbers.values())) == len(self.numbers)

    @rule(handle=handles, command=st.sampled_from(["add", "del", "set"]), data=st.data())
    def operate(self, handle: VPoll, command: str, data: st.DataObject) -> None:
        argument = data.draw(subsets(self.exact))
        self.mask = model(self.mask, command, argument)
        del self.heard[:]
        assert operate(handle, command, argument) == self.mask
        assert self.heard == [self.mask]

    @precondition(lambda self: len(self.open) > 1)
    @rule(handle=consumes(handles))
    def close(self, handle: VPoll) -> None:
        handle.close()
        self.open.remove(handle)
        assert handle.closed
        number = self.numbers.pop(handle, None)
        for other, held in self.numbers.items():
            assert other.fileno() == held != number

    @invariant()
    def every_handle_shows_the_mask(self) -> None:
        for handle in getattr(self, "open", ()):
            assert handle.events == self.mask
        for number in getattr(self, "numbers", {}).values():
            assert by_epoll(number) & self.exact == self.mask

    def teardown(self) -> None:
        if hasattr(self, "open"):
            for handle in self.open:
                handle.close()
            assert open_descriptors() == self.before


@pytest.mark.parametrize("name", KERNEL_BACKENDS)
def test_duplicates_in_any_order(name: str) -> None:
    class OfBackend(Handles):
        backend = name

    run_state_machine_as_test(
        OfBackend,
        settings=settings(max_examples=fewer(30, least=10), stateful_step_count=25, deadline=None),
    )
