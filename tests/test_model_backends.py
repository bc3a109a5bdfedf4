"""Every backend does what the model does, and the machine that says so finds planted faults."""

from __future__ import annotations

import select
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from exact_backends import name_of
from faulty_backends import EDGE_FAULTS, LEVEL_FAULTS, FaultyBackend, FaultyMirror
from scale import SCALE, fewer
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends import by_name
from vpoll_asyncio.testing import (
    DescriptorModel,
    EpollModel,
    Traits,
    VPollMachine,
    VPollModel,
    vpoll_machine,
)
from vpoll_helpers import DEADLINE, KERNEL_BACKENDS, ONE_KERNEL_OBJECT, PAIRS

pytestmark = pytest.mark.usefixtures("no_fd_leak")

BACKENDS: list[Any] = ["virtual", *KERNEL_BACKENDS]


def planted_in(params: list[Any]) -> list[Any]:
    """Those of `params` that faults are planted in: a slow machine is there for the backends
    that no other machine has."""
    if SCALE == 1:
        return params
    return [param for param in params if name_of(param) in {"eventfd", "device"}]


searching = settings(
    max_examples=5000,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
"""Bounded, the same in every run of one tree, and content with the first failure."""


SOON = 3.0 * SCALE
"""Seconds after which a thread counts as not woken where that is a fault to be found."""


def check(machine: type[VPollMachine], how: settings) -> None:
    run_state_machine_as_test(machine, settings=how)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_does_what_the_model_does(backend: str) -> None:
    how = settings(max_examples=fewer(200, least=40), stateful_step_count=40, deadline=None)
    if SCALE > 1:
        # Shrinking what was found would take longer than the whole suite.
        how = settings(how, phases=[Phase.generate])
    check(vpoll_machine(backend, deadline=DEADLINE), how)


def finds(backend: str, fault: type[FaultyMirror], monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = FaultyBackend(by_name(backend), fault)
    monkeypatch.setattr("vpoll_asyncio.vpoll.by_name", lambda name: faulty)
    with pytest.raises(AssertionError):
        check(vpoll_machine(backend, deadline=SOON), searching)


@pytest.mark.parametrize("backend", planted_in(KERNEL_BACKENDS))
@pytest.mark.parametrize("fault", LEVEL_FAULTS)
def test_the_machine_finds_a_fault_of_any_backend(
    backend: str, fault: type[FaultyMirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(backend, fault, monkeypatch)


@pytest.mark.parametrize("backend", planted_in(ONE_KERNEL_OBJECT))
@pytest.mark.parametrize("fault", EDGE_FAULTS)
def test_the_machine_finds_a_fault_of_a_backend_that_does_all_that_efd_vpoll_does(
    backend: str, fault: type[FaultyMirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(backend, fault, monkeypatch)


class OneShotStaysArmed(EpollModel):
    def register(self, target: DescriptorModel, interest: int) -> None:
        super().register(target, interest & ~select.EPOLLONESHOT)


class EdgeIsLevel(EpollModel):
    def register(self, target: DescriptorModel, interest: int) -> None:
        super().register(target, interest & ~select.EPOLLET)


class ExclusiveWakesAll(EpollModel):
    def make_ready(self, item: Any) -> bool:
        super().make_ready(item)
        return False


class NestedHearsNothing(EpollModel):
    def wake_all(self, key: int) -> None:
        pass


class FirstAlwaysFirst(EpollModel):
    def wait(self, maxevents: int | None = None) -> list[tuple[DescriptorModel, EventMask]]:
        return super().wait()[:maxevents]


class CloseForgetsRegistrations(VPollModel):
    def dup(self) -> VPollModel:
        twin = super().dup()
        twin.__class__ = CloseForgetsRegistrations
        return twin

    def close(self) -> None:
        for watcher in () if self.closed else tuple(self.file.watchers):
            if getattr(watcher, "target", None) is self:
                watcher.orphan()
        super().close()


@pytest.mark.parametrize("backend", planted_in(ONE_KERNEL_OBJECT))
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("EpollModel", OneShotStaysArmed),
        ("EpollModel", EdgeIsLevel),
        ("EpollModel", ExclusiveWakesAll),
        ("EpollModel", NestedHearsNothing),
        ("EpollModel", FirstAlwaysFirst),
        ("VPollModel", CloseForgetsRegistrations),
    ],
)
def test_the_machine_finds_a_fault_of_the_model(
    backend: str, name: str, wrong: type[DescriptorModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it comes to every trigger mode, to nested epolls and to all that is closed."""
    monkeypatch.setattr(f"vpoll_asyncio.testing.machine.{name}", wrong)
    with pytest.raises(AssertionError):
        check(vpoll_machine(backend, deadline=SOON), searching)


class Unheard(VPoll):
    """A vpoll that tells its waiters of changes only."""

    def add_events(self, mask: int) -> int:
        return self.events if self.events | mask == self.events else super().add_events(mask)


class Frozen(VPoll):
    """A vpoll whose duplicates are copies."""

    def dup(self) -> VPoll:
        return Frozen(self.events, backend=self.backend)


def unheard(events: int) -> VPoll:
    return Unheard(events, backend="virtual")


def copied(events: int) -> VPoll:
    return Frozen(events, backend="virtual")


@pytest.mark.parametrize("make", [unheard, copied])
def test_the_machine_finds_a_fault_of_the_vpoll_itself(make: Any) -> None:
    machine = vpoll_machine(make, traits=Traits(edges=False, descriptor=False))
    with pytest.raises(AssertionError):
        check(machine, searching)


@pytest.mark.parametrize("backend", PAIRS)
def test_a_pair_gives_no_edge_for_every_operation(backend: str) -> None:
    with pytest.raises(AssertionError):
        check(vpoll_machine(backend, traits=Traits(), deadline=SOON), searching)


@pytest.mark.needs("fuse")
def test_a_wake_up_of_fuse_does_not_say_what_it_is_about() -> None:
    with pytest.raises(AssertionError):
        check(vpoll_machine("fuse", traits=Traits(), deadline=SOON), searching)
