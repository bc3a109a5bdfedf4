"""Running a row: its contenders live side by side, and one at a time works."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .clock import VARIABLE
from .contenders import Contender
from .table import Row
from .worker import MALLOC

BENCHMARKS = Path(__file__).parents[1]
_PATIENCE = 300.0  # seconds that one answer may take


@dataclass(frozen=True)
class Build:
    """An installed build of vpoll_asyncio: the folder that holds it, and what it is told."""

    name: str
    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mode:
    """How rows are run.

    clock -- ``"wall"`` or ``"cpu"`` (`suite.clock`)
    profile -- one profiled sample of ours, on standard error, in the place of measurements
    """

    clock: str = "wall"
    profile: bool = False


@dataclass(frozen=True)
class Samples:
    """What one contender did in one row: by metric, a value for every round."""

    row: str
    contender: str
    build: str
    values: Mapping[str, list[float]]


class Unavailable(Exception):
    """A contender cannot run on this machine."""


class Worker:
    """The process of one contender.

    Raises Unavailable where the machine lacks something, RuntimeError when it fails.
    """

    def __init__(self, row: Row, contender: Contender, build: Build, mode: Mode) -> None:
        self._label = f"{row.name}: {contender.label}"
        environment = {
            **os.environ,
            **MALLOC,
            **(build.environment if contender.ours else {}),
            VARIABLE: mode.clock,
            "PYTHONPATH": os.pathsep.join([str(build.path), str(BENCHMARKS.parent)]),
            # Two workers must not differ by the order of their dictionaries.
            "PYTHONHASHSEED": "0",
        }
        self._process = subprocess.Popen(
            # -P: the working directory may hold another build.
            [sys.executable, "-P", "-m", "benchmarks.suite.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        request = {
            "scenario": row.scenario,
            "contender": dataclasses.asdict(contender),
            "sizes": dict(row.sizes),
            "profile": mode.profile,
        }
        try:
            answer = self._ask(request)
            if "error" in answer:
                why = f"{self._label}: {answer['error']}"
                raise Unavailable(why) if answer["missing"] else RuntimeError(why)
            self.package: str = answer["ready"]
            """The folder that vpoll_asyncio was imported from, "" where it was not."""
        except BaseException:
            self._end()
            raise

    def sample(self) -> dict[str, float]:
        """Have it run one sample; return the values measured."""
        return {name: float(value) for name, value in self._ask("run").items()}

    def _ask(self, request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # told by the end of its output
        # A worker writes nothing but answers, each of them short: whole or not at all.
        if not select.select([output], [], [], _PATIENCE)[0]:
            self._process.kill()
            raise RuntimeError(f"{self._label}: no answer in {_PATIENCE:.0f} s")
        line = output.readline()
        if not line:
            raise RuntimeError(f"{self._label}: the process ended ({self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process.  Raises RuntimeError when it ends badly."""
        self._end()
        if self._process.returncode:
            raise RuntimeError(f"{self._label}: exit status {self._process.returncode}")

    def _end(self) -> None:
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RuntimeError:
            if exc is None:
                raise


def entrants(row: Row, builds: list[Build]) -> list[tuple[str, Contender, Build]]:
    """Return (key, contender, build) of all who run in `row`: ours once a build."""
    entered = []
    for key, contender in row.contenders.items():
        for build in builds if contender.ours else builds[:1]:
            name = build.name if contender.ours else ""
            entered.append((key, dataclasses.replace(contender, build=name), build))
    return entered


def run_row(
    row: Row, builds: list[Build], rounds: int, mode: Mode
) -> tuple[list[Samples], list[str]]:
    """Run `rounds` rounds of `row`; return the samples, and why a contender did not run.

    Each contender warms up with one sample that does not count.
    """
    missing = []
    workers: list[tuple[str, Contender, Worker]] = []
    with ExitStack() as cleanup:
        for key, contender, build in entrants(row, builds):
            if mode.profile and not contender.ours:
                continue
            try:
                worker = cleanup.enter_context(Worker(row, contender, build, mode))
            except Unavailable as why:
                missing.append(str(why))
                continue
            workers.append((key, contender, worker))
            if row.repeatable and not mode.profile:
                worker.sample()
        taken: list[dict[str, list[float]]] = [{} for _ in workers]
        for number in range(rounds if row.repeatable and not mode.profile else 1):
            for turn in range(len(workers)):
                place = (number + turn) % len(workers)
                if mode.profile:
                    print(f"\n{row.name}: {workers[place][1].label}", file=sys.stderr)
                for metric, value in workers[place][2].sample().items():
                    taken[place].setdefault(metric, []).append(value)
    samples = [
        Samples(row.name, key, contender.build, values)
        for (key, contender, _), values in zip(workers, taken, strict=True)
    ]
    return samples, missing
