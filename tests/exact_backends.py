"""Which kernel-visible backends show which events exactly, for parametrisation."""

from __future__ import annotations

from typing import Any

import pytest

from vpoll_asyncio import EventMask, backends
from vpoll_helpers import KERNEL_BACKENDS

EXACT = {backend.name: int(backend.exact) for backend in backends()}


def name_of(param: Any) -> str:
    """The backend of one entry of `KERNEL_BACKENDS`, marked or plain."""
    name = getattr(param, "values", (param,))[0]
    assert isinstance(name, str)
    return name


def showing(mask: int) -> list[Any]:
    """The entries of `KERNEL_BACKENDS` that show every event of `mask` exactly."""
    return [param for param in KERNEL_BACKENDS if not mask & ~EXACT.get(name_of(param), 0)]


def over_backends(name: str, value: Any, mask: int) -> list[Any]:
    """``pytest.param(value, backend)`` for every backend that shows `mask` exactly.

    name -- what the value is called in a test's id
    """
    return [
        pytest.param(
            value,
            name_of(param),
            id=f"{name}-{name_of(param)}",
            marks=getattr(param, "marks", ()),
        )
        for param in showing(mask)
    ]


WAYS = [pytest.param(None, id="vpoll"), *KERNEL_BACKENDS]
"""Ways to wait for a vpoll: by its wait queue, or by each backend's descriptor."""


def shown_by(backend: str | None) -> EventMask:
    """The named events that a waiter of `WAYS` sees exactly."""
    return EventMask(sum(EventMask) & (EXACT[backend] if backend else -1))
