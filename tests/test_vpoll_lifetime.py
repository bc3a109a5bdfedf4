"""What is left of a vpoll that is collected, forked, or operated from elsewhere."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from typing import Any

import pytest

from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.base import Mirror
from vpoll_asyncio.backends.openfile import after
from vpoll_asyncio.backends.unixpair import UnixPairBackend
from vpoll_helpers import DEADLINE, KERNEL_BACKENDS, by_poll, in_child, open_descriptors

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.mark.parametrize("backend", [None, "virtual", *KERNEL_BACKENDS])
def test_a_vpoll_that_is_collected_open_warns_and_gives_everything_back(
    backend: str | None,
) -> None:
    before = open_descriptors()
    held = [VPoll(IN, backend=backend)]
    if backend is not None:
        held[0].fileno()
    with pytest.warns(ResourceWarning, match=r"unclosed <VPoll <EventMask.IN: 1>"):
        held.clear()
    assert open_descriptors() == before


def test_descriptors_are_given_back_when_the_warning_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    before = open_descriptors()
    held = [VPoll(backend="unixpair")]
    held[0].fileno()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held.clear()
    assert [report.exc_type for report in unraisable] == [ResourceWarning]
    assert open_descriptors() == before


@pytest.mark.parametrize("ask", [VPoll.fileno, lambda vpoll: vpoll.dup().close()])
def test_events_and_waiters_outlast_the_first_descriptor_or_duplicate(ask: Any) -> None:
    first: list[int] = []
    second: list[int] = []
    with VPoll(PRI) as vpoll:
        vpoll.add_waiter(first.append)
        vpoll.add_waiter(second.append)
        ask(vpoll)
        assert vpoll.add_events(IN) == IN | PRI
        assert vpoll.remove_waiter(first.append)
        assert not vpoll.remove_waiter(first.append)
        vpoll.add_events(OUT)
    assert first == [IN | PRI]
    assert second == [IN | PRI, IN | PRI | OUT]


def test_a_vpoll_that_was_never_made_is_collected_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="no vpoll backend"):
            VPoll(backend="none of them")
        gc.collect()


def test_a_collected_duplicate_leaves_the_others_alone() -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        fd = vpoll.fileno()
        held = [vpoll.dup()]
        held[0].fileno()
        with pytest.warns(ResourceWarning):
            held.clear()
        vpoll.set_events(OUT)
        assert by_poll(fd) & (IN | OUT) == OUT


def test_a_forked_child_owns_a_copy_of_a_vpoll_without_descriptor() -> None:
    with VPoll(IN) as vpoll:

        def child() -> None:
            assert vpoll.set_events(OUT) == OUT
            assert by_poll(vpoll.fileno()) & (IN | OUT) == OUT
            vpoll.set_events(IN)
            assert by_poll(vpoll.fileno()) & (IN | OUT) == IN
            vpoll.close()

        in_child(child)
        assert vpoll.events == IN
        assert vpoll.backend is None
        assert by_poll(vpoll.fileno()) & (IN | OUT) == IN


def test_a_child_forked_while_another_thread_makes_the_descriptor_makes_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    create = UnixPairBackend.create

    def slow(backend: UnixPairBackend, mask: int) -> Mirror:
        inside.set()
        assert go_on.wait(DEADLINE)
        return create(backend, mask)

    with VPoll(IN, backend="unixpair") as vpoll:
        monkeypatch.setattr(UnixPairBackend, "create", slow)
        work = threading.Thread(target=vpoll.fileno, daemon=True)
        work.start()
        assert inside.wait(DEADLINE)

        def child() -> None:
            go_on.set()
            assert vpoll.add_events(OUT) == IN | OUT
            assert by_poll(vpoll.fileno()) & (IN | OUT) == IN | OUT
            vpoll.close()

        try:
            in_child(child)
        finally:
            go_on.set()
            work.join(DEADLINE)
        assert by_poll(vpoll.fileno()) & (IN | OUT) == IN


class Elsewhere(Mirror):
    """A kernel object that other processes operate, and what interrupts its system calls."""

    shared = True

    def __init__(self, mask: int) -> None:
        self.fd = os.dup(0)
        self.kernel = mask
        self.interrupt: list[tuple[VPoll, int]] = []

    def _handler(self) -> None:
        if self.interrupt:
            vpoll, mask = self.interrupt.pop()
            vpoll.add_events(mask)

    def apply(self, command: int, argument: int, mask: int) -> int:
        self._handler()
        self.kernel = after(self.kernel, command, argument)
        answer = self.kernel
        self._handler()
        return answer

    def read_mask(self, mask: int) -> int:
        self._handler()
        answer = self.kernel
        self._handler()
        return answer


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Elsewhere]:
    """The kernel objects that stand for unix pairs."""
    objects: list[Elsewhere] = []

    def create(backend: UnixPairBackend, mask: int) -> Mirror:
        objects.append(Elsewhere(mask))
        return objects[-1]

    monkeypatch.setattr(UnixPairBackend, "create", create)
    return objects


def test_events_are_those_of_the_kernel_where_others_operate_it(made: list[Elsewhere]) -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        vpoll.fileno()
        made[0].kernel = OUT
        assert vpoll.events == OUT
        made[0].kernel = IN | PRI
        assert vpoll.add_events(OUT) == IN | PRI | OUT
        assert vpoll.del_events(IN) == PRI | OUT


@pytest.mark.parametrize("handlers", [1, 2])
@pytest.mark.parametrize("operation", ["peek", "add", "del", "set"])
def test_a_handler_inside_a_system_call_on_a_shared_object_is_not_lost(
    made: list[Elsewhere], operation: str, handlers: int
) -> None:
    with VPoll(IN, backend="unixpair") as vpoll:
        vpoll.fileno()
        added = [OUT, PRI][:handlers]
        made[0].interrupt = [(vpoll, mask) for mask in added]
        if operation == "peek":
            vpoll.peek()
            expected = IN
        elif operation == "add":
            vpoll.add_events(EventMask.RDHUP)
            expected = IN | EventMask.RDHUP
        elif operation == "del":
            vpoll.del_events(IN)
            expected = EventMask(0)
        else:
            vpoll.set_events(IN)
            expected = IN
        for mask in added:
            expected |= mask
        assert made[0].interrupt == []
        assert vpoll.events == expected
        assert made[0].kernel == expected
