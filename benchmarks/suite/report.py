"""The results as Markdown: ratios first, then what each contender took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .measure import Samples
from .ratios import Result, results, spread
from .table import ROWS, Row

BEGIN = "<!-- make bench writes from here … -->"
END = "<!-- … to here -->"

CLOCKS = {"wall": "wall's", "cpu": "processor's"}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _wanted(result: Result) -> str:
    if result.target is None:
        return ""
    return f"{'≤' if result.less_is_better else '≥'} {_number(result.target)}"


def _compared(result: Result) -> str:
    comparison = result.comparison
    ours = f"{comparison.ours}" + (f" [{result.build}]" if result.build else "")
    what = (
        ""
        if comparison.metric in ("event", "echo", "byte", "connection", "handshake")
        else (f"{comparison.metric}: " if comparison.base else "")
    )
    return f"{what}{ours} / {comparison.base}" if comparison.base else f"{what}{ours}"


def _unit(result: Result) -> str:
    return {"cost": "time", "rate": "rate", "bytes": "bytes", "MB/s": "MB/s"}[
        result.comparison.kind
    ]


def lines(row: Row, samples: list[Samples]) -> list[str]:
    """Return the results of `row` as lines for a terminal."""
    told = []
    for each in results(row, samples):
        low, high = each.spread.interval
        verdict = {None: "", True: "met", False: "NOT MET"}[each.met]
        told.append(
            f"{_compared(each)}: {_unit(each)} {_number(each.spread.median)} "
            f"({_number(low)} to {_number(high)}) {_wanted(each)} {verdict}".rstrip()
        )
    return told


def _ratios(samples: list[Samples]) -> Iterator[str]:
    yield "| row | compared | | median | quartiles | 95% of the median | wanted | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        for each in results(row, samples):
            verdict = {None: "", True: "met", False: "**short**"}[each.met]
            cells = [
                row.name,
                _compared(each),
                _unit(each),
                _number(each.spread.median),
                " to ".join(map(_number, each.spread.quartiles)),
                " to ".join(map(_number, each.spread.interval)),
                _wanted(each),
                verdict,
            ]
            yield f"| {' | '.join(cells)} |"


def _measured(metric: str, values: list[float]) -> tuple[str, str]:
    """Return the median of `values` and their quartiles in the unit that suits `metric`."""
    if metric == "byte":
        middle = spread([1e-6 / value for value in values])
        unit = "MB/s"
    elif metric in ("bytes", "polls a turn"):
        middle = spread(values)
        unit = metric
    else:
        middle = spread([value * 1e6 for value in values])
        unit = "µs"
    low, high = middle.quartiles
    return f"{_number(middle.median)} {unit}", f"{_number(low)} to {_number(high)}"


def _absolutes(samples: list[Samples]) -> Iterator[str]:
    yield "| row | contender | what | median | quartiles |"
    yield "|---|---|---|---|---|"
    for row in ROWS:
        for each in samples:
            if each.row != row.name:
                continue
            name = f"{each.contender} [{each.build}]" if each.build else each.contender
            for metric, values in each.values.items():
                median, quartiles = _measured(metric, values)
                yield f"| {row.name} | {name} | {metric} | {median} | {quartiles} |"


def _weather(told: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Say on what, and how, the rows were measured."""
    machines: dict[str, list[str]] = {}
    for row, about in told.items():
        if row not in (each.name for each in ROWS):
            continue
        rounds = f"{about.get('suite_rounds')} round" + "s" * (about.get("suite_rounds") != "1")
        machine = (
            f"{about.get('platform')}, {about.get('cpu_count')} CPUs, "
            f"Python {about.get('python_version')}, uvloop {about.get('suite_uvloop')}, "
            f"pyzmq {about.get('suite_pyzmq')}, the {CLOCKS[about['suite_clock']]} clock, {rounds}"
        )
        machines.setdefault(machine, []).append(row)
    for machine, rows in machines.items():
        which = "" if len(machines) == 1 else f": {', '.join(rows)}"
        yield f"{machine}{which}."
        yield ""


def section(samples: list[Samples], told: dict[str, dict[str, Any]]) -> str:
    """Return what stands between the marks in RESULTS.md."""
    titles = [f"- `{row.name}`: {row.title}" for row in ROWS if row.name in told]
    return "\n".join(
        [
            BEGIN,
            *_weather(told),
            "![ratios with their intervals](results.svg)",
            "",
            *_ratios(samples),
            "",
            "What the rows are:",
            "",
            *titles,
            "",
            "What each contender took:",
            "",
            *_absolutes(samples),
            END,
        ]
    )


def write(path: Path, samples: list[Samples], told: dict[str, dict[str, Any]]) -> None:
    """Put the section in the place of the one in `path`, or at its end."""
    text = path.read_text() if path.exists() else "# Results\n"
    made = section(samples, told)
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        text = before + made + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n## The suite\n\n    make bench\n\n{made}\n"
    path.write_text(text)
