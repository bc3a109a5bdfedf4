r"""Locators that have another one inside, as vdeplug4 writes them.

``SCHEME://ARGUMENTS[OPTION/OPTION…]{LOCATOR}``: what is in the braces is a locator of
its own, which may nest in turn.  In the arguments ``\``, ``'…'`` and ``"…"`` take the
meaning from brackets, braces and separators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Nested", "parse_nested", "split_options", "split_path"]

_ESCAPE: Final = "\\"
_QUOTES: Final = "'\""


class Nested(NamedTuple):
    """A locator in its parts."""

    scheme: str
    arguments: str
    """What is between ``://`` and the brace, quotes included."""
    inner: str
    """The locator in the braces."""


def parse_nested(vnl: str) -> Nested | None:
    """Return the parts of `vnl`, or None where nothing is nested in it.

    Raises ValueError for braces that do not end the locator, or that are empty.
    """
    scheme, _, rest = vnl.partition("://")
    opening = next((at for at, c, quoted in _scan(rest) if c == "{" and not quoted), None)
    if opening is None:
        return None
    inner = rest[opening + 1 : -1]
    if not rest.endswith("}") or not inner.strip():
        raise ValueError(f"{vnl!r}: expected a locator in braces at the end: {{SCHEME://ADDRESS}}")
    return Nested(scheme, rest[:opening], inner.strip())


def split_options(text: str, separators: str = ",/") -> list[tuple[str, str]]:
    """Return the (name, value) of every option in `text`; quotes are removed.

    Raises ValueError for an option that is no ``name=value``.
    """
    words = [""]
    for _, c, quoted in _scan(text):
        if c in separators and not quoted:
            words.append("")
        else:
            words[-1] += c
    options = []
    for word in filter(None, map(str.strip, words)):
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"option {word!r}: expected NAME=VALUE")
        options.append((name.strip(), value.strip()))
    return options


def split_path(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the path and the options of ``PATH[OPTION/OPTION…]``; quotes are removed.

    Raises ValueError for a bracket that is not closed at the end, and as `split_options`.
    """
    path = ""
    for at, c, quoted in _scan(text):
        if c == "[" and not quoted:
            if not text.endswith("]"):
                raise ValueError(f"{text!r}: expected the options in brackets at the end")
            return path, split_options(text[at + 1 : -1])
        path += c
    return path, []


def _scan(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (index, character, whether it is quoted) of all but the quotes themselves."""
    quote = ""
    escaped = False
    for at, c in enumerate(text):
        if escaped:
            escaped = False
            yield at, c, True
        elif c == _ESCAPE:
            escaped = True
        elif quote:
            if c == quote:
                quote = ""
            else:
                yield at, c, True
        elif c in _QUOTES:
            quote = c
        else:
            yield at, c, False
