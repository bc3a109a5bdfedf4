"""CPython's own suites of sockets, TLS and what is built on them, over a memory stack's.

`install` puts them in the place of the kernel's, in a network namespace in which those
reach nothing.
"""

from __future__ import annotations

import pytest

from cpython_sockets import MODULES, exceptions_for, run_suite
from cpython_suite import judge

pytestmark = pytest.mark.needs("cpython_tests", "netns")


@pytest.mark.parametrize("module", MODULES)
def test_over_memory_sockets(module: str) -> None:
    lines = run_suite(module)
    assert any(line.get("sockets") for line in lines)
    assert not (wrong := judge(lines, exceptions_for(module))), "\n".join(wrong)
