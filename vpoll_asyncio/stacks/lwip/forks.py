"""What fork(2) does to open stacks: they stay the parent's.

The child's copies are closed in silence, since the links are the parent's too; and as the
C sides' locks are held across the fork, no other thread leaves a copy half changed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["close_in_children", "leave_children_alone"]


class _Hook:
    """The method to call in a child, if the C side `lib` has an open stack."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.abandon: weakref.WeakMethod[Callable[[], None]] | None = None
        os.register_at_fork(
            before=lib.vp_before_fork,
            after_in_parent=lambda: lib.vp_after_fork(0),
            after_in_child=self._in_child,
        )

    def _in_child(self) -> None:
        self._lib.vp_after_fork(1)
        method = None if self.abandon is None else self.abandon()
        if method is not None:
            method()


_hooks: dict[Any, _Hook] = {}


def close_in_children(lib: Any, abandon: Callable[[], None]) -> None:
    """Close the C side in every child from now on, and call the method `abandon` there."""
    hook = _hooks.get(lib)
    if hook is None:
        hook = _hooks[lib] = _Hook(lib)
    hook.abandon = weakref.WeakMethod(abandon)


def leave_children_alone(lib: Any) -> None:
    """The C side `lib` has no open stack any more."""
    hook = _hooks.get(lib)
    if hook is not None:
        hook.abandon = None
