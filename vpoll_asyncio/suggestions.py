"""A word that is nearly one of those expected: which one may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'WORD'?)"`` with the closest of `known`, ``""`` where none is close.

    It ends an error that has listed what there is.  May be called from any thread.
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
