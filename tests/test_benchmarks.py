"""The benchmark suite: each scenario runs, and the numbers become what the report says."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vpoll_asyncio
from benchmarks.suite import command, measure, ratios, report
from benchmarks.suite.contenders import Contender
from benchmarks.suite.measure import Build, Mode, Samples, Worker
from benchmarks.suite.scenarios import SCENARIOS
from benchmarks.suite.table import ROWS, Comparison, Row
from vpoll_asyncio.hot.accelerator import CHOICE

TINY = {
    "events": 200,
    "wakes": 5,
    "messages": 20,
    "megabytes": 1,
    "count": 3,
    "pairs": 10,
    "total": 200,
}
TINY_OUTSIDE = {
    "remote_echo": {"messages": 20, "pairs": 2},
    "remote_connections": {"count": 3},
}
PURE = Build("pure", Path(vpoll_asyncio.__file__).parents[1])


def marks(contender: Contender) -> list[pytest.MarkDecorator]:
    needed = []
    if "uvloop" in contender.loop.lower():
        needed.append("uvloop")
    if contender.via in ("lwip", "tap"):
        needed.append("lwip")
    if contender.via in ("tap", "loopback"):
        needed += ["root", "tap", "ip"]
    return [pytest.mark.needs(*needed)] if needed else []


def cases(outside: bool) -> Iterator[object]:
    """Each contender of each row, those with a network namespace or the others."""
    for row in ROWS:
        for key, contender in row.contenders.items():
            if (contender.via in ("tap", "loopback")) is not outside:
                continue
            # The rows differ in their sizes, which are tiny here.
            if outside and row.name.endswith("-1"):
                continue
            # An extra of its own, which the suite's users install and its tests do without.
            if contender.via == "inproc" and importlib.util.find_spec("zmq") is None:
                continue
            yield pytest.param(row, contender, id=f"{row.name}: {key}", marks=marks(contender))


def tiny(row: Row) -> dict[str, object]:
    return {name: TINY.get(name, value) for name, value in row.sizes.items()}


def check(row: Row, values: dict[str, float]) -> None:
    assert {comparison.metric for comparison in row.comparisons} <= values.keys()
    for metric, value in values.items():
        assert math.isfinite(value), (metric, value)
        # Few connections may find room in memory that was free before.
        assert value > 0 or metric == "bytes" or metric == "polls a turn", (metric, value)
        if metric not in ("bytes", "polls a turn"):
            assert value < 10, f"{metric}: no operation takes {value} s"


@pytest.mark.parametrize(("row", "contender"), [*cases(outside=False)])
def test_a_scenario_measures_what_its_row_compares(row: Row, contender: Contender) -> None:
    sizes = tiny(row)
    options = {name: TINY.get(name, value) for name, value in contender.options.items()}
    with SCENARIOS[row.scenario](contender, **{**sizes, **options}) as sample:
        check(row, sample())
        # Setting up is done once, samples are many.
        check(row, sample())


@pytest.mark.parametrize(("row", "contender"), [*cases(outside=True)])
def test_a_client_outside_is_served(row: Row, contender: Contender) -> None:
    small = Row(row.name, row.title, row.scenario, {}, row.comparisons, TINY_OUTSIDE[row.scenario])
    with Worker(small, contender, PURE, Mode()) as worker:
        check(row, worker.sample())
        check(row, worker.sample())


def event_row(polled: bool) -> Row:
    options = {"batch": 4, "polled": polled}
    return Row(
        "event-one",
        "",
        "event",
        {
            "ours": Contender("EventLoop", "vpoll", options),
            "theirs": Contender("asyncio", "call_soon"),
        },
        (Comparison("ours", "theirs", "event", "cost", (0.8, 0.4)),),
        sizes={"events": 2000},
    )


def test_the_share_of_turns_that_poll_the_kernel_is_told() -> None:
    [row] = [row for row in ROWS if row.name == "event-one"]
    shares = {}
    for key, contender in row.contenders.items():
        with SCENARIOS["event"](contender, events=100, **contender.options) as sample:
            shares[key] = sample()["polls a turn"]
    assert shares["EventLoop, polled every turn"] >= 0.9
    assert shares["asyncio call_soon"] >= 0.9
    assert shares["EventLoop, polls spared"] < 0.9


def test_contenders_take_turns_and_builds_run_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "vpoll_asyncio").symlink_to(PURE.path / "vpoll_asyncio")
    builds = [PURE, Build("accelerated", tmp_path)]
    samples, missing = measure.run_row(event_row(polled=True), builds, rounds=3, mode=Mode())
    assert not missing
    assert [(each.contender, each.build) for each in samples] == [
        ("ours", "pure"),
        ("ours", "accelerated"),
        ("theirs", ""),
    ]
    assert all(len(values) == 3 for each in samples for values in each.values.values())
    results = ratios.results(event_row(polled=True), samples)
    assert [result.target for result in results] == [0.8, 0.4]


def test_a_build_is_imported_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "vpoll_asyncio").symlink_to(PURE.path / "vpoll_asyncio")
    row = event_row(polled=False)
    with Worker(row, row.contenders["ours"], Build("other", tmp_path), Mode()) as worker:
        assert worker.package == str(tmp_path)
    with Worker(row, row.contenders["theirs"], PURE, Mode()) as worker:
        assert worker.package == ""


def test_a_worker_refuses_to_run_with_thresholds_of_its_own() -> None:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suite.worker"],
        cwd=PURE.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "must be set before the interpreter starts" in done.stderr


def test_what_a_machine_lacks_is_told_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('no uvloop here')")
    contenders = {"uv": Contender("uvloop", "call_soon"), "theirs": Contender("asyncio", "tcp")}
    row = Row("row", "", "echo", contenders, (), sizes={"messages": 5})
    samples, [why] = measure.run_row(row, [Build("pure", tmp_path)], rounds=1, mode=Mode())
    assert "no uvloop here" in why
    assert [each.contender for each in samples] == ["theirs"]


def test_a_contender_that_fails_ends_the_row(capfd: pytest.CaptureFixture[str]) -> None:
    contenders = {"theirs": Contender("asyncio", "tcp", {"size": -1})}
    row = Row("row", "", "echo", contenders, (), sizes={"messages": 5})
    with pytest.raises(RuntimeError, match="ValueError"):
        measure.run_row(row, [PURE], rounds=1, mode=Mode())
    assert "Traceback" in capfd.readouterr().err


def samples_of(ours: list[float], theirs: list[float]) -> list[Samples]:
    return [
        Samples("row", "ours", "pure", {"echo": ours}),
        Samples("row", "theirs", "", {"echo": theirs}),
    ]


@pytest.mark.parametrize(
    ("kind", "target", "ratio", "met"),
    [
        ("cost", (0.5, 0.1), 0.5, True),
        ("cost", (0.4, 0.1), 0.5, False),
        ("rate", (2.0, 9.0), 2.0, True),
        ("rate", (2.1, 9.0), 2.0, False),
        ("rate", None, 2.0, None),
    ],
)
def test_ratios_are_taken_within_a_round(
    kind: str, target: tuple[float, float] | None, ratio: float, met: bool | None
) -> None:
    comparison = Comparison("ours", "theirs", "echo", kind, target)
    row = Row("row", "", "echo", {}, (comparison,))
    # The machine became ten times slower in the second round, for both.
    [result] = ratios.results(row, samples_of([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]))
    assert result.spread == (ratio, (ratio, ratio), (ratio, ratio))
    assert result.met is met


def test_the_interval_of_a_median_holds_it_and_narrows_with_more_rounds() -> None:
    few = ratios.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    many = ratios.spread([1.0, 2.0, 3.0, 4.0, 5.0] * 20)
    for spread in (few, many):
        assert spread.median == 3.0
        assert spread.quartiles == (2.0, 4.0)
        assert spread.interval[0] <= 3.0 <= spread.interval[1]
    width = [spread.interval[1] - spread.interval[0] for spread in (few, many)]
    assert width[1] < width[0]


def test_a_report_replaces_its_own_section_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nbefore\n")
    row = next(row for row in ROWS if row.name == "kernel-echo-1")
    about = {row.name: {"suite_clock": "wall"}}

    def write(ours: float) -> str:
        values = [
            Samples(row.name, key, "pure" if contender.ours else "", {"echo": [seconds] * 2})
            for (key, contender), seconds in zip(row.contenders.items(), (ours, 1e-6), strict=True)
        ]
        report.write(path, values, about)
        return path.read_text()

    assert "| 3.00 |" in write(3e-6)
    path.write_text(path.read_text() + "\nafter\n")
    text = write(1e-6)
    assert "| 3.00 |" not in text
    assert "| 1.00 |" in text
    assert text.startswith("# Results\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_builds_have_environments_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "vpoll_asyncio").mkdir()
    arguments = command.parse(
        ["--accelerated", str(tmp_path), "--env", "pure:A=1", "--env", "accelerated:A=2=3"]
    )
    pure, accelerated = command.builds(arguments)
    assert pure.environment == {CHOICE: "0", "A": "1"}
    assert accelerated == Build("accelerated", tmp_path, {CHOICE: "1", "A": "2=3"})


@pytest.mark.parametrize("setting", ["A=1", "fast:A=1", "pure:A"])
def test_a_malformed_setting_is_refused(setting: str) -> None:
    with pytest.raises(SystemExit, match="expected pure:NAME=VALUE"):
        command.builds(command.parse(["--env", setting]))


def test_rows_are_chosen_by_parts_of_their_names() -> None:
    assert {row.name for row in command.chosen(["echo-1"])} == {
        row.name for row in ROWS if "echo-1" in row.name
    }
    with pytest.raises(SystemExit, match="--list names them"):
        command.chosen(["no such row"])


def test_every_comparison_names_contenders_of_its_row() -> None:
    for row in ROWS:
        for comparison in row.comparisons:
            assert comparison.ours in row.contenders
            assert not comparison.base or comparison.base in row.contenders
    assert len({row.name for row in ROWS}) == len(ROWS)
