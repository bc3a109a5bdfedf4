"""A loop with nothing to do does nothing, whatever it watches and however that ended.

What is counted while nothing happens are the functions that the loop's thread calls,
and on loops with our selector the polls.  Only the watch over this, a timer, ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any, Final

import pytest

from ourloops import ALL, OURS, LoopFactory, new_vpoll
from transport_helpers import turns, until
from vpoll_asyncio import EventMask, UserSocket, transports, wait_events
from vpoll_asyncio.selector import VPollSelector
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.memory.stream import StreamSocket

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI

ADDRESS: Final = "10.1.1.1"

WATCHED: Final = 0.2
"""Seconds that a loop is watched for."""

POLLS: Final = 6
"""The watch's own, and two for lwIP's timers: they are due five times a second."""

CALLS: Final = 40
"""Of Python's functions, by the watch itself.  A spin soon has thousands."""

CALLS_OF_TIMERS: Final = 30
"""By each turn that a timer takes."""

STACKS = [
    pytest.param("stack=memory,ip=10.1.1.1/24", id="memory"),
    pytest.param(
        "stack=lwip,vnl=wire://idle,ip=10.1.1.1/24", id="lwip", marks=pytest.mark.needs("lwip")
    ),
]


class Activity:
    """Counts the calls of a thread's functions, and the polls of our selectors."""

    def __init__(self) -> None:
        self.polls = 0
        self.calls: Counter[str] = Counter()

    def profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            self.calls[frame.f_code.co_qualname] += 1

    def reset(self) -> None:
        self.polls = 0
        self.calls.clear()


@pytest.fixture
def activity(monkeypatch: pytest.MonkeyPatch) -> Activity:
    activity = Activity()
    select = VPollSelector.select

    def counting(selector: VPollSelector, timeout: float | None = None) -> Any:
        activity.polls += 1
        return select(selector, timeout)

    monkeypatch.setattr(VPollSelector, "select", counting)
    return activity


async def settle(stack: Stack | None = None) -> None:
    """Let the loop do what there is to do, and lwIP's acknowledgements become due."""
    for _ in range(3):
        await turns(30)
        if isinstance(stack, LwipStack):
            stack.skip_time(0.5)


async def watch(activity: Activity, stack: Stack | None = None, timers: int = 0) -> None:
    """Fail when the loop does more than to sleep, and to run lwIP's and as many other timers."""
    activity.reset()
    began = time.monotonic()
    sys.setprofile(activity.profile)
    try:
        await asyncio.sleep(WATCHED)
    finally:
        sys.setprofile(None)
    watched = time.monotonic() - began
    if isinstance(stack, LwipStack):
        # TCP's is due every quarter of a second, the others together every second.
        timers += int(4 * watched) + 1 + int(watched) + 1
    allowed = CALLS + CALLS_OF_TIMERS * timers
    assert activity.calls.total() <= allowed, activity.calls.most_common(10)
    assert activity.polls <= POLLS


# Connections.


class End(asyncio.Protocol):
    """One end of a connection, that keeps open what is half-closed."""

    transport: Any

    def __init__(self) -> None:
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    @property
    def socket(self) -> Any:
        return self.transport.get_extra_info("socket")


Pair = tuple[End, End]


@contextlib.asynccontextmanager
async def connections(stack: Stack, count: int) -> AsyncIterator[list[Pair]]:
    """Open as many connections; yields the (accepted, connected) ends."""
    loop = asyncio.get_running_loop()
    accepted: dict[Any, End] = {}

    class Accepted(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            accepted[transport.get_extra_info("peername")] = self

    server = await transports.create_server(loop, Accepted, ADDRESS, 80, stack=stack, backlog=count)
    connected = []
    for _ in range(count):
        _, end = await transports.create_connection(loop, End, ADDRESS, 80, stack=stack)
        connected.append(end)
    await until(lambda: len(accepted) == count)
    pairs = [(accepted[end.transport.get_extra_info("sockname")], end) for end in connected]
    try:
        yield pairs
    finally:
        server.close()
        for pair in pairs:
            for end in pair:
                end.transport.abort()
        await turns(3)


def linger_zero(end: End) -> None:
    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def data_waits_while_reading_is_paused(accepted: End, connected: End) -> None:
    accepted.transport.pause_reading()
    connected.transport.write(b"unread")


def more_is_written_than_is_read(accepted: End, connected: End) -> None:
    accepted.transport.pause_reading()
    connected.transport.write(bytes(1 << 20))


def half_closed(accepted: End, connected: End) -> None:
    connected.transport.write_eof()


def half_closed_while_reading_is_paused(accepted: End, connected: End) -> None:
    accepted.transport.pause_reading()
    connected.transport.write(b"unread")
    connected.transport.write_eof()


def hung_up_and_kept_open(accepted: End, connected: End) -> None:
    accepted.transport.write_eof()
    connected.transport.write_eof()


def reset(accepted: End, connected: End) -> None:
    linger_zero(connected)
    connected.transport.abort()


def reset_while_reading_is_paused(accepted: End, connected: End) -> None:
    accepted.transport.pause_reading()
    connected.transport.write(b"unread")
    reset(accepted, connected)


def reset_after_a_half_close(accepted: End, connected: End) -> None:
    accepted.transport.write_eof()
    accepted.transport.pause_reading()
    reset(accepted, connected)


def closed_with_data_that_nobody_reads(accepted: End, connected: End) -> None:
    accepted.transport.pause_reading()
    connected.transport.write(bytes(1 << 20))
    connected.transport.close()


def shut_both_ways(accepted: End, connected: End) -> None:
    connected.socket.shutdown(socket.SHUT_RDWR)


State = Callable[[End, End], None]

STATES: list[State] = [
    data_waits_while_reading_is_paused,
    more_is_written_than_is_read,
    half_closed,
    half_closed_while_reading_is_paused,
    hung_up_and_kept_open,
    reset,
    reset_while_reading_is_paused,
    reset_after_a_half_close,
    closed_with_data_that_nobody_reads,
    shut_both_ways,
]


def run(factory: LoopFactory, config: str, main: Callable[[Stack], Any]) -> None:
    with open_stack(config) as stack, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(stack))


@pytest.mark.parametrize("config", STACKS)
@pytest.mark.parametrize("factory", OURS)
def test_a_thousand_idle_connections_cost_nothing(
    factory: LoopFactory, config: str, activity: Activity
) -> None:
    async def main(stack: Stack) -> None:
        async with connections(stack, 1000) as pairs:
            await settle(stack)
            await watch(activity, stack)
            assert not any(end.lost for pair in pairs for end in pair)

    run(factory, config, main)


@pytest.mark.parametrize("config", STACKS)
@pytest.mark.parametrize("factory", OURS)
def test_connections_in_every_state_cost_nothing(
    factory: LoopFactory, config: str, activity: Activity
) -> None:
    async def main(stack: Stack) -> None:
        async with connections(stack, len(STATES)) as pairs:
            for state, pair in zip(STATES, pairs, strict=True):
                state(*pair)
            await settle(stack)
            await watch(activity, stack)

    run(factory, config, main)


@pytest.mark.parametrize("factory", OURS)
def test_datagram_endpoints_and_waits_cost_nothing(
    factory: LoopFactory, activity: Activity
) -> None:
    async def main(stack: Stack) -> None:
        loop: Any = asyncio.get_running_loop()
        endpoints = [
            await transports.create_datagram_endpoint(
                loop, asyncio.DatagramProtocol, remote_addr=(ADDRESS, 80), stack=stack
            )
            for _ in range(3)
        ]
        # Nobody is there: an error comes back.
        endpoints[0][0].sendto(b"!")
        endpoints[1][0].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        with new_vpoll(IN | OUT) as vpoll:
            loop.add_poller(vpoll, PRI, print)
            wait = asyncio.create_task(wait_events(vpoll, PRI | EventMask.RDHUP))
            await settle()
            await watch(activity)
            assert not wait.done()
            wait.cancel()
            await asyncio.wait([wait])
            loop.remove_poller(vpoll)
        for transport, _ in endpoints:
            transport.abort()
        await asyncio.sleep(0)

    run(factory, "stack=memory,ip=10.1.1.1/24", main)


@pytest.mark.parametrize("factory", OURS)
def test_a_server_that_is_out_of_resources_costs_nothing(
    factory: LoopFactory, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections wait, cannot be accepted, and are asked for again once a second."""

    def refuse(sock: UserSocket) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    reports: list[dict[str, Any]] = []

    async def main(stack: Stack) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        server = await transports.create_server(loop, End, ADDRESS, 80, stack=stack)
        monkeypatch.setattr(StreamSocket, "do_accept", refuse)
        _, end = await transports.create_connection(loop, End, ADDRESS, 80, stack=stack)
        await settle()
        await watch(activity, timers=2)
        assert 1 <= len(reports) <= 2
        end.transport.abort()
        server.close()
        await asyncio.sleep(0)

    run(factory, "stack=memory,ip=10.1.1.1/24", main)


@pytest.mark.parametrize("factory", ALL)
def test_pending_events_that_nobody_asked_for_cost_nothing(
    factory: LoopFactory, activity: Activity
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as steps:
            for _ in range(100):
                vpoll = steps.enter_context(new_vpoll(OUT | PRI))
                loop.add_reader(vpoll, print)
                steps.callback(loop.remove_reader, vpoll)
            await settle()
            await watch(activity)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
