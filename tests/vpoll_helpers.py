"""Looking at a vpoll as the kernel's pollers do, in forked children and in threads."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest

from scale import SCALE
from vpoll_asyncio.events import KEPT

KERNEL_BACKENDS = [
    pytest.param("eventfd", marks=pytest.mark.needs("efd_vpoll")),
    pytest.param("device", marks=pytest.mark.needs("dev_vpoll")),
    pytest.param("fuse", marks=pytest.mark.needs("fuse")),
    "unixpair",
    "tcppair",
]
"""Backends whose descriptor the kernel's pollers understand."""

PAIRS = ["unixpair", "tcppair"]

ONE_KERNEL_OBJECT = KERNEL_BACKENDS[:3]
"""Backends whose descriptor every process that holds it may operate."""

DEADLINE = 20.0 * SCALE
"""Seconds after which a state that was waited for counts as never reached."""


def by_epoll(fd: int) -> int:
    """The events that a level-triggered epoll waiter for everything sees on `fd`."""
    with select.epoll() as epoll:
        epoll.register(fd, KEPT)
        for _, events in epoll.poll(0):
            return events
    return 0


def by_poll(fd: int) -> int:
    """The events that a poll(2) waiter for everything sees on `fd`: bits 0 to 15."""
    poll = select.poll()
    poll.register(fd, 0xFFFF)
    for _, events in poll.poll(0):
        return events
    return 0


def by_select(fd: int) -> tuple[bool, bool, bool]:
    """Whether select(2) calls `fd` readable, writable, exceptional."""
    readable, writable, exceptional = select.select([fd], [fd], [fd], 0)
    return bool(readable), bool(writable), bool(exceptional)


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child; fail with its traceback, or when it hangs."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(DEADLINE))
            work()
        except BaseException:
            os.write(writer, traceback.format_exc()[-4000:].encode())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}: {report}"


def open_descriptors() -> set[int]:
    """The descriptors that this process holds now."""
    held = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            os.readlink(f"/proc/self/fd/{name}")
            held.add(int(name))
    return held


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open `count` descriptors and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


@contextlib.contextmanager
def running(*works: Callable[[], object]) -> Iterator[None]:
    """Run each of `works` in a thread; all must end well."""
    faults: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    if faults:
        raise faults[0]
