"""Keys of VPollSelector that were registered by mask: any event, exactly."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import selectors
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exact_backends import WAYS, showing, shown_by
from memory_helpers import Lab, R, settles
from ourloops import new_vpoll, selector_watchdog, when_asleep
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.selector import VPollSelector
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
EVERY = EventMask(sum(EventMask))

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def selector() -> Iterator[VPollSelector]:
    with VPollSelector() as selector:
        yield selector


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


@pytest.fixture(params=["wait-queue", "kernel"])
def vpoll(request: pytest.FixtureRequest) -> Iterator[VPoll]:
    with VPoll(backend="tcppair" if request.param == "kernel" else "virtual") as vpoll:
        yield vpoll


@pytest.fixture
def fd(vpoll: VPoll) -> int:
    return vpoll.fileno()


@pytest.mark.parametrize("backend", WAYS)
def test_event_is_reported_alone(selector: VPollSelector, backend: str | None) -> None:
    exact = shown_by(backend)
    with VPoll(backend=backend) as vpoll:
        fileobj: Any = vpoll.fileno() if backend else vpoll
        for event in exact:
            key = selector.register_mask(fileobj, event, "data")
            vpoll.set_events(exact & ~(event | ERR | HUP))
            assert selector.select(0) == []
            with selector_watchdog(selector), when_asleep(partial(vpoll.add_events, event)):
                found = selector.select()
            assert found == [(key, event)]
            assert isinstance(found[0][1], EventMask)
            assert selector.select(0) == found
            vpoll.del_events(event)
            assert selector.select(0) == []
            selector.unregister(fileobj)


def test_key_holds_the_mask(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    key = selector.register_mask(fd, PRI | RDHUP, "data")
    assert key == selectors.SelectorKey(fd, fd, PRI | RDHUP, "data")
    assert isinstance(key.events, EventMask)
    assert selector.get_key(fd) == key
    assert dict(selector.get_map()) == {fd: key}
    assert selector.unregister(fd) == key


def test_numbers_that_both_kinds_share_are_not_confused(
    selector: VPollSelector,
) -> None:
    """EPOLLPRI is 2, and so is EVENT_WRITE."""
    with new_vpoll() as urgent, new_vpoll() as writable:
        by_mask = selector.register_mask(urgent, PRI)
        by_events = selector.register(writable, WRITE)
        assert int(by_mask.events) == by_events.events
        for vpoll in (urgent, writable):
            vpoll.set_events(PRI)
        assert selector.select(0) == [(by_mask, PRI)]
        for vpoll in (urgent, writable):
            vpoll.set_events(OUT)
        [(key, events)] = selector.select(0)
        assert (key, events) == (by_events, WRITE)
        assert not isinstance(events, EventMask)


def test_mask_given_to_register_is_refused(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    for mask in (IN, PRI, IN | PRI):
        with pytest.raises(ValueError, match="register_mask"):
            selector.register(fd, mask)
    key = selector.register(fd, READ)
    with pytest.raises(ValueError, match="modify_mask"):
        selector.modify(fd, PRI)
    assert selector.get_key(fd) == key


@pytest.mark.parametrize("mask", [1 << 28, select.EPOLLET, -1])
def test_bits_that_are_no_events_are_a_value_error(
    selector: VPollSelector, vpoll: VPoll, fd: int, mask: int
) -> None:
    with pytest.raises(ValueError, match="event mask"):
        selector.register_mask(fd, mask)
    key = selector.register_mask(fd, PRI)
    with pytest.raises(ValueError, match="event mask"):
        selector.modify_mask(fd, mask)
    assert selector.get_key(fd) == key


def test_one_file_is_registered_in_one_way(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    selector.register_mask(fd, PRI)
    with pytest.raises(KeyError, match="already registered"):
        selector.register(fd, READ)
    selector.unregister(fd)
    selector.register(fd, READ)
    with pytest.raises(KeyError, match="already registered"):
        selector.register_mask(fd, PRI)


def test_error_and_hang_up_are_always_reported(selector: VPollSelector) -> None:
    with new_vpoll(ERR | HUP | IN) as vpoll:
        key = selector.register_mask(vpoll, 0)
        assert selector.select(0) == [(key, ERR | HUP)]


def test_modified_mask_counts_at_once(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    vpoll.set_events(PRI | OUT)
    selector.register_mask(fd, IN)
    assert selector.select(0) == []
    key = selector.modify_mask(fd, PRI, "data")
    assert key.data == "data"
    assert selector.select(0) == [(key, PRI)]
    key = selector.modify_mask(fd, OUT | PRI)
    assert selector.select(0) == [(key, OUT | PRI)]


def test_key_changes_between_both_kinds(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    vpoll.set_events(IN)
    selector.register(fd, READ)
    key = selector.modify_mask(fd, IN)
    # The same interest, and the same number.
    [(found, events)] = selector.select(0)
    assert found == key
    assert isinstance(events, EventMask)
    key = selector.modify(fd, READ | WRITE)
    [(found, events)] = selector.select(0)
    assert (found, events) == (key, READ)
    assert not isinstance(events, EventMask)
    key = selector.modify_mask(fd, PRI)
    assert selector.select(0) == []
    selector.unregister(fd)
    key = selector.register(fd, READ)
    [(found, events)] = selector.select(0)
    assert (found, events) == (key, READ)
    assert not isinstance(events, EventMask)


def test_unregistered_file_is_a_key_error(selector: VPollSelector, vpoll: VPoll, fd: int) -> None:
    with pytest.raises(KeyError, match="is not registered"):
        selector.modify_mask(fd, PRI)


def test_closed_file_is_ebadf(selector: VPollSelector) -> None:
    vpoll = new_vpoll()
    vpoll.close()
    gone = os.dup(0)
    os.close(gone)
    for fileobj in (vpoll, gone):
        with pytest.raises(OSError) as caught:
            selector.register_mask(fileobj, PRI)
        assert caught.value.errno == errno.EBADF
    assert not selector.get_map()


class Wrapper:
    """An object that has a fileno() and nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def register_mask(selector: VPollSelector, fileobj: Any) -> selectors.SelectorKey:
    return selector.register_mask(fileobj, IN)


def register(selector: VPollSelector, fileobj: Any) -> selectors.SelectorKey:
    return selector.register(fileobj, READ)


@pytest.mark.parametrize("way", [register_mask, register])
def test_object_with_a_virtual_number_is_its_vpoll(
    selector: VPollSelector, way: Callable[[VPollSelector, Any], selectors.SelectorKey]
) -> None:
    with new_vpoll(IN) as vpoll:
        wrapper = Wrapper(vpoll.fileno())
        key = way(selector, wrapper)
        assert selector.select(0) == [(key, key.events)]
        assert selector.unregister(wrapper) == key


def test_urgent_data_of_a_socket(selector: VPollSelector, lab: Lab) -> None:
    client, server = lab.pair()
    key = selector.register_mask(server, PRI | RDHUP)
    client.send(b"data")
    settles(server, R | OUT | EventMask.WRNORM)
    assert selector.select(0) == []
    client.send(b"!", socket.MSG_OOB)
    with selector_watchdog(selector):
        assert selector.select() == [(key, PRI)]
    client.shutdown(socket.SHUT_WR)
    settles(server, R | OUT | EventMask.WRNORM | PRI | RDHUP)
    assert selector.select(0) == [(key, PRI | RDHUP)]
    selector.unregister(server)


def test_more_vpolls_by_mask_than_one_batch_are_all_reported(selector: VPollSelector) -> None:
    vpolls = [new_vpoll(PRI | IN) for _ in range(600)]
    for vpoll in vpolls:
        selector.register_mask(vpoll, PRI)
    found = [selector.select() for _ in range(3)]
    assert {events for report in found for _, events in report} == {PRI}
    assert {key.fileobj for report in found for key, _ in report} == set(vpolls)
    for vpoll in vpolls:
        vpoll.close()


def test_loop_runs_beside_keys_by_mask() -> None:
    """asyncio makes its own registrations in the same selector."""
    with VPollSelector() as selector, new_vpoll() as vpoll:
        loop = asyncio.SelectorEventLoop(selector)
        seen: list[int] = []
        called = loop.create_future()

        def reader() -> None:
            vpoll.del_events(IN)
            seen.append(1)
            called.set_result(None)

        loop.add_reader(vpoll.fileno(), reader)
        vpoll.add_events(IN)
        loop.run_until_complete(called)
        loop.remove_reader(vpoll.fileno())
        loop.close()
        assert seen == [1]


NAMED = st.integers(0, EVERY).map(lambda mask: mask & EVERY)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(NAMED, NAMED), max_size=12))
@pytest.mark.parametrize("backend", [None, "virtual", *showing(EVERY)])
def test_any_mask_for_any_interest_is_what_epoll_would_report(
    backend: str | None, steps: list[tuple[int, int]]
) -> None:
    with VPollSelector() as selector, VPoll(backend=backend) as vpoll:
        fileobj: Any = vpoll.fileno() if backend else vpoll
        selector.register_mask(fileobj, 0)
        for interest, pending in steps:
            vpoll.set_events(pending)
            key = selector.modify_mask(fileobj, interest)
            expected = pending & (interest | ERR | HUP)
            assert selector.select(0) == ([(key, expected)] if expected else [])
        selector.unregister(fileobj)
