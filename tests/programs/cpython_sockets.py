"""Cases of CPython's own suites of sockets and of what is built on them, over a memory stack.

``cpython_sockets.py MODULE NETWORK [PATTERN...]``: NETWORK is ``memory``, or ``kernel`` to
compare with; cases whose names match a PATTERN are left out.  ``cpython_cases.py`` says what
it writes.
"""

from __future__ import annotations

import importlib
import sys

from cpython_cases import Report, network_of, run_cases


def main(name: str, network: str, *patterns: str) -> None:
    tell = Report()
    with network_of(network):
        # Below, because its helpers look for IPv6 when they are imported.
        run_cases(importlib.import_module(f"test.{name}"), patterns, tell)
    tell(ended=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
