"""The ratios as a picture: a dot for the median, a bar for its interval, a mark for the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .measure import Samples
from .ratios import Result, results
from .table import ROWS, Row

_COLOURS = {"pure": "#1f6fb4", "accelerated": "#d9661f"}
_ROW_HEIGHT = 0.24  # inches


def write(path: Path, samples: list[Samples]) -> None:
    """Draw the ratios of `samples` into the SVG file `path`."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same numbers make the same file.
    mpl.rcParams["svg.hashsalt"] = "results"
    mpl.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    found = [
        (_name(row, each), each)
        for row in ROWS
        for each in results(row, samples)
        if each.comparison.base
    ]
    costs = [pair for pair in found if pair[1].less_is_better]
    gains = [pair for pair in found if not pair[1].less_is_better]
    panels = [
        (title, panel)
        for title, panel in (
            ("time, ours / theirs: less is better", costs),
            ("rate, ours / theirs: more is better", gains),
        )
        if panel
    ]
    if not panels:
        return
    names = [list(dict.fromkeys(name for name, _ in panel)) for _, panel in panels]
    heights = [len(each) + 2 for each in names]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(11, _ROW_HEIGHT * sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for (title, panel), labels, axis in zip(panels, names, axes[:, 0], strict=True):
        _draw(axis, title, labels, panel)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _name(row: Row, result: Result) -> str:
    comparison = result.comparison
    several = any(each.metric != comparison.metric for each in row.comparisons if each.base)
    metric = f", {comparison.metric}" if several else ""
    return f"{row.name}{metric}: {comparison.ours} / {comparison.base}"


def _draw(axis: Any, title: str, labels: list[str], panel: list[tuple[str, Result]]) -> None:
    for name, each in panel:
        place = labels.index(name) + (0.2 if each.build == "accelerated" else 0.0)
        colour = _COLOURS.get(each.build, "#555555")
        axis.plot(each.spread.interval, (place, place), color=colour, linewidth=2.5)
        axis.plot(each.spread.median, place, "o", color=colour, markersize=4.5)
        if each.target is not None:
            axis.plot(each.target, place, "|", color=colour, markersize=11, markeredgewidth=1.5)
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.axvline(1.0, color="#999999", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_title(f"{title} (| the target)", fontsize=9)
    axis.grid(axis="x", which="both", linewidth=0.3)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=7)
