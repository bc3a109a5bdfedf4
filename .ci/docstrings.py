"""The docstrings of this package as Markdown, for mkdocstrings.

Their style is plain text: ``name -- what it is`` for a parameter, goes on with an indent, and a
name of this package is in single backticks.  A list is made of the first, a link of the second
where the reference has such a name.
"""

from __future__ import annotations

import functools
import re
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


def as_markdown(text: str, own_name: str = "") -> str:
    """Return a docstring as Markdown; `own_name` is not made a link."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if found := _PARAMETER.fullmatch(line):
            if not inside and lines and lines[-1].strip():
                lines.append("")
            names = ", ".join(f"`{name.strip('`')}`" for name in found["names"].split(", "))
            lines.append(f"- {names}: {found['text']}")
            inside = True
        elif inside and line.startswith(" "):
            lines.append(f"    {line.strip()}")
        else:
            if inside and line.strip():
                lines.append("")
            inside = False
            lines.append(line)

    def link(found: re.Match[str]) -> str:
        name = found["name"]
        target = documented().get(name)
        return f"[`{name}`][{target}]" if target and name != own_name else found[0]

    return _NAME.sub(link, "\n".join(lines))


class HouseStyle(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of `obj`, a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, obj.name)
