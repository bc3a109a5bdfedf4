"""How much slower than usual the machine is: ``VPOLL_TEST_SCALE``, 1 where it is not set.

An emulated processor needs some fifteen times as long for everything.  Deadlines of
things that must happen grow by that factor, and counts of operations shrink.

``VPOLL_TEST_LONG`` says that there is time, as before a release: the longest tests then do
on every backend what they else do on the fastest only.
"""

from __future__ import annotations

import os

__all__ = ["LONG", "SCALE", "fewer"]

SCALE = int(os.environ.get("VPOLL_TEST_SCALE") or 1)
LONG = bool(os.environ.get("VPOLL_TEST_LONG"))


def fewer(count: int, *, least: int = 1) -> int:
    """Return how many operations to do here where a usual machine does `count`.

    least -- below it the test would show nothing
    """
    return max(count // SCALE, min(count, least))
