"""``vpoll-asyncio run``: an unmodified Python program on a stack."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ..backends import by_name
from ..install import install
from .arguments import Options, parse
from .children import children_placed, network_allowed
from .loops import loops_made_ours
from .stacks import stacks_opened
from .target import TargetError, run_target
from .trace import masks_traced

__all__ = ["main"]

_PROGRAM: Final = "vpoll-asyncio"
_BACKEND: Final = "VPOLL_BACKEND"


@contextlib.contextmanager
def _backend_chosen(name: str | None) -> Iterator[None]:
    """Have every vpoll that is asked for a descriptor use the backend `name`."""
    if name is None:
        yield
        return
    by_name(name)
    previous = os.environ.get(_BACKEND)
    os.environ[_BACKEND] = name
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_BACKEND]
        else:
            os.environ[_BACKEND] = previous


@contextlib.contextmanager
def _prepared(options: Options) -> Iterator[None]:
    with contextlib.ExitStack() as steps:
        steps.enter_context(network_allowed())
        steps.enter_context(_backend_chosen(options.backend))
        # Before `install`: uvloop takes the kernel's names from the socket module.
        steps.enter_context(loops_made_ours(options.loop))
        steps.enter_context(masks_traced(options.trace))
        stacks = steps.enter_context(stacks_opened(options.stacks, options.pcap, options.drain))
        steps.enter_context(install())
        steps.enter_context(children_placed(options.children, stacks[0]))
        yield


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`, without ``run`` itself, and return the exit status.

    What the program is given stays until the interpreter ends: after its threads that
    are no daemons and after what it has registered with `atexit`, the stacks are closed.

    Raises SystemExit for ``--help``, for a wrong command line and as the program does,
    and KeyboardInterrupt as `run_target` does.
    """
    options = parse(argv)
    steps = contextlib.ExitStack()
    try:
        steps.enter_context(_prepared(options))
    except KeyboardInterrupt:
        return 130
    except (ImportError, OSError, ValueError) as error:
        _complain(str(error))
        return 2 if isinstance(error, ValueError) else 1
    # What is registered first is called last.
    atexit.register(steps.close)
    try:
        return run_target(options.target)
    except TargetError as error:
        _complain(str(error))
        return error.status


def _complain(text: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: {text}\n")
