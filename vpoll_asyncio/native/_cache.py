"""The directory of compiled helpers.

What lies there is loaded into the process, so nobody else may be able to write it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ._errors import NativeError


def _wanted() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    return root / "vpoll_asyncio"


def _refuse(path: Path, what: str) -> NativeError:
    return NativeError(
        errno.EPERM,
        f"{path} {what}, so a compiled helper in it cannot be trusted: "
        f"run chmod go-w {path}, or set XDG_CACHE_HOME to a directory of your own",
    )


def _check(directory: Path) -> bool:
    """Return whether `directory` is the user's own; raise when others can write it."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refuse(directory, "can be written by other users")
    for parent in directory.parents:
        above = parent.stat()
        # Whoever can rename the directory can replace it; a sticky bit forbids that.
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise _refuse(parent, "can be written by everybody")
    return os.access(directory, os.W_OK | os.X_OK)


@functools.cache
def _temporary(pid: int) -> Path:
    path = Path(tempfile.mkdtemp(prefix="vpoll_asyncio-"))

    def remove() -> None:
        if os.getpid() == pid:
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return path


def directory() -> Path:
    """Return a directory that only this user can write."""
    wanted = _wanted()
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _check(wanted):
            return wanted
    except NativeError:
        raise
    except OSError:
        pass
    return _temporary(os.getpid())


def is_ours(path: Path) -> bool:
    """Return whether `path` is a file that this user wrote and nobody else can change."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


@contextlib.contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """Let one process at a time build `name`; the lock dies with its holder."""
    fd = os.open(directory / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
