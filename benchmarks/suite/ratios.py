"""Ratios within a round, and how far they are to be trusted."""

from __future__ import annotations

import random
import statistics
from typing import NamedTuple

from .measure import Samples
from .table import Comparison, Row

_RESAMPLES = 2000
_LESS_IS_BETTER = ("cost", "bytes")


class Spread(NamedTuple):
    """What is told of one number per round."""

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    """95% bootstrap interval of the median."""


class Result(NamedTuple):
    """A comparison with its numbers, for one build."""

    comparison: Comparison
    build: str
    spread: Spread

    @property
    def target(self) -> float | None:
        """What the number should be at most, or at least, for the build."""
        if self.comparison.target is None:
            return None
        return self.comparison.target[self.build == "accelerated"]

    @property
    def less_is_better(self) -> bool:
        return self.comparison.kind in _LESS_IS_BETTER

    @property
    def met(self) -> bool | None:
        """Whether the median keeps to the target; None without one."""
        if self.target is None:
            return None
        median = self.spread.median
        return median <= self.target if self.less_is_better else median >= self.target


def spread(values: list[float]) -> Spread:
    """Return the median of `values` with its quartiles and interval."""
    if len(values) < 2:
        return Spread(values[0], (values[0], values[0]), (values[0], values[0]))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    # The same numbers give the same interval.
    chance = random.Random(0)
    medians = sorted(
        statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    edge = _RESAMPLES // 40
    return Spread(median, (low, high), (medians[edge], medians[-edge - 1]))


def results(row: Row, samples: list[Samples]) -> list[Result]:
    """Return the comparisons of `row` whose contenders have run, each build in turn."""
    found = []
    for comparison in row.comparisons:
        for ours in samples:
            if ours.row != row.name or ours.contender != comparison.ours:
                continue
            numbers = _numbers(comparison, ours, samples)
            if numbers:
                found.append(Result(comparison, ours.build, spread(numbers)))
    return found


def _numbers(comparison: Comparison, ours: Samples, samples: list[Samples]) -> list[float]:
    values = ours.values[comparison.metric]
    if not comparison.base:
        if comparison.kind == "MB/s":
            return [1e-6 / value for value in values]
        return list(values)
    base = [
        each
        for each in samples
        if each.row == ours.row
        and each.contender == comparison.base
        and each.build in ("", ours.build)
    ]
    if not base:
        return []
    pairs = zip(values, base[0].values[comparison.metric], strict=True)
    if comparison.kind == "cost":
        return [one / other for one, other in pairs]
    return [other / one for one, other in pairs]
