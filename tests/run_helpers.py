"""The command ``run`` as a process, for tests of what it does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from processes import ROOT, SECONDS

MEMORY = "stack=memory,ip=10.0.0.1/24"


class Ended(NamedTuple):
    """How a process ended, and what it wrote."""

    status: int
    out: str
    err: str


def python(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run the interpreter with `arguments`, warnings as errors, to its end."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run(
    *arguments: str,
    stack: str = MEMORY,
    cwd: Path | None = None,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run ``vpoll-asyncio run --stack STACK ARGUMENTS`` to its end."""
    command = ("-m", "vpoll_asyncio", "run", "--stack", stack, *arguments)
    return python(*command, cwd=cwd, stdin=stdin, environment=environment)
