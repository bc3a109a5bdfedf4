"""CPython's own suite of the selectors module, over VPollSelector.

Its cases run on kernel sockets as they are, and again with vpolls in the place of the
sockets: by their wait queues, and by the descriptor of each backend that shows IN and
OUT.
"""

from __future__ import annotations

import importlib
import selectors
import unittest
from typing import Any, ClassVar

import pytest

from exact_backends import name_of, showing
from needs import missing
from vpoll_asyncio import EventMask, VPoll, VPollSelector

IN, OUT = EventMask.IN, EventMask.OUT

FD_SETSIZE = 1024


class End:
    """One end of a pair of vpolls that behaves as a socket of a pair does."""

    def __init__(self, backend: str) -> None:
        self.signal = VPoll(OUT, backend=backend)
        # Now, as a socket: the suite plays with the numbers that are free later.
        self.signal.fileno()
        self.received = b""
        self.peer: End

    def fileno(self) -> int:
        return -1 if self.signal.closed else self.signal.fileno()

    def send(self, data: bytes) -> int:
        self.peer.received += data
        self.peer.signal.add_events(IN)
        return len(data)

    def recv(self, count: int) -> bytes:
        data, self.received = self.received[:count], self.received[count:]
        if not self.received:
            self.signal.del_events(IN)
        return data

    def close(self) -> None:
        self.signal.close()


def pair(backend: str) -> tuple[End, End]:
    one, other = End(backend), End(backend)
    one.peer, other.peer = other, one
    return one, other


if missing("cpython_tests") is None:
    cpython: Any = importlib.import_module("test.test_selectors")

    class Suite(cpython.BaseSelectorTestCase, cpython.ScalableSelectorMixIn):  # type: ignore[misc]
        SELECTOR = VPollSelector
        # It patches the epoll inside CPython's class and skips itself for every other;
        # test_selector.py has such a test.
        test_modify_unregister = None

    class TestKernelSockets(Suite, unittest.TestCase):
        test_register_file = cpython.EpollSelectorTestCase.test_register_file

    class Vpolls(Suite):
        backend: ClassVar[str]

        def make_socketpair(self) -> tuple[End, End]:
            ends = pair(self.backend)
            for end in ends:
                self.addCleanup(end.close)
            return ends

        # A vpoll takes several of the descriptors that it would exhaust.
        test_above_fd_setsize: Any = None

    class TestVirtualNumbers(Vpolls, unittest.TestCase):
        backend = "virtual"
        # Nobody but us hands out such numbers, and none of them twice.
        test_unregister_after_fd_close_and_reuse = None

        def test_above_fd_setsize(self) -> None:
            with VPollSelector() as selector:
                for _ in range(FD_SETSIZE):
                    reader, writer = self.make_socketpair()
                    selector.register(reader, selectors.EVENT_READ)
                    selector.register(writer, selectors.EVENT_WRITE)
                # One select() reports a batch; all come in turn.
                found = {key.fd for _ in range(FD_SETSIZE) for key, _ in selector.select()}
                assert len(found) == FD_SETSIZE

    for param in showing(IN | OUT):
        name = f"Test{name_of(param).title()}Descriptors"
        globals()[name] = type(
            name,
            (Vpolls, unittest.TestCase),
            {"backend": name_of(param), "pytestmark": list(getattr(param, "marks", ()))},
        )


@pytest.mark.needs("cpython_tests")
@pytest.mark.parametrize(
    ("suite", "left_out"),
    [
        ("TestKernelSockets", {"test_modify_unregister"}),
        (
            "TestVirtualNumbers",
            {"test_modify_unregister", "test_unregister_after_fd_close_and_reuse"},
        ),
    ],
)
def test_no_other_case_of_the_suite_is_left_out(suite: str, left_out: set[str]) -> None:
    cases = {name for name in dir(cpython.BaseSelectorTestCase) if name.startswith("test")}
    assert {name for name in cases if not callable(getattr(globals()[suite], name))} == left_out
