"""Cases of CPython's own suite, run one after the other: the part that its programs share.

They write a line of JSON before and after each case, and one with the names of those
left out; ``cpython_suite.py`` reads them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fnmatch
import gc
import json
import os
import unittest
from collections.abc import Callable, Iterator
from typing import Any, Final

import vpoll_asyncio as va
from vpoll_asyncio.stacks.current import set_default_stack
from vpoll_asyncio.stacks.memory import MemoryStack

__all__ = ["Report", "network_of", "run_cases"]

HANG: Final = 60
"""Seconds after which a case counts as hanging and ends the program."""

Tell = Callable[..., None]


class Report:
    """Writes to standard output, from which everybody else is cut off.

    Children of the suite must not write there.
    """

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def __call__(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self._file)


class CountingStack(MemoryStack):
    """A memory stack that knows how many sockets were made by it."""

    made = 0

    def socket(self, *args: Any, **options: Any) -> Any:
        CountingStack.made += 1
        return super().socket(*args, **options)


@contextlib.contextmanager
def network_of(name: str) -> Iterator[None]:
    """Put a memory stack in the place of the kernel's sockets where `name` is ``memory``."""
    if name == "kernel":
        yield
        return
    with CountingStack(vnl="mem://cpython") as stack, va.install():
        set_default_stack(stack)
        try:
            yield
        finally:
            set_default_stack(None)


class Outcomes(unittest.TestResult):
    """Tells what becomes of each case as it happens."""

    def __init__(self, tell: Tell) -> None:
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


def run_cases(module: Any, patterns: tuple[str, ...], tell: Tell) -> None:
    """Run the cases of `module` but those whose names match a pattern."""
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
