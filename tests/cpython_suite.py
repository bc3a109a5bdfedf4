"""Modules of CPython's own suite, each run in a process of its own, and what may fail there.

They replace loops and policies, and leave threads, children and unclosed files behind.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from processes import PROGRAMS, ROOT, SECONDS

__all__ = ["Except", "allowed", "judge", "run_cases"]


class Except(NamedTuple):
    """Cases that may not pass, and then must not."""

    where: str
    """Matches the name of the setting, as `fnmatch` does."""
    cases: str
    """Matches ``Class.method``: several patterns, separated by spaces."""
    reason: str
    runs: bool = True
    """Whether they run and must fail, or are left out."""
    since: tuple[int, ...] = (3, 11)
    """The first Python that has them so."""
    before: tuple[int, ...] = (3, 14)
    """The first Python that does not have them so any more."""


def allowed(exceptions: Iterable[Except], setting: str) -> list[Except]:
    """Return those of `exceptions` that are for `setting` on this Python."""
    return [
        each
        for each in exceptions
        if fnmatch.fnmatchcase(setting, each.where) and each.since <= sys.version_info < each.before
    ]


def _matches(case: str, each: Except) -> bool:
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in each.cases.split())


def empty_network() -> list[str]:
    """Return the command that runs another without any network, loopback included."""
    return ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "-n"]


def run_cases(
    program: str, arguments: Iterable[str], exceptions: list[Except], *, isolated: bool = False
) -> list[dict[str, Any]]:
    """Run `program` of ``tests/programs`` and return what it reports, a dictionary a line.

    arguments -- its own; patterns of what `exceptions` leave out follow them
    isolated -- whether the kernel has no network meanwhile
    """
    patterns = [pattern for each in exceptions if not each.runs for pattern in each.cases.split()]
    path = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(empty_network() if isolated else ()),
            sys.executable,
            str(PROGRAMS / program),
            *arguments,
            *patterns,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        timeout=2 * SECONDS,
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    if not lines or "ended" not in lines[-1]:
        last = lines[-1] if lines else "the start"
        raise AssertionError(f"{program} broke off after {last}: {done.stderr[-8000:]}")
    return lines


def judge(lines: list[dict[str, Any]], exceptions: list[Except]) -> list[str]:
    """Return what is wrong with the outcomes in `lines`, given `exceptions`."""
    outcomes = {line["case"]: line for line in lines if "outcome" in line}
    left_out = [case for line in lines for case in line.get("left_out", ())]
    wrong = []
    for case, line in outcomes.items():
        excused = any(_matches(case, each) for each in exceptions if each.runs)
        passed = line["outcome"] == "passed"
        if passed and excused:
            wrong.append(f"{case} passes: it is no exception any more")
        elif not passed and not excused:
            wrong.append(f"{case} {line['outcome']}: {line['text']}")
    for each in exceptions:
        for pattern in each.cases.split():
            known = outcomes if each.runs else left_out
            if not fnmatch.filter(known, pattern):
                wrong.append(f"{pattern} is no case of the suite: {each.reason}")
    return wrong
