"""What an error must say: its exact class and errno, what happened, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Lesson(NamedTuple):
    """An error, and the three parts that it must have."""

    raised: type[BaseException]
    number: int | None
    happened: str
    why: str
    remedy: str


def told(error: BaseException) -> str:
    """The text that a traceback of `error` ends with."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def check(error: BaseException, lesson: Lesson) -> None:
    assert type(error) is lesson.raised, repr(error)
    assert getattr(error, "errno", None) == lesson.number
    for part in lesson[2:]:
        assert part in told(error)


def fails(call: Callable[[], Any], lesson: Lesson) -> None:
    with pytest.raises(lesson.raised) as caught:
        call()
    check(caught.value, lesson)
