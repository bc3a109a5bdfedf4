"""The samples in a file of pyperf's format, which its own commands read as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyperf

from .measure import Samples

# What tells about the machine and the interpreter, and nothing about whose they are.
_KEPT = (
    "boot_time",
    "cpu_config",
    "cpu_count",
    "cpu_model_name",
    "date",
    "load_avg_1min",
    "perf_version",
    "platform",
    "python_compiler",
    "python_implementation",
    "python_version",
    "timer",
    "unit",
)
_BYTES = "bytes"
_PLAIN = "polls a turn"


def save(path: Path, samples: list[Samples], about: dict[str, str]) -> None:
    """Write `samples` into `path`, in the place of what it holds of the same rows.

    `about` is told of each of them.
    """
    rows = {each.row for each in samples}
    kept = [each for each in _benchmarks(path) if _told(each)["suite_row"] not in rows]
    made = []
    for each in samples:
        for metric, values in each.values.items():
            unit = {_BYTES: "byte", _PLAIN: "integer"}.get(metric, "second")
            metadata = {
                "name": "/".join(filter(None, [each.row, each.contender, each.build, metric])),
                "unit": unit,
                "suite_row": each.row,
                "suite_contender": each.contender,
                "suite_build": each.build or "stock",
                "suite_metric": metric,
                **{f"suite_{name}": text for name, text in about.items()},
            }
            made.append(pyperf.Benchmark([_run(values, metadata)]))
    everything = kept + made
    if everything:
        pyperf.BenchmarkSuite(everything).dump(str(path), replace=True)


def _run(values: list[float], metadata: dict[str, str]) -> pyperf.Run:
    # pyperf wants more than nothing.
    values = [value or 1e-12 for value in values]
    collected = pyperf.Run(values, metadata=metadata).get_metadata()
    chosen = {name: each for name, each in collected.items() if name in _KEPT or name in metadata}
    return pyperf.Run(values, metadata=chosen, collect_metadata=False)


def _benchmarks(path: Path) -> list[Any]:
    return list(pyperf.BenchmarkSuite.load(str(path))) if path.exists() else []


def _told(benchmark: Any) -> dict[str, Any]:
    return dict(benchmark.get_metadata())


def load(path: Path) -> tuple[list[Samples], dict[str, dict[str, Any]]]:
    """Return the samples that `path` holds, and for each row what is told about its run."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    told: dict[str, dict[str, Any]] = {}
    for benchmark in _benchmarks(path):
        about = _told(benchmark)
        build = "" if about["suite_build"] == "stock" else about["suite_build"]
        key = about["suite_row"], about["suite_contender"], build
        found.setdefault(key, {})[about["suite_metric"]] = list(benchmark.get_values())
        told.setdefault(about["suite_row"], about)
    return [Samples(*key, values) for key, values in found.items()], told
