"""add_poller: callbacks with the exact mask, on each loop of ours."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
import gc
import logging
import os
import select
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exact_backends import WAYS, shown_by
from memory_helpers import Lab, R, settles
from ourloops import OURS, LoopFactory, new_vpoll, resolve, run_until, when_asleep
from vpoll_asyncio import EventLoop, EventMask, VPoll
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_helpers import descriptors_left

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, HUP, RDHUP = EventMask.ERR, EventMask.HUP, EventMask.RDHUP

# The interface that both loops have.
Loop = EventLoop

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture(params=[False, True], ids=["", "debug"])
def debug(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=OURS)
def loop(request: pytest.FixtureRequest, debug: bool) -> Iterator[Loop]:
    factory: LoopFactory = request.param
    loop: Any = factory()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


@pytest.fixture(params=["wait-queue", "kernel"])
def vpoll(request: pytest.FixtureRequest) -> Iterator[VPoll]:
    """For the tests that are the same for what we watch and for what the kernel does."""
    with VPoll(backend="tcppair" if request.param == "kernel" else "virtual") as vpoll:
        yield vpoll


@pytest.fixture
def fd(vpoll: VPoll) -> int:
    return vpoll.fileno()


def turns(loop: Loop, count: int = 5) -> None:
    """Run `loop` for `count` turns."""

    def again(left: int) -> None:
        if left:
            loop.call_soon(again, left - 1)
        else:
            loop.stop()

    again(count)
    loop.run_forever()


# What the callback gets.


@pytest.mark.parametrize("backend", WAYS)
def test_poller_is_called_with_its_event_and_for_no_other(loop: Loop, backend: str | None) -> None:
    exact = shown_by(backend)
    seen: list[EventMask] = []
    with VPoll(backend=backend) as vpoll:
        fileobj = vpoll.fileno() if backend else vpoll
        for event in exact:
            done = loop.create_future()

            def poller(event: EventMask, done: asyncio.Future[None], mask: EventMask) -> None:
                seen.append(mask)
                vpoll.del_events(event)
                resolve(done)

            vpoll.set_events(exact & ~(event | ERR | HUP))
            loop.add_poller(fileobj, event, poller, event, done)
            turns(loop)
            assert not seen, event
            with when_asleep(functools.partial(vpoll.add_events, event)):
                run_until(loop, done)
            turns(loop)
            assert seen == [event]
            assert isinstance(seen.pop(), EventMask)
        loop.remove_poller(fileobj)


def test_arguments_come_before_the_mask(loop: Loop, vpoll: VPoll, fd: int) -> None:
    seen: list[tuple[Any, ...]] = []
    done = loop.create_future()

    def poller(*args: Any) -> None:
        seen.append(args)
        vpoll.set_events(0)
        resolve(done)

    loop.add_poller(fd, IN | PRI, poller, 1, "two")
    vpoll.set_events(IN | OUT)
    run_until(loop, done)
    loop.remove_poller(fd)
    assert seen == [(1, "two", IN)]


def test_urgent_data_reaches_a_poller_beside_a_reader(loop: Loop, lab: Lab) -> None:
    client, server = lab.pair()
    done = loop.create_future()
    calls: list[Any] = []

    def poller(mask: EventMask) -> None:
        calls.append(mask)
        assert server.recv(1, socket.MSG_OOB) == b"!"
        resolve(done)

    def reader() -> None:
        calls.append(server.recv(100))

    loop.add_reader(server, reader)
    loop.add_poller(server, PRI, poller)
    client.send(b"data")
    settles(server, R | OUT | EventMask.WRNORM)
    turns(loop)
    assert calls == [b"data"]
    client.send(b"!", socket.MSG_OOB)
    run_until(loop, done)
    assert calls == [b"data", PRI]
    assert loop.remove_reader(server) in (True, None)
    client.send(b"!", socket.MSG_OOB)
    done = loop.create_future()
    run_until(loop, done)
    assert loop.remove_poller(server)
    assert calls == [b"data", PRI, PRI]


def test_poller_watches_the_socket_of_a_transport(loop: Loop) -> None:
    client, server = Lab(host_stack()).pair()

    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=server)
        urgent: asyncio.Future[EventMask] = loop.create_future()

        def poller(mask: EventMask) -> None:
            if not urgent.done():
                urgent.set_result(mask)

        loop.add_poller(server.fileno(), PRI, poller)
        client.send(b"data\n")
        assert await reader.readline() == b"data\n"
        client.send(b"!", socket.MSG_OOB)
        assert await urgent == PRI
        loop.remove_poller(server.fileno())
        client.send(b"more\n")
        assert await reader.readline() == b"more\n"
        writer.close()
        await writer.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), 20))
    client.close()


# Level-triggered, one for each file.


def test_poller_is_called_until_the_event_is_cleared(loop: Loop, vpoll: VPoll, fd: int) -> None:
    seen: list[EventMask] = []
    done = loop.create_future()

    def poller(mask: EventMask) -> None:
        seen.append(mask)
        if len(seen) == 3:
            vpoll.set_events(OUT)
            resolve(done)

    loop.add_poller(fd, PRI, poller)
    vpoll.set_events(OUT | PRI)
    run_until(loop, done)
    turns(loop)
    assert seen == [PRI] * 3
    loop.remove_poller(fd)


def test_error_and_hang_up_are_always_reported(loop: Loop) -> None:
    with new_vpoll() as vpoll:
        seen: list[EventMask] = []
        loop.add_poller(vpoll, 0, seen.append)
        vpoll.set_events(ERR | HUP | IN)
        turns(loop)
        loop.remove_poller(vpoll)
        assert set(seen) == {ERR | HUP}


def test_second_poller_replaces_the_first(loop: Loop, vpoll: VPoll, fd: int) -> None:
    calls: list[str] = []
    loop.add_poller(fd, IN, lambda mask: calls.append("first"))
    loop.add_poller(fd, PRI, lambda mask: calls.append("second"))
    vpoll.set_events(IN)
    turns(loop)
    assert not calls
    vpoll.set_events(PRI)
    turns(loop)
    assert set(calls) == {"second"}
    assert loop.remove_poller(fd)
    assert not loop.remove_poller(fd)


def test_removed_poller_is_not_called(loop: Loop, vpoll: VPoll, fd: int) -> None:
    calls: list[EventMask] = []
    loop.add_poller(fd, IN, calls.append)
    vpoll.set_events(IN)
    assert loop.remove_poller(fd)
    turns(loop)
    assert not calls


def test_poller_removes_itself(loop: Loop, vpoll: VPoll, fd: int) -> None:
    calls: list[EventMask] = []

    def poller(mask: EventMask) -> None:
        calls.append(mask)
        assert loop.remove_poller(fd)

    loop.add_poller(fd, IN, poller)
    vpoll.set_events(IN)
    turns(loop)
    assert calls == [IN]


def test_poller_replaces_itself(loop: Loop, vpoll: VPoll, fd: int) -> None:
    calls: list[EventMask] = []

    def poller(mask: EventMask) -> None:
        loop.add_poller(fd, PRI, calls.append)

    loop.add_poller(fd, IN, poller)
    vpoll.set_events(IN | PRI)
    turns(loop)
    loop.remove_poller(fd)
    assert set(calls) == {PRI}


def test_poller_that_fails_is_reported_and_called_again(loop: Loop, vpoll: VPoll, fd: int) -> None:
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, report: reports.append(report["exception"]))

    def poller(mask: EventMask) -> None:
        raise ZeroDivisionError(len(reports))

    loop.add_poller(fd, IN, poller)
    vpoll.set_events(IN)
    turns(loop)
    loop.remove_poller(fd)
    assert len(reports) > 1
    assert {type(report) for report in reports} == {ZeroDivisionError}


def test_poller_runs_in_the_context_that_added_it(loop: Loop, vpoll: VPoll, fd: int) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")
    seen: list[str] = []

    def add() -> None:
        name.set("added")
        loop.add_poller(fd, IN, lambda mask: seen.append(name.get()))

    contextvars.copy_context().run(add)
    vpoll.set_events(IN)
    turns(loop)
    loop.remove_poller(fd)
    assert set(seen) == {"added"}


def test_ready_pollers_do_not_starve_timers(loop: Loop, vpoll: VPoll, fd: int) -> None:
    loop.add_poller(fd, IN, lambda mask: None)
    vpoll.set_events(IN)
    done = loop.create_future()
    loop.call_later(0.01, resolve, done)
    run_until(loop, done)
    loop.remove_poller(fd)


@pytest.mark.parametrize("factory", OURS)
def test_slow_poller_is_named_in_debug_mode(
    factory: LoopFactory, vpoll: VPoll, fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    loop: Any = factory()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0

    def dawdling_poller(mask: EventMask) -> None:
        vpoll.del_events(IN)

    loop.add_poller(fd, IN, dawdling_poller)
    vpoll.set_events(IN)
    with caplog.at_level(logging.WARNING, "asyncio"):
        turns(loop)
    loop.remove_poller(fd)
    loop.close()
    if vpoll.backend != "virtual" and not isinstance(loop, EventLoop):
        # uvloop times none of its readers.
        return
    slow = [record.getMessage() for record in caplog.records if "took" in record.getMessage()]
    assert any("dawdling_poller" in message for message in slow)


# Closing.


def test_poller_of_a_closed_file_hears_nothing_and_can_be_removed(loop: Loop) -> None:
    calls: list[EventMask] = []
    ours, theirs = socket.socketpair()
    vpoll = new_vpoll()
    virtual = vpoll.fileno()
    loop.add_poller(ours, IN, calls.append)
    loop.add_poller(virtual, IN, calls.append)
    ours.close()
    theirs.close()
    vpoll.close()
    turns(loop)
    assert not calls
    assert loop.remove_poller(ours)
    assert loop.remove_poller(int(str(virtual)))
    assert not loop.remove_poller(ours)
    assert not loop.remove_poller(virtual)


def test_number_that_a_file_got_meanwhile_is_another_file(loop: Loop) -> None:
    old: list[EventMask] = []
    new: list[EventMask] = []
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    loop.add_poller(fd, IN, old.append)
    ours.close()
    theirs.close()
    reader, writer = os.pipe()
    os.dup2(reader, fd)
    os.write(writer, b"!")
    turns(loop)
    assert not old
    loop.add_poller(fd, IN, new.append)
    turns(loop)
    assert not old
    assert set(new) == {IN}
    assert loop.remove_poller(fd)
    for number in {reader, writer, fd}:
        os.close(number)


@pytest.mark.parametrize("factory", OURS)
def test_closed_loop_lets_go_of_its_pollers(factory: LoopFactory, vpoll: VPoll, fd: int) -> None:
    class Callback:
        def __call__(self, mask: EventMask) -> None:
            raise AssertionError("the loop is closed")

    loop: Any = factory()
    callback = Callback()
    loop.add_poller(fd, IN, callback)
    loop.close()
    vpoll.set_events(IN)
    dead = weakref.ref(callback)
    del callback
    gc.collect()
    assert dead() is None
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_poller(fd, IN, print)
    assert not loop.remove_poller(fd)


# What goes wrong.


@pytest.mark.parametrize("mask", [1 << 28, select.EPOLLET, -1])
def test_bits_that_are_no_events_are_a_value_error(
    loop: Loop, vpoll: VPoll, fd: int, mask: int
) -> None:
    with pytest.raises(ValueError, match="event mask"):
        loop.add_poller(fd, mask, print)
    assert not loop.remove_poller(fd)


def test_what_is_no_file_is_a_type_error(loop: Loop) -> None:
    nothing: Any = object()
    with pytest.raises(TypeError, match="is no file"):
        loop.add_poller(nothing, IN, print)
    with pytest.raises(TypeError, match="is no file"):
        loop.remove_poller(nothing)


def test_closed_file_is_ebadf(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    vpoll = VPoll()
    fd = ours.fileno()
    for file in (ours, theirs, vpoll):
        file.close()
    for fileobj in (ours, fd, vpoll):
        with pytest.raises(OSError) as caught:
            loop.add_poller(fileobj, IN, print)
        assert caught.value.errno == errno.EBADF
        assert not loop.remove_poller(fileobj)


def test_file_on_disk_is_eperm_as_for_readers(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    with path.open("rb") as file:
        with pytest.raises(PermissionError):
            loop.add_poller(file, IN, print)
        assert not loop.remove_poller(file)


def test_failed_replacement_leaves_the_poller_in_place(loop: Loop) -> None:
    calls: list[EventMask] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_poller(ours, IN, calls.append)
        with descriptors_left(0):
            with pytest.raises(OSError) as caught:
                loop.add_poller(ours, PRI, print)
            assert caught.value.errno == errno.EMFILE
        theirs.send(b"!")
        turns(loop)
        assert set(calls) == {IN}
        assert loop.remove_poller(ours)
