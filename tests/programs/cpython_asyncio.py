"""Cases of CPython's own suite of asyncio over another loop, and another network.

``cpython_asyncio.py LOOP NETWORK MODULE [PATTERN...]``: LOOP is ``asyncio`` or ``uvloop``
for the loops of this package, ``stock-uvloop`` to compare with; NETWORK is ``kernel``, or
``memory`` for a memory stack that `install` puts in the place of the kernel's sockets;
cases whose names match a PATTERN are left out.  Writes a line of JSON to standard output
before and after each case, and one with the names of those left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fnmatch
import gc
import importlib
import json
import os
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any, Final

import vpoll_asyncio as va
from blocking_tls import wrapping_user_sockets
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.memory import MemoryStack

HANG: Final = 60
"""Seconds after which a case counts as hanging and ends the program."""

Factory = Callable[[], asyncio.AbstractEventLoop]


def stock_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.Loop()


LOOPS: Final[dict[str, Factory]] = {
    "asyncio": lambda: va.new_event_loop(loop="asyncio"),
    "uvloop": lambda: va.new_event_loop(loop="uvloop"),
    "stock-uvloop": stock_uvloop,
}


class CountingStack(MemoryStack):
    """A memory stack that knows how many sockets were made by it."""

    made = 0

    def socket(self, *args: Any, **options: Any) -> Any:
        CountingStack.made += 1
        return super().socket(*args, **options)


@contextlib.contextmanager
def on_memory() -> Iterator[None]:
    with CountingStack(vnl="mem://cpython") as stack, va.install(), wrapping_user_sockets():
        set_default_stack(stack)
        try:
            yield
        finally:
            set_default_stack(None)


class Outcomes(unittest.TestResult):
    """Tells what becomes of each case as it happens."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome, self._text = "passed", ""
        self._made = CountingStack.made
        self._tell(case=name_of(test))
        faulthandler.dump_traceback_later(HANG, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self._tell(
            case=name_of(test),
            outcome=self._outcome,
            text=self._text,
            sockets=CountingStack.made - self._made,
        )

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._failed(self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._failed(self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        before = len(self.errors) + len(self.failures)
        super().addSubTest(test, subtest, err)
        if len(self.errors) + len(self.failures) > before:
            self._failed(f"{subtest}: {err[1]!r}\n")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._outcome, self._text = "skipped", reason

    def _failed(self, text: str) -> None:
        self._outcome = "failed"
        self._text += text


def name_of(case: unittest.TestCase) -> str:
    return ".".join(case.id().split(".")[-2:])


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from cases(part)
        elif not is_for_another_system(part):
            yield part


def is_for_another_system(case: unittest.TestCase) -> bool:
    method = getattr(case, name_of(case).split(".")[1], None)
    return any(getattr(thing, "__unittest_skip__", False) for thing in (type(case), method))


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """As the suite's own, without a look into private fields, which uvloop does not have."""
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def hand_in(factory: Factory) -> None:
    """Let `factory` make every loop that the suite makes."""
    unix_events: Any = importlib.import_module("asyncio.unix_events")
    utils: Any = importlib.import_module("test.test_asyncio.utils")
    # Some hand in a selector, which is the loop's own here.
    asyncio.SelectorEventLoop = lambda *selector: factory()  # type: ignore[assignment]
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = staticmethod(factory)
    utils.TestCase.close_loop = staticmethod(close_loop)


def main(loop: str, network: str, name: str, *patterns: str) -> None:
    # Children of the suite must not write there.
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**facts: Any) -> None:
        print(json.dumps(facts), file=report)

    with on_memory() if network == "memory" else contextlib.nullcontext():
        # Below, because its helpers look for IPv6 when they are imported.
        module: Any = importlib.import_module(f"test.test_asyncio.{name}")
        if hasattr(module, "BUF_MULTIPLIER"):
            # A quarter of the bytes: enough to fill every buffer on the way.
            module.BUF_MULTIPLIER = 256
        hand_in(LOOPS[loop])
        chosen = unittest.TestSuite()
        left_out = []
        for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if any(fnmatch.fnmatchcase(name_of(case), pattern) for pattern in patterns):
                left_out.append(name_of(case))
            else:
                chosen.addTest(case)
        tell(left_out=left_out)
        # Many cases collect garbage, each time among all that was imported.
        gc.freeze()
        chosen.run(Outcomes(tell))
    tell(ended=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
