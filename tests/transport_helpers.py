"""Tests that run on every loop, ours and the stock ones, over the memory stack."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

import pytest

from needs import missing
from vpoll_asyncio import VPoll, loops, transports
from vpoll_asyncio.stacks import open_stack

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Reports = list[dict[str, Any]]

TIMEOUT = 60.0
"""Seconds after which a test that waits for something has failed."""


def _stock_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _our_uvloop() -> asyncio.AbstractEventLoop:
    return loops.new_event_loop(loop="uvloop")


LOOPS = [
    pytest.param(asyncio.SelectorEventLoop, id="stock"),
    pytest.param(_stock_uvloop, id="stock-uvloop", marks=pytest.mark.needs("uvloop")),
    pytest.param(loops.EventLoop, id="ours"),
    pytest.param(_our_uvloop, id="ours-uvloop", marks=pytest.mark.needs("uvloop")),
]

_networks = itertools.count()

# A process's first run of uvloop leaves a pipe behind, which is no leak of the test's.
if missing("uvloop") is None:
    with asyncio.Runner(loop_factory=_stock_uvloop) as _runner:
        _runner.run(asyncio.sleep(0))


class Hosts:
    """Two stacks on one memory network."""

    def __init__(self) -> None:
        net = f"mem://transports-{next(_networks)}"
        self.server = open_stack(
            "memory", vnl=net, ip=["10.0.0.1/24", "fd00::1/64"], hostname="server.test"
        )
        self.client = open_stack("memory", vnl=net, ip=["10.0.0.2/24", "fd00::2/64"])

    def close(self) -> None:
        self.server.close()
        self.client.close()


def run_on(
    factory: LoopFactory, main: Callable[[], Coroutine[Any, Any, None]], reports: Reports
) -> None:
    """Run `main()` on a new loop until its last task ends.

    What the loop's exception handler is told goes to `reports`.
    """

    async def limited() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with asyncio.timeout(TIMEOUT):
            await main()
            await tasks_end()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(limited())


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor_more() -> Iterator[None]:
    """Fail when there are descriptors afterwards that were not there before.

    Garbage is collected only when there are some: thousands of tests use this.
    """
    before = descriptors()
    yield
    if descriptors() - before:
        gc.collect()
        more = descriptors() - before
        if more:
            raise AssertionError(f"descriptors leaked: {more}")


def on_every_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an ``async def`` test on each loop.

    Besides fixtures it may ask for `hosts` and for `reports`, what the loop's exception
    handler was told, which must be empty at the end.  Afterwards no descriptor may be
    left, and no vpoll may have had one at any time.
    """
    wanted = inspect.signature(test).parameters

    def wrapper(*, loop_factory: LoopFactory, **fixtures: Any) -> None:
        reports: Reports = []
        if "reports" in wanted:
            fixtures["reports"] = reports
        refused = AssertionError("a descriptor was asked for")
        with contextlib.ExitStack() as steps:
            steps.enter_context(no_descriptor_more())
            if "hosts" in wanted:
                fixtures["hosts"] = hosts = Hosts()
                steps.callback(hosts.close)
            steps.enter_context(mock.patch.object(VPoll, "fileno", side_effect=refused))
            run_on(loop_factory, functools.partial(test, **fixtures), reports)
        if reports:
            raise AssertionError(f"the loop's exception handler was called: {reports}")

    names = {"loop_factory": None, **wanted}
    for provided in ("hosts", "reports"):
        names.pop(provided, None)
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__", "pytestmark"):
        if hasattr(test, attribute):
            setattr(wrapper, attribute, getattr(test, attribute))
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    parametrized: Callable[..., None] = pytest.mark.parametrize("loop_factory", LOOPS)(wrapper)
    return parametrized


async def turns(count: int) -> None:
    """Let the loop turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition()` holds; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - no event tells every condition
        await asyncio.sleep(0)


async def tasks_end() -> None:
    """Wait until the calling task is the only one."""
    await until(lambda: len(asyncio.all_tasks()) == 1)


class Recorder(asyncio.Protocol):
    """Remembers what happened, in order."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.keep_open = keep_open
        self.transport: Any = None
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[None] = loop.create_future()
        self.eof: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.events.append("made")
        self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.events[-1] != "data":
            self.events.append("data")
        self.data += data

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.eof.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Pair:
    """A connection: the protocols of both ends, and the server that accepted it."""

    def __init__(self, server: Any, accepted: Any, connected: Any) -> None:
        self.server = server
        self.accepted = accepted
        self.connected = connected

    async def finish(self) -> None:
        """Abort what is left and wait until everything is closed."""
        self.server.close()
        for end in (self.accepted, self.connected):
            end.transport.abort()
        await asyncio.gather(self.accepted.lost, self.connected.lost)
        await self.server.wait_closed()


async def connect(
    hosts: Hosts,
    accepted: Callable[[], Any] = Recorder,
    connected: Callable[[], Any] = Recorder,
    **options: Any,
) -> Pair:
    """Return a connection from `hosts.client` to `hosts.server`."""
    loop = asyncio.get_running_loop()
    made = []

    def factory() -> Any:
        made.append(accepted())
        return made[-1]

    server = await transports.create_server(loop, factory, "10.0.0.1", 80, stack=hosts.server)
    _, client = await transports.create_connection(
        loop, connected, "10.0.0.1", 80, stack=hosts.client, **options
    )
    await until(lambda: made and made[0].transport)
    return Pair(server, made[0], client)
