"""What holds in a process while tests run on a stack and not on the machine's network."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from ...install import install
from ...stacks.base import Stack
from ...stacks.current import set_default_stack
from .kernelguard import kernel_network_refused
from .stockloops import stock_loops_dispatching

__all__ = ["isolated"]

_lock: Final = threading.Lock()
_defaults: Final[list[Stack]] = []
_before: Stack | None = None


def _begin(default: Stack) -> None:
    global _before
    with _lock:
        previous = set_default_stack(default)
        if not _defaults:
            _before = previous
        _defaults.append(default)


def _end(default: Stack) -> None:
    global _before
    with _lock:
        # The last of them: one stack may have been given twice.
        at = len(_defaults) - 1 - _defaults[::-1].index(default)
        del _defaults[at]
        set_default_stack(_defaults[-1] if _defaults else _before)
        if not _defaults:
            _before = None


@contextlib.contextmanager
def isolated(default: Stack) -> Iterator[None]:
    """Give the process's AF_INET and AF_INET6 sockets to the current stack, whatever the loop.

    default -- the stack of code whose context names none, threads among it

    `vpoll_asyncio.install` is in force, stock asyncio's and uvloop's loops ask for the
    current stack as those of this package do, and kernel sockets by which code would go
    round that are refused (OSError, ENETDOWN) unless the current stack's own are the
    kernel's.  AF_UNIX, socketpairs, pipes and processes are untouched; C code and child
    processes are not covered.

    For the whole process.  Nests, in any order: the latest that still holds gives the
    default.
    """
    with contextlib.ExitStack() as steps:
        steps.enter_context(stock_loops_dispatching())
        steps.enter_context(install())
        steps.enter_context(kernel_network_refused())
        _begin(default)
        steps.callback(_end, default)
        yield
