"""One state machine that runs the model against a backend, with real pollers as observers.

Each rule does the same to both: to vpolls and epolls of the kernel, and to their models.
Whatever comes back must be equal, errors by their number.  What a backend does not
promise (`Traits`) is not asked of it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from ..backends import by_name
from ..events import IN
from ..vpoll import VPoll
from .epoll import EXCLUSIVE, EpollModel
from .model import VPollModel
from .observers import EpollObserver, Observer, SelectorObserver
from .pollable import DescriptorModel
from .sleepers import Sleeper
from .strategies import NAMED, Operation, interests, masks, operation, operations

__all__ = ["TRAITS", "Traits", "VPollMachine", "vpoll_machine"]


class Traits(NamedTuple):
    """What a backend promises besides that a look at it shows the mask."""

    edges: bool = True
    """Every operation is a wake-up, so edge-triggered, one-shot and exclusive waiters are
    served as by EFD_VPOLL.  Without it all waiters are level-triggered."""
    keyed: bool = True
    """A wake-up tells which events are pending (`VPollModel`)."""
    descriptor: bool = True
    """Its numbers are the kernel's.  Without it `VPollSelector` is the only observer."""


TRAITS = {
    "eventfd": Traits(),
    "device": Traits(),
    "fuse": Traits(keyed=False),
    "unixpair": Traits(edges=False),
    "tcppair": Traits(edges=False),
    "virtual": Traits(edges=False, descriptor=False),
}
"""The traits of the backends of this package."""

_MOST: int = 3
"""How many vpolls, and how many epolls, there are at once at the most."""


class _Heard(NamedTuple):
    """What the waiters of one vpoll were told, by the real one and by the model."""

    real: list[int]
    model: list[int]


class _Handle(NamedTuple):
    real: VPoll
    model: VPollModel
    heard: _Heard


class _Epoll(NamedTuple):
    real: Observer
    model: EpollModel


def _outcome(action: Callable[..., object], *arguments: object) -> str | int | None:
    """Do it; return the errno of the OSError that it raises, None when it raises none."""
    try:
        action(*arguments)
    except OSError as error:
        return error.errno
    return None


def _same(real: object, model: object) -> None:
    """Fail unless both are equal, and say what they are: pytest does not, of a library."""
    if real != model:
        raise AssertionError(f"the backend says {real!r}, the model {model!r}")


def _of(strategy: str) -> st.SearchStrategy[Any]:
    """Draw from the strategy of that name of the machine that runs."""
    return st.runner().flatmap(lambda machine: getattr(machine, strategy))


class VPollMachine(RuleBasedStateMachine):
    """A backend against the model; `vpoll_machine` makes one for a backend.

    Vpolls, their duplicates and epolls come and go; they are operated, registered,
    nested and waited for in any order.
    """

    make: ClassVar[Callable[[int], VPoll]]
    """Returns a new vpoll of the backend with a first mask."""
    traits: ClassVar[Traits]
    deadline: ClassVar[float]
    masks: ClassVar[st.SearchStrategy[int]]
    interests: ClassVar[st.SearchStrategy[int]]
    operation: ClassVar[st.SearchStrategy[Operation]]
    burst: ClassVar[st.SearchStrategy[list[Operation]]]
    bits: ClassVar[int]

    handles = Bundle("handles")
    epolls = Bundle("epolls")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[_Handle] = []
        self.waiting: list[_Epoll] = []
        self.numbers: dict[DescriptorModel, int] = {}

    # Vpolls.

    @initialize(target=handles, mask=_of("masks"))
    def first_vpoll(self, mask: int) -> _Handle:
        """Begin with one vpoll."""
        return self.new_vpoll(mask)

    @precondition(lambda self: len({id(handle.heard) for handle in self.open}) < _MOST)
    @rule(target=handles, mask=_of("masks"))
    def another_vpoll(self, mask: int) -> _Handle:
        """Make another vpoll."""
        return self.new_vpoll(mask)

    def new_vpoll(self, mask: int) -> _Handle:
        """Return a new vpoll and its model, each with a waiter that remembers."""
        heard = _Heard([], [])
        handle = _Handle(type(self).make(mask), VPollModel(mask, keyed=self.traits.keyed), heard)
        self.open.append(handle)
        handle.real.add_waiter(heard.real.append)
        handle.model.add_waiter(heard.model.append)
        return handle

    @rule(target=handles, handle=handles)
    def duplicate(self, handle: _Handle) -> _Handle:
        """Duplicate a handle, before or after its descriptor was asked for."""
        twin = _Handle(handle.real.dup(), handle.model.dup(), handle.heard)
        self.open.append(twin)
        return twin

    @rule(handle=handles)
    def ask_for_the_descriptor(self, handle: _Handle) -> None:
        """Ask for a descriptor, the first time or again."""
        self.number(handle)

    def number(self, handle: _Handle) -> int:
        """Return the descriptor of a handle, which is its own and stays the same."""
        number = handle.model.number = handle.real.fileno()
        assert self.numbers.setdefault(handle.model, number) == number >= 0
        others = [other for other in self.open if other is not handle]
        assert number not in [self.numbers.get(other.model) for other in others]
        return number

    @rule(handle=handles, burst=_of("burst"))
    def operate(self, handle: _Handle, burst: list[Operation]) -> None:
        """Carry out operations: each returns the same new mask."""
        for each in burst:
            _same(each.on(handle.real), each.on(handle.model))

    @rule(handle=handles, operation=_of("operation"), times=st.integers(1, 4))
    def repeat_and_undo(self, handle: _Handle, operation: Operation, times: int) -> None:
        """Do it several times, and undo it once: nothing is counted."""
        self.operate(handle, [operation] * times)
        undo: Literal["add", "del"] = "add" if operation.command == "del" else "del"
        self.operate(handle, [Operation(undo, operation.mask)])

    @rule(handle=handles, operation=_of("operation"), bit=st.integers(28, 31))
    def operate_with_a_bit_that_is_refused(
        self, handle: _Handle, operation: Operation, bit: int
    ) -> None:
        """Operate with a bit above 27: a ValueError, and nothing else."""
        refused = operation._replace(mask=operation.mask | 1 << bit)
        for vpoll in (handle.real, handle.model):
            try:
                refused.on(vpoll)
            except ValueError:
                continue
            raise AssertionError(f"{refused} is taken by {vpoll}")

    @rule(handle=consumes(handles))
    def close(self, handle: _Handle) -> None:
        """Close a handle; others of the same vpoll may be open."""
        if not self.traits.descriptor:
            # A selector hears of an object, not of an open file: asyncio, too, takes
            # away what it watches before it closes it.
            for epoll in self.waiting:
                self.unregister(epoll, handle)
        self.open.remove(handle)
        handle.real.close()
        handle.model.close()
        assert handle.real.closed

    # Those who wait for them.

    @initialize(target=epolls)
    def first_epoll(self) -> _Epoll:
        """Begin with one epoll."""
        return self.new_epoll()

    @precondition(lambda self: len(self.waiting) < _MOST)
    @rule(target=epolls)
    def another_epoll(self) -> _Epoll:
        """Make another epoll."""
        return self.new_epoll()

    def new_epoll(self) -> _Epoll:
        """Return a new epoll, or selector, and its model."""
        real: Observer = EpollObserver() if self.traits.descriptor else SelectorObserver()
        epoll = _Epoll(real, EpollModel())
        if isinstance(real, EpollObserver):
            self.numbers[epoll.model] = real.epoll.fileno()
        self.waiting.append(epoll)
        return epoll

    @rule(epoll=epolls, handle=handles, interest=_of("interests"))
    def register(self, epoll: _Epoll, handle: _Handle, interest: int) -> None:
        """Register a handle, which may be registered already."""
        number = self.number(handle)
        answer = _outcome(epoll.real.register, number, interest)
        _same(answer, _outcome(epoll.model.register, handle.model, interest))

    @rule(epoll=epolls, interest=_of("interests"))
    def register_all(self, epoll: _Epoll, interest: int) -> None:
        """Register every handle, so that several are ready at once."""
        for handle in tuple(self.open):
            self.register(epoll, handle, interest)

    @rule(epoll=epolls, handle=handles, interest=_of("interests"), burst=_of("burst"))
    def outlive(
        self, epoll: _Epoll, handle: _Handle, interest: int, burst: list[Operation]
    ) -> None:
        """Close a handle that is registered while another of the same vpoll is open."""
        twin = self.duplicate(handle)
        self.register(epoll, twin, interest)
        self.wait(epoll, None, 1)
        self.close(twin)
        self.wait(epoll, None, 1)
        self.operate(handle, burst)
        self.wait(epoll, None, 1)

    @rule(epoll=epolls, handle=handles, interest=_of("interests"))
    def modify(self, epoll: _Epoll, handle: _Handle, interest: int) -> None:
        """Modify a registration, which there may not be."""
        number = self.number(handle)
        answer = _outcome(epoll.real.modify, number, interest)
        _same(answer, _outcome(epoll.model.modify, handle.model, interest))

    @rule(epoll=epolls, handle=handles)
    def unregister(self, epoll: _Epoll, handle: _Handle) -> None:
        """Remove a registration, which there may not be."""
        answer = _outcome(epoll.real.unregister, self.number(handle))
        _same(answer, _outcome(epoll.model.unregister, handle.model))

    @precondition(lambda self: self.traits.descriptor)
    @rule(outer=epolls, inner=epolls, interest=_of("interests"))
    def nest(self, outer: _Epoll, inner: _Epoll, interest: int) -> None:
        """Register an epoll in another, or in itself, or where that makes a loop."""
        # An epoll wakes those who wait for it with EPOLLIN alone.
        interest = (interest | IN) & ~EXCLUSIVE
        answer = _outcome(outer.real.register, self.numbers[inner.model], interest)
        _same(answer, _outcome(outer.model.register, inner.model, interest))

    @precondition(lambda self: self.traits.descriptor)
    @rule(outer=epolls, inner=epolls, interest=_of("interests"))
    def modify_nested(self, outer: _Epoll, inner: _Epoll, interest: int) -> None:
        """Modify the registration of an epoll."""
        interest = (interest | IN) & ~EXCLUSIVE
        answer = _outcome(outer.real.modify, self.numbers[inner.model], interest)
        _same(answer, _outcome(outer.model.modify, inner.model, interest))

    @rule(epoll=epolls, maxevents=st.sampled_from([None, 1, 2]), times=st.integers(1, 3))
    def wait(self, epoll: _Epoll, maxevents: int | None, times: int) -> None:
        """Compare what is reported now, in its order where the backend has edges."""
        for _ in range(times):
            if self.traits.edges:
                told = epoll.real.wait(maxevents)
                _same(told, self.named(epoll.model.wait(maxevents)))
            else:
                # Who comes first depends on the edges.
                told = sorted(epoll.real.wait())
                _same(told, sorted(self.named(epoll.model.wait())))

    def named(self, told: Iterable[tuple[DescriptorModel, int]]) -> list[tuple[int, int]]:
        """Return what a model tells with the numbers of the real descriptors."""
        return [(self.numbers[target], int(events)) for target, events in told]

    @rule(epoll=consumes(epolls))
    def close_epoll(self, epoll: _Epoll) -> None:
        """Close an epoll, which may be registered in others."""
        self.waiting.remove(epoll)
        epoll.real.close()
        epoll.model.close()

    # Those who look once.

    @precondition(lambda self: self.traits.descriptor)
    @rule(handle=handles, interest=_of("masks"))
    def look(self, handle: _Handle, interest: int) -> None:
        """Compare what poll(2) and select(2) say of a handle."""
        self.look_at(self.number(handle), handle.model, interest)

    @precondition(lambda self: self.traits.descriptor)
    @rule(epoll=epolls, interest=_of("masks"))
    def look_at_an_epoll(self, epoll: _Epoll, interest: int) -> None:
        """Compare what poll(2) and select(2) say of an epoll."""
        self.look_at(self.numbers[epoll.model], epoll.model, interest)

    def look_at(self, number: int, model: DescriptorModel, interest: int) -> None:
        """Compare what poll(2) and select(2) say."""
        poll = select.poll()
        poll.register(number, interest & 0xFFFF)
        seen = model.poll(interest)
        _same(poll.poll(0), [(number, seen)] if seen else [])
        ready = select.select([number], [number], [number], 0)
        _same(tuple(map(bool, ready)), model.select())

    # Those who sleep.

    @precondition(lambda self: self.traits.edges)
    @rule(epoll=epolls, handle=handles, operation=_of("operation"))
    def sleep(self, epoll: _Epoll, handle: _Handle, operation: Operation) -> None:
        """Operate a vpoll while a thread sleeps in an epoll."""
        self.operate_while_asleep([epoll], handle, operation)

    @precondition(lambda self: self.traits.edges)
    @rule(
        handle=handles,
        wanted=st.lists(_of("interests"), min_size=2, max_size=3),
        operation=_of("operation"),
    )
    def sleep_in_a_crowd(self, handle: _Handle, wanted: list[int], operation: Operation) -> None:
        """Let several threads sleep for one vpoll: exclusive ones are not all woken."""
        before = len(self.waiting)
        crowd = [self.new_epoll() for _ in wanted]
        for epoll, interest in zip(crowd, wanted, strict=True):
            self.register(epoll, handle, interest)
        self.operate_while_asleep(crowd, handle, operation)
        assert self.waiting[before:] == crowd
        for epoll in crowd:
            self.close_epoll(epoll)

    def operate_while_asleep(
        self, epolls: list[_Epoll], handle: _Handle, operation: Operation
    ) -> None:
        """Carry it out while a thread sleeps in each of `epolls` that has nothing to tell."""
        sleepers: list[tuple[_Epoll, Sleeper]] = []
        try:
            for epoll in epolls:
                self.wait(epoll, None, 1)
                if epoll.model.sleep():
                    assert isinstance(epoll.real, EpollObserver)
                    sleepers.append((epoll, Sleeper(epoll.real.epoll, self.deadline)))
            self.operate(handle, [operation])
            for epoll, sleeper in sleepers:
                if expected := epoll.model.resume():
                    _same(sleeper.told(), self.named(expected))
                else:
                    self.wake(epoll, sleeper)
        finally:
            for epoll, sleeper in sleepers:
                if sleeper.asleep:
                    kick(epoll.real, sleeper)

    def wake(self, epoll: _Epoll, sleeper: Sleeper) -> None:
        """Wake a thread that the operation did not wake, which is what it then hears of."""
        ready = os.eventfd(1)
        try:
            with VPollModel(IN) as model:
                self.numbers[model] = ready
                epoll.real.register(ready, IN)
                epoll.model.register(model, IN)
                _same(sleeper.told(), self.named(epoll.model.resume()))
                epoll.real.unregister(ready)
                del self.numbers[model]
        finally:
            os.close(ready)

    @invariant()
    def every_handle_shows_the_mask_and_told_its_waiters(self) -> None:
        """Compare the masks, and what the waiters of this process heard."""
        for handle in self.open:
            _same(handle.real.events, handle.model.events)
            _same(handle.heard.real, handle.heard.model)

    @invariant()
    def every_descriptor_shows_the_mask(self) -> None:
        """Compare what poll(2) says of all descriptors at once."""
        if not self.traits.descriptor:
            return
        poll = select.poll()
        expected = {}
        for handle in self.open:
            if (number := self.numbers.get(handle.model)) is not None:
                poll.register(number, self.bits & 0xFFFF)
                if seen := handle.model.poll(self.bits):
                    expected[number] = seen
        _same(dict(poll.poll(0)), expected)

    def teardown(self) -> None:
        """Compare what is left to report, and close everything."""
        try:
            for epoll in self.waiting:
                self.wait(epoll, None, 1)
        finally:
            for epoll in self.waiting:
                epoll.real.close()
            for handle in self.open:
                handle.real.close()


def kick(observer: Observer, sleeper: Sleeper) -> None:
    """End a sleep after a failure."""
    ready = os.eventfd(1)
    try:
        observer.register(ready, IN)
        sleeper.told()
    finally:
        os.close(ready)


def vpoll_machine(
    backend: str | Callable[[int], VPoll],
    *,
    traits: Traits | None = None,
    bits: int | None = None,
    deadline: float = 30.0,
) -> type[VPollMachine]:
    """Return a state machine that compares vpolls of `backend` with the model.

    Parameters:
    backend -- a backend's name, or a function that returns a new vpoll with a first mask
    traits -- what is asked of it; None for the backend's entry in `TRAITS`, and for one
        without an entry all that EFD_VPOLL does
    bits -- the events that are used; None for those with a name in the backend's exact set
    deadline -- seconds after which a thread that was not woken fails the machine

    Run it with `hypothesis.stateful.run_state_machine_as_test`, or name its ``TestCase``
    in a test module.  It fails with the shortest program that it finds on which vpoll
    and model differ.

    Raises ValueError for an unknown name, OSError (ENOSYS) for a backend that is not
    available here.
    """
    make: Callable[[int], VPoll]
    if isinstance(backend, str):
        name = backend
        exact = int(by_name(name).exact)
        make = partial(VPoll, backend=name)
    else:
        make = backend
        name = getattr(backend, "__name__", type(backend).__name__)
        with make(0) as probe:
            probe.fileno()
            exact = int(probe.exact)
    if traits is None:
        traits = TRAITS.get(name, Traits())
    # Bit 14, which has no name, is the kernel's own POLLFREE: a wake-up with it takes
    # epoll's registrations from the wait queue for ever.
    used = exact & (NAMED if bits is None else bits)
    return type(
        f"VPollMachine_{name}",
        (VPollMachine,),
        {
            "__doc__": VPollMachine.__doc__,
            "__module__": __name__,
            "make": staticmethod(make),
            "traits": traits,
            "deadline": deadline,
            "masks": masks(used),
            "interests": interests(used, triggers=traits.edges),
            "operation": operation(used),
            "burst": operations(used, max_size=5),
            "bits": used,
        },
    )
