"""The docstrings of this package as Markdown, for mkdocstrings.

Their style is plain text: ``name -- what it is`` for a parameter goes on with an indent, code is
indented behind a line with ``::``, and a name of this package is in single backticks.  They become
list items, code, and links where the reference has such a name.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference" / "api"

_PARAMETER = re.compile(r"(?P<names>\S+(?:, \S+)*) -- (?P<text>.*)")
_NAME = re.compile(r"(?<![`\[])`(?P<name>[A-Za-z_]\w*)`(?!`)")


@functools.cache
def documented() -> dict[str, str]:
    """Return the identifiers that the pages of the API show, by their last names."""
    shown = re.findall(
        r"^::: (\S+)$", "\n".join(page.read_text() for page in PAGES.glob("*.md")), re.MULTILINE
    )
    return {name.rpartition(".")[2]: name for name in shown}


def _code(lines: Iterator[str]) -> Iterator[str]:
    """Yield the indented lines as a block of Python, and the line behind them."""
    block: list[str] = []
    after = ""
    for line in lines:
        if line.strip() and not line.startswith(" "):
            after = line
            break
        block.append(line)
    yield from ("", "```python", *textwrap.dedent("\n".join(block)).strip("\n").splitlines(), "```")
    yield from ("", after)


def as_markdown(text: str, own_name: str = "") -> str:
    """Return a docstring as Markdown; `own_name` is not made a link."""

    def link(found: re.Match[str]) -> str:
        name = found["name"]
        target = documented().get(name)
        return f"[`{name}`][{target}]" if target and name != own_name else found[0]

    source = iter(text.splitlines())
    made: list[str] = []
    inside = False
    for line in source:
        if found := _PARAMETER.fullmatch(line):
            if not inside and made and made[-1].strip():
                made.append("")
            names = ", ".join(f"`{name.strip('`')}`" for name in found["names"].split(", "))
            made.append(f"- {names}: {_NAME.sub(link, found['text'])}")
            inside = True
        elif line == "::":
            made.extend(_code(source))
            inside = False
        elif inside and line.startswith(" "):
            made.append(f"    {_NAME.sub(link, line.strip())}")
        else:
            if inside and line.strip():
                made.append("")
            inside = False
            made.append(_NAME.sub(link, line))
    return "\n".join(made)


class HouseStyle(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of `obj`, a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, obj.name)
