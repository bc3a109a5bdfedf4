"""Backends: how a vpoll becomes visible to the kernel's pollers, and which is taken."""

from __future__ import annotations

import errno
import os
from typing import Final

from ..events import EventMask, check_mask
from ..suggestions import did_you_mean
from .base import Backend, BackendInfo, Mirror
from .device import DeviceBackend
from .eventfd import EventfdBackend
from .fuse import FuseBackend
from .tcppair import TcpPairBackend
from .unixpair import UnixPairBackend
from .virtual import VirtualBackend

__all__ = ["Backend", "BackendInfo", "Mirror", "backends", "by_name", "choose"]

# Fastest first; the first available one that covers the need is taken.
_REGISTRY: Final[tuple[Backend, ...]] = (
    VirtualBackend(),
    EventfdBackend(),
    DeviceBackend(),
    UnixPairBackend(),
    TcpPairBackend(),
    FuseBackend(),
)


def backends() -> list[BackendInfo]:
    """Return every backend, fastest first, with what is missing where one cannot be used."""
    listing = []
    for backend in _REGISTRY:
        try:
            why = backend.missing()
        except OSError as error:
            why = f"it cannot be tried now: {error.strerror}"
        listing.append(BackendInfo(backend.name, not why, EventMask(backend.exact), why))
    return listing


def by_name(name: str) -> Backend:
    """Return the backend called `name`.

    Raises ValueError for an unknown name and OSError: ENOSYS for one that is not
    available here, EMFILE and its like when it cannot be tried now.
    """
    for backend in _REGISTRY:
        if backend.name == name:
            if why := backend.missing():
                raise OSError(errno.ENOSYS, f"vpoll backend {name!r} is not available: {why}")
            return backend
    names = [backend.name for backend in _REGISTRY]
    raise ValueError(
        f"no vpoll backend {name!r}: expected one of {', '.join(names)}{did_you_mean(name, names)}"
    )


def choose(need: int) -> Backend:
    """Return the fastest available backend whose exact set covers `need`.

    The environment variable ``VPOLL_BACKEND`` names another choice, whatever its exact
    set.

    Raises OSError: ENOSYS when none qualifies, naming what is missing, EMFILE and its
    like when the process has run out of what a trial needs; and ValueError when the
    environment names no backend.
    """
    check_mask(need)
    if named := os.environ.get("VPOLL_BACKEND"):
        try:
            return by_name(named)
        except ValueError as error:
            raise ValueError(f"environment variable VPOLL_BACKEND: {error}") from None
        except OSError as error:
            raise OSError(error.errno, f"VPOLL_BACKEND: {error.strerror}") from None
    reasons = []
    for backend in _REGISTRY:
        if backend.chosen_by_name_only:
            continue
        if need & ~backend.exact:
            lacking = EventMask(need & ~backend.exact)
            reasons.append(f"{backend.name} cannot show {lacking!r} exactly")
        elif why := backend.missing():
            reasons.append(f"{backend.name}: {why}")
        else:
            return backend
    raise OSError(
        errno.ENOSYS,
        f"no vpoll backend shows {EventMask(need)!r} exactly here ({'; '.join(reasons)})",
    )
