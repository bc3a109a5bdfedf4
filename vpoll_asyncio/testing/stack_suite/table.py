"""The table of what a stack has declared to do otherwise than Linux."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Difference

__all__ = ["differences_table"]


def differences_table(differences: Mapping[str, Difference]) -> str:
    """Return a Markdown table of `differences`, a suite's class attribute.

    One row for each reason, with the tests that it is about and how it is held: by a test
    of what the stack does, by the suite's test failing as long as it is so, or by nothing
    where that is not run.  Without any difference it is a sentence.
    """
    if not differences:
        return "No difference is known: every test of the suite holds.\n"
    rows: dict[str, list[tuple[str, Difference]]] = {}
    for name, difference in differences.items():
        rows.setdefault(difference.reason, []).append((name, difference))
    lines = ["| what it does | instead of | held by |", "|---|---|---|"]
    for reason, declared in rows.items():
        tests = ", ".join(f"`{name}`" for name, _ in declared)
        lines.append(f"| {_cell(reason)} | {tests} | {_held([one for _, one in declared])} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _held(declared: list[Difference]) -> str:
    if any(one.instead for one in declared):
        return "a test of it"
    return "that test failing" if all(one.run for one in declared) else "nothing"
