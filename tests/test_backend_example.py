"""The example program of the EFD_VPOLL patch, on every backend that is one kernel object.

A parent waits with a time-out and disarms what it gets; a child that was forked raises
IN, IN, IN|PRI, PRI, OUT, HUP.  Where the program sleeps between two events, the child
here waits until the parent has seen a time-out.
"""

from __future__ import annotations

import os
import select
import threading

import pytest

from fuse_helpers import KINDS
from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends.fuse import CHOICE
from vpoll_helpers import DEADLINE, ONE_KERNEL_OBJECT, in_child

pytestmark = pytest.mark.usefixtures("no_fd_leak")

IN, PRI, OUT, HUP = EventMask.IN, EventMask.PRI, EventMask.OUT, EventMask.HUP

RAISED = [IN, IN, IN | PRI, PRI, OUT, HUP]


def run_example(backend: str) -> list[str]:
    printed: list[str] = []
    with VPoll(backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT)
        ready, go = os.pipe()

        def child() -> None:
            for events in RAISED:
                os.read(ready, 1)
                vpoll.add_events(events)

        def parent() -> None:
            while True:
                if not epoll.poll(0):
                    printed.append("timeout")
                    os.write(go, b"!")
                for _, events in epoll.poll(DEADLINE):
                    printed.append(f"{events:x}")
                    if events & HUP:
                        return
                    vpoll.del_events(events)

        thread = threading.Thread(target=parent)
        thread.start()
        in_child(child)
        thread.join()
        os.close(ready)
        os.close(go)
    return printed


def between_timeouts(*lines: str) -> list[str]:
    return [line for each in lines for line in ("timeout", each)]


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
def test_the_example_program_prints_what_it_does_on_a_patched_kernel(backend: str) -> None:
    assert run_example(backend) == between_timeouts("1", "1", "3", "2", "4", "10")


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("kind", KINDS)
def test_the_example_program_runs_with_either_daemon(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv(CHOICE, kind)
    assert run_example("fuse") == between_timeouts("1", "1", "3", "2", "4", "10")
