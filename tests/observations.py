"""What can be observed of a vpoll from outside: one function an observation.

Each gets the name of a backend and returns plain data, so that what two backends do can
be compared and written down.  Its docstring says what is observed; `PROMISED` what the
kernel's EFD_VPOLL is to answer (rules: ``docs/reference/backends.md`` and epoll(7)).
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.base import ADD
from vpoll_asyncio.backends.eventfd import encode
from vpoll_asyncio.events import KEPT
from vpoll_helpers import by_epoll, by_poll, by_select, in_child

__all__ = ["OBSERVATIONS", "PROMISED", "Answer", "observe"]

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, NVAL = EventMask.ERR, EventMask.HUP, EventMask.NVAL

NAMED = sum(EventMask)

Answer = str
Observation = Callable[[str], Answer]

OBSERVATIONS: dict[str, Observation] = {}
PROMISED: dict[str, Answer] = {}


def observation(promised: Answer) -> Callable[[Observation], Observation]:
    """Register a function under its name, with the answer that EFD_VPOLL is to give."""

    def register(function: Observation) -> Observation:
        OBSERVATIONS[function.__name__] = function
        PROMISED[function.__name__] = promised
        return function

    return register


def observe(backend: str) -> dict[str, Answer]:
    """Return all that is observed of `backend`."""
    return {name: function(backend) for name, function in OBSERVATIONS.items()}


def names(mask: int) -> str:
    """The events of `mask` by name; bits without one as a number."""
    found = [event.name or "" for event in EventMask if mask & event]
    if others := mask & ~NAMED:
        found.append(f"{others:#x}")
    return " ".join(found) or "nothing"


def fault(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def edges(epoll: select.epoll) -> str:
    """What an edge-triggered waiter is told now, and then once more."""
    return " then ".join(
        names(told[0][1]) if (told := epoll.poll(0)) else "nothing" for _ in range(2)
    )


SETS = ("readable", "writable", "exceptional")


def each_alone(event: EventMask) -> None:
    """Register the observations of one event that is set alone."""

    def shown(backend: str) -> Answer:
        with VPoll(event, backend=backend) as vpoll:
            return names(by_epoll(vpoll.fileno()))

    def cleared(backend: str) -> Answer:
        with VPoll(OUT, backend=backend) as vpoll:
            fd = vpoll.fileno()
            vpoll.add_events(event)
            vpoll.del_events(event | OUT)
            return names(by_epoll(fd))

    def selected(backend: str) -> Answer:
        with VPoll(event, backend=backend) as vpoll:
            ready = zip(SETS, by_select(vpoll.fileno()), strict=True)
            return " ".join(name for name, there in ready if there) or "nothing"

    name = event.name
    assert name is not None
    shown.__doc__ = f"{name} is set alone: what `epoll` tells a waiter for everything."
    cleared.__doc__ = f"{name} is added and deleted again, and nothing is left: what `epoll` tells."
    selected.__doc__ = f"{name} is set alone: what `select` calls it."
    sets = [
        name
        for name, mask in {
            # fs/select.c; NVAL is in all three since Linux 5.17.
            "readable": IN | HUP | ERR | NVAL | EventMask.RDNORM | EventMask.RDBAND,
            "writable": OUT | ERR | NVAL | EventMask.WRNORM | EventMask.WRBAND,
            "exceptional": PRI | NVAL,
        }.items()
        if mask & event
    ]
    for function, promised in (
        (shown, name),
        (cleared, "nothing"),
        (selected, " ".join(sets) or "nothing"),
    ):
        function.__name__ = f"{name.lower()}_{function.__name__}"
        observation(promised)(function)


for _event in EventMask:
    each_alone(_event)


@observation("0xfff9800")
def bits_without_a_name_in_epoll(backend: str) -> Answer:
    """Bits 11, 12 and 14 (withheld) to 27, without a name, are set: what `epoll` tells."""
    with VPoll(backend=backend) as vpoll:
        fd = vpoll.fileno()
        vpoll.set_events(KEPT & ~NAMED)
        return names(by_epoll(fd))


@observation("nothing")
def bits_without_a_name_in_poll(backend: str) -> Answer:
    """Bits 11, 12, 14 and 15, which have no name, are set: what `poll` tells."""
    with VPoll(backend=backend) as vpoll:
        fd = vpoll.fileno()
        vpoll.set_events(0xFFFF & ~NAMED)
        return names(by_poll(fd))


@observation("every bit")
def bits_that_are_read_back(backend: str) -> Answer:
    """All 28 bits are set through the object: which of them `VPoll.events` has."""
    with VPoll(backend=backend) as vpoll:
        vpoll.fileno()
        vpoll.set_events(KEPT)
        return "every bit" if vpoll.events == KEPT else f"{int(vpoll.events):#x}"


def told_after(backend: str, *operations: Callable[[VPoll], object]) -> Answer:
    """What an edge-triggered waiter for IN, which has seen IN, is told after `operations`."""
    with VPoll(IN, backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN | select.EPOLLET)
        assert epoll.poll(0)
        for operation in operations:
            operation(vpoll)
        return edges(epoll)


@observation("IN then nothing")
def edge_of_adding_what_is_set(backend: str) -> Answer:
    """IN is pending and added again: what an edge-triggered waiter for IN is told."""
    return told_after(backend, lambda vpoll: vpoll.add_events(IN))


@observation("IN then nothing")
def edge_of_deleting_what_is_not_set(backend: str) -> Answer:
    """IN is pending, PRI is not and is deleted: what an edge-triggered waiter for IN is told."""
    return told_after(backend, lambda vpoll: vpoll.del_events(PRI))


@observation("IN then nothing")
def edge_of_setting_the_same(backend: str) -> Answer:
    """IN is pending and the same mask set: what an edge-triggered waiter for IN is told."""
    return told_after(backend, lambda vpoll: vpoll.set_events(IN))


@observation("IN then nothing")
def edge_of_another_event(backend: str) -> Answer:
    """IN is pending and OUT is added: what an edge-triggered waiter for IN alone is told."""
    return told_after(backend, lambda vpoll: vpoll.add_events(OUT))


@observation("IN then nothing")
def edges_of_three_operations(backend: str) -> Answer:
    """IN is deleted, added and added again: what an edge-triggered waiter for IN is told."""
    return told_after(
        backend,
        lambda vpoll: vpoll.del_events(IN),
        lambda vpoll: vpoll.add_events(IN),
        lambda vpoll: vpoll.add_events(IN),
    )


@observation("nothing then nothing")
def edge_of_what_nobody_saw(backend: str) -> Answer:
    """IN is added and deleted before an edge-triggered waiter looks: what it is told."""
    with VPoll(backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN | select.EPOLLET)
        vpoll.add_events(IN)
        vpoll.del_events(IN)
        return edges(epoll)


@observation("IN OUT then nothing")
def edge_with_the_whole_mask(backend: str) -> Answer:
    """OUT is pending and seen, IN is added: what an edge-triggered waiter for both is told."""
    with VPoll(OUT, backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN | OUT | select.EPOLLET)
        assert epoll.poll(0)
        vpoll.add_events(IN)
        return edges(epoll)


@observation("IN then IN")
def level(backend: str) -> Answer:
    """IN is set: what a level-triggered waiter is told, twice."""
    with VPoll(IN, backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN)
        return edges(epoll)


@observation("IN then nothing, after EPOLL_CTL_MOD IN then nothing")
def one_shot(backend: str) -> Answer:
    """IN is set: what a one-shot waiter is told, before and after it is armed again."""
    with VPoll(IN, backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, IN | select.EPOLLONESHOT)
        first = edges(epoll)
        vpoll.add_events(IN)
        assert not epoll.poll(0)
        epoll.modify(vpoll, IN | select.EPOLLONESHOT)
        return f"{first}, after EPOLL_CTL_MOD {edges(epoll)}"


@observation("IN")
def nested(backend: str) -> Answer:
    """PRI is set, and an epoll that waits for PRI is in another: what that one tells."""
    with VPoll(backend=backend) as vpoll, select.epoll() as inner, select.epoll() as outer:
        inner.register(vpoll, PRI)
        outer.register(inner, IN)
        vpoll.set_events(PRI)
        told = outer.poll(0)
        return names(told[0][1]) if told else "nothing"


@observation("ERR HUP")
def without_being_asked(backend: str) -> Answer:
    """IN, ERR and HUP are set: what `epoll` tells a waiter that asked for no event."""
    with VPoll(backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, 0)
        vpoll.set_events(IN | ERR | HUP)
        told = epoll.poll(0)
        return names(told[0][1]) if told else "nothing"


def reading(backend: str, size: int) -> Answer:
    with VPoll(IN | HUP, backend=backend) as vpoll:
        fd = vpoll.fileno()
        before = by_poll(fd)
        try:
            data = os.read(fd, size)
        except OSError as error:
            result = fault(error)
        else:
            own = data == int(IN | HUP).to_bytes(8, "little")
            result = "the mask" if own else "signalling bytes"
        return result if by_poll(fd) == before else f"{result}, and the events change"


@observation("the mask")
def reading_eight_bytes(backend: str) -> Answer:
    """IN and HUP are set, and a stranger reads eight bytes: what it gets."""
    return reading(backend, 8)


@observation("the mask")
def reading_much(backend: str) -> Answer:
    """IN and HUP are set, and a stranger reads 64 KiB, as a loop does: what it gets."""
    return reading(backend, 1 << 16)


def written(backend: str, data: bytes) -> Answer:
    with VPoll(OUT, backend=backend) as vpoll:
        fd = vpoll.fileno()
        before = by_epoll(fd)
        try:
            os.write(fd, data)
            result = "taken"
        except OSError as error:
            result = fault(error)
        after = by_epoll(fd)
        return result if after == before else f"{result}, now {names(after)}"


@observation("taken, now PRI OUT")
def writing_a_command(backend: str) -> Answer:
    """A stranger writes EFD_VPOLL's command to add PRI to the descriptor: what happens."""
    return written(backend, encode(ADD, PRI))


@observation("EINVAL")
def writing_a_bad_command(backend: str) -> Answer:
    """A stranger writes a command that there is not: what happens."""
    return written(backend, encode(4, PRI))


@observation("EINVAL")
def writing_a_bad_mask(backend: str) -> Answer:
    """A stranger writes the command to add bit 28: what happens."""
    return written(backend, encode(ADD, 1 << 28))


@observation("EINVAL")
def writing_one_byte(backend: str) -> Answer:
    """A stranger writes one byte: what happens."""
    return written(backend, b"x")


@observation("the parent sees IN PRI")
def operating_after_fork(backend: str) -> Answer:
    """A forked child adds PRI to IN: what comes of it."""
    with VPoll(IN, backend=backend) as vpoll:
        fd = vpoll.fileno()
        answer, child = os.pipe()
        with os.fdopen(answer) as report:

            def operate() -> None:
                try:
                    vpoll.add_events(PRI)
                except OSError as error:
                    os.write(child, f"{fault(error)}, ".encode())

            in_child(operate)
            os.close(child)
            return f"{report.read()}the parent sees {names(by_epoll(fd))}"


@observation("IN")
def left_by_close(backend: str) -> Answer:
    """IN is set, somebody duplicates the descriptor, the vpoll is closed: what epoll tells."""
    vpoll = VPoll(IN, backend=backend)
    kept = os.dup(vpoll.fileno())
    try:
        vpoll.close()
        return names(by_epoll(kept))
    finally:
        os.close(kept)


@observation("nothing then nothing")
def woken_by_close(backend: str) -> Answer:
    """The vpoll is closed, a duplicate keeps it: what an edge-triggered waiter is told."""
    vpoll = VPoll(backend=backend)
    kept = os.dup(vpoll.fileno())
    try:
        with select.epoll() as epoll:
            epoll.register(kept, KEPT & ~EventMask.OUT | select.EPOLLET)
            epoll.poll(0)
            vpoll.close()
            return edges(epoll)
    finally:
        os.close(kept)
