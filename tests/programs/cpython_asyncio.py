"""Cases of CPython's own suite of asyncio over another loop, and another network.

``cpython_asyncio.py LOOP NETWORK MODULE [PATTERN...]``: LOOP is ``asyncio`` or ``uvloop``
for the loops of this package, ``stock-uvloop`` to compare with; NETWORK is ``kernel``, or
``memory`` for a memory stack that `install` puts in the place of the kernel's sockets;
cases whose names match a PATTERN are left out.  ``cpython_cases.py`` says what it writes.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

import vpoll_asyncio as va
from cpython_cases import Report, network_of, run_cases

Factory = Callable[[], asyncio.AbstractEventLoop]


def stock_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.Loop()


LOOPS: Final[dict[str, Factory]] = {
    "asyncio": lambda: va.new_event_loop(loop="asyncio"),
    "uvloop": lambda: va.new_event_loop(loop="uvloop"),
    "stock-uvloop": stock_uvloop,
}


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
    tell = Report()
    with network_of(network):
        # Below, because its helpers look for IPv6 when they are imported.
        module: Any = importlib.import_module(f"test.test_asyncio.{name}")
        if hasattr(module, "BUF_MULTIPLIER"):
            # A quarter of the bytes: enough to fill every buffer on the way.
            module.BUF_MULTIPLIER = 256
        hand_in(LOOPS[loop])
        run_cases(module, patterns, tell)
    tell(ended=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
