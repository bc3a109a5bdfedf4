"""benchmarks/tap_floor.py: every contender answers, and the table compares their rates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "tap_floor.py"


@pytest.mark.needs("root", "tap", "ip", "cc", "lwip", "uvloop")
def test_every_contender_answers() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "2", "--messages", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not done.returncode, done.stderr
    head, _, *rows = done.stdout.splitlines()
    assert head.count("|") == 5
    # Those that never sleep, over UDP and TCP, need a CPU of their own.
    assert len(rows) == (7 if len(os.sched_getaffinity(0)) == 1 else 9)
    for row in rows:
        _, what, protocol, time, ratio, _ = (cell.strip() for cell in row.split("|"))
        assert what
        assert protocol in ("tcp", "udp")
        assert time.endswith(" µs")
        assert float(ratio.split()[0]) > 0
