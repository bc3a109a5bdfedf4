"""Stacks that are opened and closed again and again leave nothing behind.

``VPOLL_TEST_LONG=1`` opens ten at once a hundred times.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scale import LONG
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.stacks import Stack, open_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.testing.stack_suite import until

AT_ONCE = 10 if LONG else 3
ROUNDS = 100 if LONG else 3
GROWTH = 4 << 20
"""Bytes that so many rounds may add: what modules that are loaded late and fragments take."""
ADDRESS = "10.0.0.1"


Make = Callable[[], contextlib.AbstractContextManager[Stack]]


@contextlib.contextmanager
def on_a_wire(name: str, **options: object) -> Iterator[Stack]:
    near, far = wire_pair()
    with far, open_stack(name, link=near, ip=f"{ADDRESS}/24", **options) as stack:
        yield stack


def lwip() -> contextlib.AbstractContextManager[Stack]:
    return on_a_wire("lwip")


def lwip_with_a_thread() -> contextlib.AbstractContextManager[Stack]:
    return on_a_wire("lwip", thread=True)


def memory() -> contextlib.AbstractContextManager[Stack]:
    return open_stack("memory", ip=f"{ADDRESS}/24")


def null() -> contextlib.AbstractContextManager[Stack]:
    return open_stack("null")


def vdestack() -> contextlib.AbstractContextManager[Stack]:
    return on_a_wire("vdestack")


def use(stack: Stack, address: str) -> None:
    """Send one datagram from the stack to itself."""
    with (
        stack.socket(type=socket.SOCK_DGRAM) as receiver,
        stack.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(30)
        receiver.bind((address, 0))
        sender.sendto(b"hello", receiver.getsockname())
        assert receiver.recv(100) == b"hello"


def network_namespaces() -> set[str]:
    """Return those that a process of this machine, or a descriptor of this one, is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        # Processes end meanwhile, and others' are not for us to see.
        with contextlib.suppress(OSError):
            found.add(os.readlink(process))
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if (target := os.readlink(fd)).startswith("net:"):
                found.add(target)
    return found


def descriptors() -> Counter[str]:
    """Return what is open, by kind and without the numbers of it."""
    kinds: Counter[str] = Counter()
    for fd in Path("/proc/self/fd").iterdir():
        # The descriptor of this very listing is gone by now.
        with contextlib.suppress(OSError):
            kinds[os.readlink(fd).partition(":[")[0]] += 1
    return kinds


def resident() -> int:
    """Return the bytes of memory in use, without what the allocator keeps in reserve."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gone(pid: int) -> bool:
    """Tell whether a process is no more, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def several(make: Make) -> tuple[set[int], set[str]]:
    """Open stacks at the same time, use and close them; return their helpers and namespaces."""
    helpers, namespaces = set(), set()
    with ExitStack() as opened:
        for _ in range(AT_ONCE):
            stack = opened.enter_context(make())
            if (helper := getattr(stack, "helper", None)) is not None:
                helpers.add(helper)
                namespaces.add(os.readlink(f"/proc/{helper}/ns/net"))
            if make is null:
                with pytest.raises(OSError, match="not supported"):
                    stack.socket()
            else:
                use(stack, ADDRESS)
                use(host_stack(), "127.0.0.1")
    return helpers, namespaces


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lwip, marks=pytest.mark.needs("lwip")),
        pytest.param(lwip_with_a_thread, marks=pytest.mark.needs("lwip")),
        memory,
        null,
        pytest.param(vdestack, marks=pytest.mark.needs("vdestack")),
    ],
    ids=lambda make: make.__name__,
)
def test_stacks_opened_and_closed_again_and_again_leave_nothing(make: Make) -> None:
    # What the first of a kind loads stays for the next: libraries, modules, builds.
    several(make)
    open_before, threads = descriptors(), threading.active_count()
    size = resident()
    helpers: set[int] = set()
    namespaces: set[str] = set()
    for _ in range(ROUNDS):
        more_helpers, more_namespaces = several(make)
        helpers |= more_helpers
        namespaces |= more_namespaces
    assert len(helpers) == (AT_ONCE * ROUNDS if make is vdestack else 0)
    until(lambda: all(map(gone, helpers)), "a helper process is left")
    until(lambda: not namespaces & network_namespaces(), "a network namespace is left")
    until(lambda: threading.active_count() <= threads, "a thread is left")
    assert descriptors() - open_before == Counter()
    assert resident() - size < GROWTH
