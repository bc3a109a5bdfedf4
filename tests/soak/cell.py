"""One server under load in this process: ``python -m soak.cell SERVICE LOOP STACK ...``.

Every client makes one exchange after the other, so that the load is what the server
answers.  Between rounds they stop with their connections open, and a sample is taken.
Prints a line a sample, and what is wrong at the end; exit status 1 when something is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any
from unittest import mock

import vpoll_asyncio as va
from vpoll_asyncio.stacks.memory import timewait

from .samples import Sample, enough, faults, take
from .services import SERVICES, Client, Ending, Service

__all__ = ["main"]

ADDRESS = "10.1.1.1"
STACKS = {
    "memory": f"stack=memory,vnl=mem://soak,ip={ADDRESS}/24",
    # Nobody is at the other end of the wire: the stack speaks to itself.
    "lwip": f"stack=lwip,vnl=wire://soak,ip={ADDRESS}/24",
}
LOOPS = ("asyncio", "uvloop")

# Bodies are cut from this; the sizes are those of a busy web server, roughly.
_BYTES = random.Random(4).randbytes(1 << 18)
_SIZES = (64, 4096, 1 << 16, 1 << 18)
_WEIGHTS = (60, 34, 5, 1)
# Exchanges on one connection.
_LIFE = (1, 20)
# Beyond 2 MSL of lwIP's 60 s: its TIME-WAIT is over.
_TIME_WAIT = 130.0
# Of a second at least.
_ROUNDS = 30
# Exchanges of each client after which buffers and caches have the size that they keep.
_WARM = 10
# More than a client and its server have together, by far.
_TIMERS = 10
# Seconds that a round may take longer than it should before an answer counts as lost.
_PATIENCE = 60.0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _nothing() -> None:
    pass


class Worker:
    """One client and what it does: the same in every run with the same number."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._random = random.Random(number)
        self._left = 0
        self.exchanges = 0
        self.connections = 0

    async def exchange(self, ending: Ending | None = None) -> None:
        """Make one exchange and check the answer."""
        if not self._left:
            self._left = self._random.randint(*_LIFE)
            self.connections += 1
        self._left -= 1
        last = ending is not None
        if ending is None:
            ending = Ending.STAYS
            if not self._left:
                ending = Ending.DROPPED if self._random.random() < 0.25 else Ending.CLOSED
        elif not self._left:
            self._left = 1
        # What was said last may be kept: the same at every sample, then, and small.
        size = _SIZES[0] if last else self._random.choices(_SIZES, _WEIGHTS)[0]
        start = self._random.randrange(len(_BYTES) - size + 1)
        body = _BYTES[start : start + size]
        answer = await self._client.exchange(body, ending)
        if ending is not Ending.DROPPED and answer != body:
            got = "nothing" if answer is None else f"{len(answer)} other bytes"
            raise AssertionError(f"{size} bytes were sent and {got} came back")
        self.exchanges += 1

    async def work(self, until: float) -> None:
        """Exchange until the monotonic clock reads `until`; a connection is open then."""
        while time.monotonic() < until:
            await self.exchange()
        await self.exchange(Ending.STAYS)

    async def close(self) -> None:
        await self._client.close()


class Soak:
    """The load on one service, and the samples."""

    def __init__(self, service: Service, stack: va.Stack, options: argparse.Namespace) -> None:
        self._service = service
        self._stack = stack
        self._options = options
        self._workers: list[Worker] = []
        self.samples: list[Sample] = []

    def _forget_cancelled_timers(self) -> None:
        """Leave the loop no cancelled timer: asyncio's keeps them until they are the most."""
        loop = asyncio.get_running_loop()
        for _ in range(_TIMERS * self._options.clients):
            loop.call_later(_PATIENCE, _nothing).cancel()

    async def _settled(self) -> Sample:
        """Return what the process holds once it has come to rest.

        Servers end what belongs to a connection some turns after its client has gone.
        """
        skip_time: Callable[[float], None] | None = getattr(self._stack, "skip_time", None)
        self._forget_cancelled_timers()
        least = sys.maxsize
        for _ in range(50):
            await asyncio.sleep(0.02)
            if skip_time is not None:
                skip_time(_TIME_WAIT)
            gc.collect()
            before, least = least, min(least, sys.getallocatedblocks())
            if least == before:
                break
        return take(
            sum(worker.exchanges for worker in self._workers),
            sum(worker.connections for worker in self._workers),
        )

    @staticmethod
    async def _together(works: Iterable[Coroutine[Any, Any, None]], seconds: float) -> None:
        async with asyncio.timeout(seconds + _PATIENCE), asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)

    async def _round(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await self._together((worker.work(until) for worker in self._workers), seconds)
        if len(self.samples) > 1:
            # Samples are what a process holds, too.
            self.samples[-1].types.clear()
        self.samples.append(await self._settled())
        _say(f"{self.samples[-1]}")

    async def run(self) -> list[str]:
        """Put the load on for the time that the options say; return what is wrong."""
        options = self._options
        end = time.monotonic() + options.seconds
        async with self._service.running(ADDRESS, options.clients):
            self._workers = [
                Worker(self._service.client(ADDRESS), number) for number in range(options.clients)
            ]
            # Caches fill up, and every client has opened a connection.
            while not self.samples or self.samples[-1].exchanges < _WARM * options.clients:
                await self._round(options.seconds / 5)
            del self.samples[:-1]
            rounds = min(_ROUNDS, options.seconds)
            while time.monotonic() < end or not enough(self.samples, options.clients):
                await self._round(options.seconds / rounds)
            await self._together((worker.close() for worker in self._workers), 0)
        wrong = faults(self.samples, options.clients)
        wrong += await self._remains()
        return wrong

    async def _remains(self) -> list[str]:
        sample = await self._settled()
        return [
            f"{count} {what} left after the end"
            for what, count in (
                ("tasks besides the main one", sample.tasks - 1),
                ("transports", sample.transports),
                ("sockets", sample.sockets),
            )
            if count
        ]


class _Complaints(logging.Handler):
    """Everything that somebody found worth a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.messages) < 20:
            self.messages.append(self.format(record))

    def unraisable(self, what: Any) -> None:
        self.messages.append(f"unraisable: {what.err_msg or ''} {what.exc_value!r} {what.object!r}")


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    handler = _Complaints()
    logging.getLogger().addHandler(handler)
    hook, sys.unraisablehook = sys.unraisablehook, handler.unraisable
    try:
        yield handler.messages
    finally:
        sys.unraisablehook = hook
        logging.getLogger().removeHandler(handler)


def descriptors() -> set[tuple[str, str]]:
    """Return the open descriptors and what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options that ``python -m soak`` has too."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--seconds", type=float, default=600, help="for each server, stack, loop")
    options.add_argument("--clients", type=int, default=500, help="connections at once")
    return options


def main(arguments: list[str]) -> int:
    """Run one cell; return the exit status."""
    options = argparse.ArgumentParser(prog="soak.cell", parents=[parser()])
    options.add_argument("service", choices=SERVICES)
    options.add_argument("loop", choices=LOOPS)
    options.add_argument("stack", choices=STACKS)
    wanted = options.parse_args(arguments)
    # libuv opens a pipe with its first loop and keeps it.
    va.run(asyncio.sleep(0), loop=wanted.loop)
    before = descriptors()
    with _complaints() as complaints:
        with va.open_stack(STACKS[wanted.stack]) as stack:
            soak = Soak(SERVICES[wanted.service](), stack, wanted)
            # A record a connection for a minute would hide what is kept for good.
            with mock.patch.object(timewait, "SECONDS", 0.0):
                wrong = va.run(soak.run(), loop=wanted.loop, stack=stack, debug=False)
        del soak
        gc.collect()
    wrong += complaints
    wrong += [f"descriptor {fd} left: {what}" for fd, what in sorted(descriptors() - before)]
    for one in wrong:
        _say(f"WRONG {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
