"""What fork(2) does to the open stack: it stays the parent's.

The child's copy is closed in silence, since the link is the parent's too; and as the
C side's lock is held across the fork, no other thread leaves the copy half changed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["close_in_children", "leave_children_alone"]


class _Hook:
    """The method to call in a child, if a stack is open."""

    installed = False
    abandon: weakref.WeakMethod[Callable[[], None]] | None = None


def close_in_children(lib: Any, abandon: Callable[[], None]) -> None:
    """Close the C side in every child from now on, and call the method `abandon` there."""
    _Hook.abandon = weakref.WeakMethod(abandon)
    if _Hook.installed:
        return
    _Hook.installed = True
    os.register_at_fork(
        before=lib.vp_before_fork,
        after_in_parent=lambda: lib.vp_after_fork(0),
        after_in_child=lambda: _in_child(lib),
    )


def _in_child(lib: Any) -> None:
    lib.vp_after_fork(1)
    method = None if _Hook.abandon is None else _Hook.abandon()
    if method is not None:
        method()


def leave_children_alone() -> None:
    """No stack is open any more."""
    _Hook.abandon = None
