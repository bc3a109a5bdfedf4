"""Measures the suite's rows and writes what came out: ``python -m benchmarks.suite --help``.

The package's docstring says how; ``RESULTS.md`` and ``results.svg`` show the results.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time

from . import measure, plot, report, store
from .command import QUICK_ROUNDS, ROUNDS, builds, chosen, parse
from .measure import Mode


def versions() -> dict[str, str]:
    found = {}
    for name in ("uvloop", "pyzmq"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> int:
    arguments = parse()
    rows = chosen(arguments.only)
    if arguments.list:
        for row in rows:
            print(f"{row.name:24} {row.title}")
        return 0
    mode = Mode(arguments.clock, arguments.profile)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    stored = arguments.output / "results.json"
    failed = False
    for row in [] if arguments.report else rows:
        start = time.monotonic()
        print(f"{row.name}: {row.title}", file=sys.stderr, flush=True)
        try:
            samples, missing = measure.run_row(row, builds(arguments), rounds, mode)
        except RuntimeError as error:
            print(f"  failed: {error}", file=sys.stderr)
            failed = True
            continue
        for why in missing:
            print(f"  not here: {why}", file=sys.stderr)
        if arguments.profile:
            continue
        # Row by row, so that what was measured survives what comes after.
        about = {
            "clock": "wall" if row.wall else mode.clock,
            "rounds": str(rounds if row.repeatable else 1),
        }
        store.save(stored, samples, about | versions())
        for line in report.lines(row, samples):
            print(f"  {line}", file=sys.stderr)
        print(f"  {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    if not arguments.profile:
        samples, told = store.load(stored)
        report.write(arguments.output / "RESULTS.md", samples, told)
        plot.write(arguments.output / "results.svg", samples)
    return failed


if __name__ == "__main__":
    sys.exit(main())
