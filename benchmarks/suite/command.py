"""The command line: which rows, which builds, how long."""

from __future__ import annotations

import argparse
from pathlib import Path

from vpoll_asyncio.hot.accelerator import CHOICE

from .measure import BENCHMARKS, Build
from .table import ROWS, Row

ROUNDS = 60
QUICK_ROUNDS = 10


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description="our loops beside asyncio and uvloop, as ratios",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, help=f"of each row; {ROUNDS}, quickly {QUICK_ROUNDS}")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="rows whose names hold NAME; repeatable"
    )
    parser.add_argument(
        "--accelerated",
        type=Path,
        metavar="FOLDER",
        help="that holds the accelerated build of vpoll_asyncio; this tree, compiled on demand",
    )
    parser.add_argument("--pure", action="store_true", help="without the accelerated build")
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
        default=BENCHMARKS,
        metavar="FOLDER",
        help="where results.json, RESULTS.md and results.svg are (benchmarks)",
    )
    return parser.parse_args(arguments)


def builds(arguments: argparse.Namespace) -> list[Build]:
    environments = {"pure": {CHOICE: "0"}, "accelerated": {CHOICE: "1"}}
    for setting in arguments.env:
        build, _, assignment = setting.partition(":")
        name, equals, value = assignment.partition("=")
        if build not in environments or not equals:
            raise SystemExit(f"--env {setting}: expected pure:NAME=VALUE or accelerated:NAME=VALUE")
        environments[build][name] = value
    found = [Build("pure", BENCHMARKS.parent, environments["pure"])]
    if not arguments.pure:
        folder = (arguments.accelerated or BENCHMARKS.parent).resolve()
        if not (folder / "vpoll_asyncio").is_dir():
            raise SystemExit(f"--accelerated {folder}: expected a folder with vpoll_asyncio in it")
        found.append(Build("accelerated", folder, environments["accelerated"]))
    return found


def chosen(names: list[str] | None) -> list[Row]:
    rows = [row for row in ROWS if not names or any(name in row.name for name in names)]
    if not rows:
        raise SystemExit(f"--only {names}: no row has such a name; --list names them")
    return rows
