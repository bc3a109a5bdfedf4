"""How much slower than usual the machine is: ``VPOLL_TEST_SCALE``, 1 where it is not set.

An emulated processor needs some fifteen times as long for everything.  Deadlines of
things that must happen grow by that factor, and counts of operations shrink.
"""

from __future__ import annotations

import os

__all__ = ["SCALE", "fewer"]

SCALE = int(os.environ.get("VPOLL_TEST_SCALE") or 1)


def fewer(count: int, *, least: int = 1) -> int:
    """Return how many operations to do here where a usual machine does `count`.

    least -- below it the test would show nothing
    """
    return max(count // SCALE, min(count, least))
