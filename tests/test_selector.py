"""VPollSelector: the contract of the selectors module, for both kinds of descriptor."""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ourloops import new_vpoll, when_asleep
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.selector import VPollSelector

IN, OUT, ERR, HUP, PRI = EventMask.IN, EventMask.OUT, EventMask.ERR, EventMask.HUP, EventMask.PRI
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
BOTH = READ | WRITE


@pytest.fixture
def selector() -> Iterator[VPollSelector]:
    with VPollSelector() as selector:
        yield selector


@pytest.fixture
def vpoll() -> Iterator[VPoll]:
    with new_vpoll() as vpoll:
        yield vpoll


class HasVPoll:
    """What a user socket is to a selector."""

    def __init__(self, vpoll: VPoll) -> None:
        self.vpoll = vpoll


def as_object(vpoll: VPoll) -> Any:
    return vpoll


def as_number(vpoll: VPoll) -> Any:
    return vpoll.fileno()


def as_socket(vpoll: VPoll) -> Any:
    return HasVPoll(vpoll)


FORMS = [as_object, as_number, as_socket]


# Registration.


@pytest.mark.parametrize("form", FORMS)
def test_key_holds_what_was_registered(selector: VPollSelector, vpoll: VPoll, form: Any) -> None:
    fileobj = form(vpoll)
    key = selector.register(fileobj, READ, "data")
    assert key == selectors.SelectorKey(fileobj, vpoll.fileno(), READ, "data")


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_vpoll_is_one_registration_in_every_form(
    selector: VPollSelector, vpoll: VPoll, first: Any, second: Any
) -> None:
    key = selector.register(first(vpoll), READ)
    with pytest.raises(KeyError, match="already registered"):
        selector.register(second(vpoll), WRITE)
    assert selector.get_key(second(vpoll)) == key
    assert selector.get_map()[second(vpoll)] == key
    assert selector.unregister(second(vpoll)) == key
    assert not selector.get_map()


def test_registering_a_vpoll_makes_no_descriptor(selector: VPollSelector, no_fd_leak: None) -> None:
    with VPoll() as vpoll:
        before = os.listdir("/proc/self/fd")
        key = selector.register(vpoll, READ)
        vpoll.add_events(IN)
        assert selector.select(0) == [(key, READ)]
        assert vpoll.backend is None
        assert os.listdir("/proc/self/fd") == before


def test_vpoll_with_a_kernel_object_is_found_by_object_and_by_its_keys_number(
    selector: VPollSelector,
) -> None:
    with VPoll(backend="unixpair") as vpoll:
        kernel_fd = vpoll.fileno()
        key = selector.register(vpoll, READ)
        by_descriptor = selector.register(kernel_fd, READ)
        assert selector.get_key(key.fd) == key
        assert selector.get_key(vpoll) == key
        assert selector.get_key(kernel_fd) is by_descriptor
        vpoll.add_events(IN)
        assert set(selector.select(0)) == {(key, READ), (by_descriptor, READ)}
        selector.unregister(kernel_fd)


@pytest.mark.parametrize("events", [0, 4, READ | 8, -1])
def test_bad_events_are_a_value_error(selector: VPollSelector, vpoll: VPoll, events: int) -> None:
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(vpoll, events)
    selector.register(vpoll, READ)
    with pytest.raises(ValueError, match="Invalid events"):
        selector.modify(vpoll, events)
    assert selector.get_key(vpoll).events == READ


@pytest.mark.parametrize("fileobj", [-1, 2.5, None, object()])
def test_what_is_no_file_is_a_value_error(selector: VPollSelector, fileobj: Any) -> None:
    with pytest.raises(ValueError, match="Invalid file"):
        selector.register(fileobj, READ)
    with pytest.raises(ValueError, match="Invalid file"):
        selector.unregister(fileobj)


def test_failing_modify_of_a_descriptor_unregisters_it(selector: VPollSelector) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        selector.register(ours, READ)
        # Closed behind the selector's back: epoll does not know it any more.
        os.close(ours.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            selector.modify(ours, WRITE)
        assert not selector.get_map()
        ours.detach()


@pytest.mark.parametrize("form", FORMS)
def test_unregistered_vpoll_is_a_key_error(
    selector: VPollSelector, vpoll: VPoll, form: Any
) -> None:
    for action in (
        selector.unregister,
        selector.get_key,
        lambda fileobj: selector.modify(fileobj, READ),
        lambda fileobj: selector.get_map()[fileobj],
    ):
        with pytest.raises(KeyError, match="is not registered"):
            action(form(vpoll))


def test_closed_vpoll_cannot_be_registered(selector: VPollSelector) -> None:
    vpoll = new_vpoll()
    number = vpoll.fileno()
    vpoll.close()
    for fileobj in (vpoll, number):
        with pytest.raises(OSError, match=r"closed|no vpoll") as caught:
            selector.register(fileobj, READ)
        assert caught.value.errno == errno.EBADF
    assert not selector.get_map()


def test_map_shows_both_kinds(selector: VPollSelector, vpoll: VPoll) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keys = {selector.register(vpoll, READ), selector.register(ours, WRITE)}
        shown = selector.get_map()
        assert len(shown) == 2
        assert set(shown) == {vpoll.fileno(), ours.fileno()}
        assert set(shown.values()) == keys
        assert vpoll in shown
        assert theirs not in shown
        assert shown.get(theirs) is None


def test_closed_selector_has_no_map_and_closes_twice(no_fd_leak: None) -> None:
    with new_vpoll() as vpoll:
        selector = VPollSelector()
        selector.register(vpoll, READ)
        selector.close()
        selector.close()
        assert selector.get_map() is None
        with pytest.raises(RuntimeError, match="closed"):
            selector.get_key(vpoll)
        # The wait queue was left: nobody is woken any more.
        vpoll.add_events(IN)
        assert not selector.ready


def test_selector_that_is_dropped_leaves_no_descriptor(no_fd_leak: None) -> None:
    VPollSelector()


# What select reports.


@pytest.mark.parametrize("interest", [READ, WRITE, BOTH])
@pytest.mark.parametrize(
    "mask",
    [EventMask(sum(bits)) for n in range(3) for bits in itertools.combinations(EventMask, n)],
    ids=str,
)
def test_mask_reads_as_epoll_selector_would_read_it(
    selector: VPollSelector, vpoll: VPoll, interest: int, mask: EventMask
) -> None:
    # epoll_wait(2) reports the mask cut to the interest, ERR and HUP; what EpollSelector
    # makes of that: all but OUT is READ, all but IN is WRITE, cut to what was asked for.
    asked = (IN if interest & READ else 0) | (OUT if interest & WRITE else 0)
    seen = mask & (asked | ERR | HUP)
    expected = ((READ if seen & ~OUT else 0) | (WRITE if seen & ~IN else 0)) & interest
    key = selector.register(vpoll, interest)
    vpoll.set_events(mask)
    assert selector.select(0) == ([(key, expected)] if expected else [])


def test_pending_event_is_reported_until_it_is_cleared(
    selector: VPollSelector, vpoll: VPoll
) -> None:
    key = selector.register(vpoll, READ)
    vpoll.add_events(IN)
    assert [selector.select(0) for _ in range(3)] == [[(key, READ)]] * 3
    vpoll.del_events(IN)
    assert selector.select(0) == []
    vpoll.add_events(IN)
    assert selector.select(0) == [(key, READ)]


def test_event_that_was_pending_before_registration_is_reported(
    selector: VPollSelector,
) -> None:
    with new_vpoll(IN) as vpoll:
        key = selector.register(vpoll, READ)
        assert selector.select() == [(key, READ)]


def test_event_that_was_added_and_deleted_leaves_nothing(
    selector: VPollSelector, vpoll: VPoll
) -> None:
    selector.register(vpoll, READ)
    vpoll.add_events(IN)
    vpoll.del_events(IN)
    assert selector.select(0.01) == []


def test_modified_interest_counts_at_once(selector: VPollSelector, vpoll: VPoll) -> None:
    selector.register(vpoll, READ)
    vpoll.set_events(OUT)
    assert selector.select(0) == []
    key = selector.modify(vpoll, WRITE, "data")
    assert key == selectors.SelectorKey(vpoll, vpoll.fileno(), WRITE, "data")
    assert selector.select() == [(key, WRITE)]
    selector.modify(vpoll, READ)
    assert selector.select(0) == []


def test_modified_data_is_reported(selector: VPollSelector, vpoll: VPoll) -> None:
    selector.register(vpoll, READ, "old")
    vpoll.add_events(IN)
    key = selector.modify(vpoll, READ, "new")
    assert selector.select() == [(key, READ)]


def test_unregistered_vpoll_reports_nothing(selector: VPollSelector, vpoll: VPoll) -> None:
    selector.register(vpoll, READ)
    vpoll.add_events(IN)
    selector.unregister(vpoll)
    assert selector.select(0) == []
    key = selector.register(vpoll, READ)
    assert selector.select() == [(key, READ)]


def test_vpoll_closed_while_registered_reports_nothing_and_can_be_unregistered(
    selector: VPollSelector,
) -> None:
    vpolls = [new_vpoll(IN) for _ in range(3)]
    numbers = [vpoll.fileno() for vpoll in vpolls]
    keys = [selector.register(vpoll, READ) for vpoll in vpolls]
    for vpoll in vpolls:
        vpoll.close()
    assert selector.select(0) == []
    assert len(selector.get_map()) == 3
    assert selector.unregister(vpolls[0]) == keys[0]
    assert selector.unregister(numbers[1]) == keys[1]
    assert selector.get_key(vpolls[2]) == keys[2]


def test_duplicates_are_two_registrations(selector: VPollSelector, vpoll: VPoll) -> None:
    with vpoll.dup() as twin:
        keys = [selector.register(vpoll, READ), selector.register(twin, READ)]
        vpoll.add_events(IN)
        assert set(selector.select()) == {(key, READ) for key in keys}
        selector.unregister(twin)


def test_one_vpoll_wakes_several_selectors(vpoll: VPoll) -> None:
    with VPollSelector() as one, VPollSelector() as other:
        keys = one.register(vpoll, READ), other.register(vpoll, BOTH)
        vpoll.add_events(IN)
        assert one.select() == [(keys[0], READ)]
        assert other.select() == [(keys[1], READ)]


# Both kinds at once.


def test_both_kinds_are_reported_together(selector: VPollSelector, vpoll: VPoll) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        expected = {(selector.register(vpoll, READ), READ), (selector.register(ours, READ), READ)}
        theirs.send(b"!")
        vpoll.add_events(IN)
        for _ in range(100):
            assert set(selector.select()) == expected


def test_more_ready_vpolls_than_one_batch_take_turns(selector: VPollSelector) -> None:
    vpolls = [new_vpoll(IN) for _ in range(1000)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"!")
        kernel = selector.register(ours, READ)
        for vpoll in vpolls:
            selector.register(vpoll, READ)
        reports = [selector.select() for _ in range(8)]
        assert all((kernel, READ) in report for report in reports)
        assert max(map(len, reports)) < 1000
        counts = [sum(vpoll is key.fileobj for r in reports for key, _ in r) for vpoll in vpolls]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1
    for vpoll in vpolls:
        vpoll.close()


def test_select_asks_only_the_active_of_a_thousand_vpolls(
    selector: VPollSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    vpolls = [new_vpoll() for _ in range(1000)]
    keys = [selector.register(vpoll, READ) for vpoll in vpolls]
    vpolls[500].add_events(IN)
    asked = []
    peek = VPoll.peek

    def recording(vpoll: VPoll) -> int:
        asked.append(vpoll)
        return peek(vpoll)

    monkeypatch.setattr(VPoll, "peek", recording)
    assert selector.select() == [(keys[500], READ)]
    assert set(asked) == {vpolls[500]}
    for vpoll in vpolls:
        vpoll.close()


# Time.


def test_time_out_is_never_short_of_what_was_asked(selector: VPollSelector, vpoll: VPoll) -> None:
    selector.register(vpoll, READ)
    for timeout in (0.0001, 0.0015, 0.02):
        before = time.monotonic()
        assert selector.select(timeout) == []
        assert time.monotonic() - before >= timeout


def test_wake_up_without_an_event_does_not_cut_the_time_out_short(
    selector: VPollSelector, vpoll: VPoll
) -> None:
    """The event is gone again before the selector looks: it sleeps on."""
    selector.register(vpoll, READ)

    called = []

    def add_and_delete(number: int, frame: object) -> None:
        vpoll.add_events(IN)
        vpoll.del_events(IN)
        called.append(number)

    previous = signal.signal(signal.SIGALRM, add_and_delete)
    try:
        before = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert selector.select(0.1) == []
        assert time.monotonic() - before >= 0.1
        assert called
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_exception_of_a_signal_handler_ends_the_sleep(
    selector: VPollSelector, vpoll: VPoll
) -> None:
    key = selector.register(vpoll, READ)

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError("from the handler")

    previous = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.get_ident()
    try:
        with when_asleep(lambda: signal.pthread_kill(main, signal.SIGUSR1)):
            with pytest.raises(InterruptedError, match="from the handler"):
                selector.select()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    vpoll.add_events(IN)
    assert selector.select() == [(key, READ)]


# Against a model: epoll's rules in ten lines.

MASKS = st.sampled_from([0, IN, OUT, PRI, IN | OUT, ERR, HUP, IN | HUP, OUT | PRI])
EVENTS = st.sampled_from([READ, WRITE, BOTH])


class SelectorMachine(RuleBasedStateMachine):
    """Vpolls and kernel sockets come, go, change and are polled in any order."""

    vpolls: Bundle[VPoll] = Bundle("vpolls")
    sockets: Bundle[socket.socket] = Bundle("sockets")

    def __init__(self) -> None:
        super().__init__()
        self.selector = VPollSelector()
        self.registered: dict[Any, tuple[int, int]] = {}
        self.masks: dict[VPoll, int] = {}
        self.peers: dict[socket.socket, socket.socket] = {}
        self.readable: set[socket.socket] = set()
        self.serial = itertools.count()

    def teardown(self) -> None:
        self.selector.close()
        for vpoll in self.masks:
            vpoll.close()
        for ours, theirs in self.peers.items():
            ours.close()
            theirs.close()

    def expected(self) -> set[tuple[Any, int, int]]:
        found = set()
        for fileobj, (events, data) in self.registered.items():
            if isinstance(fileobj, VPoll):
                mask = 0 if fileobj.closed else self.masks[fileobj]
            else:
                mask = OUT | (IN if fileobj in self.readable else 0)
            asked = (IN if events & READ else 0) | (OUT if events & WRITE else 0)
            seen = mask & (asked | ERR | HUP)
            ready = ((READ if seen & ~OUT else 0) | (WRITE if seen & ~IN else 0)) & events
            if ready:
                found.add((fileobj, ready, data))
        return found

    @rule(target=vpolls, mask=MASKS, backend=st.sampled_from(["virtual", None]))
    def open_vpoll(self, mask: int, backend: str | None) -> VPoll:
        vpoll = VPoll(mask, backend=backend)
        self.masks[vpoll] = mask
        return vpoll

    @rule(target=sockets)
    def open_socket(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.peers[ours] = theirs
        return ours

    @rule(vpoll=vpolls, mask=MASKS, name=st.sampled_from(["add", "del", "set"]))
    def operate(self, vpoll: VPoll, mask: int, name: str) -> None:
        if vpoll.closed:
            return
        old = self.masks[vpoll]
        new = {"add": old | mask, "del": old & ~mask, "set": mask}[name]
        getattr(vpoll, f"{name}_events")(mask)
        self.masks[vpoll] = new

    @rule(ours=sockets)
    def send_or_receive(self, ours: socket.socket) -> None:
        if ours in self.readable:
            ours.recv(1)
            self.readable.discard(ours)
        else:
            self.peers[ours].send(b"!")
            self.readable.add(ours)

    @rule(vpoll=consumes(vpolls))
    def close_vpoll(self, vpoll: VPoll) -> None:
        vpoll.close()

    @rule(fileobj=st.one_of(vpolls, sockets), events=EVENTS)
    def register(self, fileobj: Any, events: int) -> None:
        data = next(self.serial)
        if fileobj in self.registered:
            with pytest.raises(KeyError):
                self.selector.register(fileobj, events, data)
        else:
            key = self.selector.register(fileobj, events, data)
            assert key.fileobj is fileobj
            self.registered[fileobj] = (events, data)

    @rule(fileobj=st.one_of(vpolls, sockets), events=EVENTS)
    def modify(self, fileobj: Any, events: int) -> None:
        data = next(self.serial)
        if fileobj in self.registered:
            self.selector.modify(fileobj, events, data)
            self.registered[fileobj] = (events, data)
        else:
            with pytest.raises(KeyError):
                self.selector.modify(fileobj, events, data)

    @rule(fileobj=st.one_of(vpolls, sockets))
    def unregister(self, fileobj: Any) -> None:
        if fileobj in self.registered:
            key = self.selector.unregister(fileobj)
            assert (key.events, key.data) == self.registered.pop(fileobj)
        else:
            with pytest.raises(KeyError):
                self.selector.unregister(fileobj)

    @rule(data=st.data())
    def unregister_closed(self, data: st.DataObject) -> None:
        closed = [known for known in self.registered if isinstance(known, VPoll) and known.closed]
        if closed:
            vpoll = data.draw(st.sampled_from(closed))
            self.selector.unregister(vpoll)
            del self.registered[vpoll]

    @rule()
    def wait_for_what_is_ready(self) -> None:
        if expected := self.expected():
            found = self.selector.select()
            assert {(key.fileobj, ready, key.data) for key, ready in found} == expected
            assert len(found) == len(expected)

    @invariant()
    def reports_what_is_ready(self) -> None:
        found = self.selector.select(0)
        assert {(key.fileobj, ready, key.data) for key, ready in found} == self.expected()
        assert len(found) == len(self.expected())

    @invariant()
    def maps_what_is_registered(self) -> None:
        shown = {key.fileobj: (key.events, key.data) for key in self.selector.get_map().values()}
        assert shown == self.registered


TestSelectorMachine = SelectorMachine.TestCase
TestSelectorMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
