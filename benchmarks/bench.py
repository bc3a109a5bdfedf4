"""Measure the suite's rows and write what came out: ``python benchmarks/bench.py --help``.

`suite` says how; ``benchmarks/RESULTS.md`` and ``benchmarks/results.svg`` show the results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from pathlib import Path

from suite import measure, plot, report, store
from suite.measure import Build, Mode
from suite.table import ROWS, Row

HERE = Path(__file__).parent
QUICK = 4
ROUNDS = 15
QUICK_ROUNDS = 5


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="our loops beside asyncio and uvloop, as ratios")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, help=f"of each row; {ROUNDS}, or {QUICK_ROUNDS}")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="rows whose names hold NAME; repeatable"
    )
    parser.add_argument(
        "--accelerated",
        type=Path,
        metavar="FOLDER",
        help="that holds another build of vpoll_asyncio, to run beside the one in this tree",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="BUILD:NAME=VALUE",
        help="an environment variable of the build pure or accelerated; repeatable",
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the processor's, where one process does all the work; for busy machines",
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--profile", action="store_true", help="show where our contenders' time goes, and stop"
    )
    parser.add_argument(
        "--report", action="store_true", help="write the report of the stored results again"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=HERE,
        metavar="FOLDER",
        help="where results.json, RESULTS.md and results.svg are (this script's folder)",
    )
    return parser.parse_args(arguments)


def builds(arguments: argparse.Namespace) -> list[Build]:
    environments: dict[str, dict[str, str]] = {"pure": {}, "accelerated": {}}
    for setting in arguments.env:
        build, _, assignment = setting.partition(":")
        name, equals, value = assignment.partition("=")
        if build not in environments or not equals:
            raise SystemExit(f"--env {setting}: expected pure:NAME=VALUE or accelerated:NAME=VALUE")
        environments[build][name] = value
    found = [Build("pure", HERE.parent, environments["pure"])]
    if arguments.accelerated is not None:
        folder = arguments.accelerated.resolve()
        if not (folder / "vpoll_asyncio").is_dir():
            raise SystemExit(f"--accelerated {folder}: expected a folder with vpoll_asyncio in it")
        found.append(Build("accelerated", folder, environments["accelerated"]))
    return found


def chosen(names: list[str] | None) -> list[Row]:
    rows = [row for row in ROWS if not names or any(name in row.name for name in names)]
    if not rows:
        raise SystemExit(f"--only {names}: no row has such a name; --list names them")
    return rows


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
    mode = Mode(QUICK if arguments.quick else 1, arguments.clock, arguments.profile)
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
            "quick": "yes" if arguments.quick else "no",
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
