"""Whether the classes of this package are the compiled ones.

``vpoll-asyncio build`` compiles them, among the other native helpers.  From then on they
are used.  The environment variable ``VPOLL_ASYNCIO_ACCELERATE`` says otherwise: 0 for the
classes in Python, 1 for the compiled ones, which are then compiled if need be.
"""

from __future__ import annotations

import os
from typing import Any, Final

from .. import native

__all__ = ["ACCELERATOR", "CHOICE"]

CHOICE: Final = "VPOLL_ASYNCIO_ACCELERATE"


def _load() -> Any:
    choice = os.environ.get(CHOICE, "")
    if choice == "0":
        return None
    if choice == "1":
        return native.load("hot")
    if choice:
        raise ValueError(f"environment variable {CHOICE}: {choice!r}: expected 0, 1 or nothing")
    return native.load_built("hot")


ACCELERATOR: Final = _load()
"""The module with the compiled classes, or None."""
