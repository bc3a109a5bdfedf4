"""Native helpers: C sources that ship with the package and are compiled on first use.

The wheel stays pure Python.  `load` returns a helper as a module, `build` the path of
one, be it a module or a program; the first time on a machine they compile it, into the
user's cache directory, under a name that holds the hash of everything the result
depends on: sources, compiler flags and, of a module, the interpreter's ABI, cffi's
version and the contents of the library it is linked with.  `build_all`
does it ahead, for containers that have a compiler only while they are built.

Everything here may be called from any thread and by any number of processes at once.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.machinery
import importlib.util
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from . import _build, _cache, _instances
from ._errors import NativeError

__all__ = [
    "HELPERS",
    "Built",
    "Helper",
    "NativeError",
    "build",
    "build_all",
    "cache_directory",
    "load",
    "load_built",
    "missing",
]


class Helper(NamedTuple):
    """A helper: where its sources are and what they need."""

    name: str
    sources: Sequence[str]
    """C files, in the folder of the helper's name."""
    headers: Sequence[str]
    """Headers of its own, which the result depends on too."""
    declarations: str = ""
    """The header that cffi reads: what Python can call.  Empty for a program and for an
    extension module of its own, which need neither cffi nor a library."""
    extension: bool = False
    """Whether the sources are those of an extension module."""
    library: str = ""
    """Name of the library it is linked with, as in ``-lNAME``."""
    include: str = ""
    """Folder of the library's headers, below ``/usr/include``."""
    probe: str = ""
    """A header of the library: where it is missing, the package is."""
    package: str = ""
    """Debian package with the library and its headers."""

    @property
    def folder(self) -> Path:
        """Where the sources are."""
        return Path(__file__).with_name(self.name)

    @property
    def module(self) -> str:
        """Name of the extension module, or of the program."""
        return f"_vpoll_{self.name}"

    @property
    def program(self) -> bool:
        """Whether it is a program of its own rather than a module."""
        return not self.declarations and not self.extension


HELPERS: dict[str, Helper] = {
    helper.name: helper
    for helper in (
        Helper(
            name="lwip",
            sources=(
                "core.c",
                "iface.c",
                "nets.c",
                "arp.c",
                "discovery.c",
                "route.c",
                "link.c",
                "check.c",
                "icmp.c",
                "isn.c",
                "chksum.c",
                "table.c",
                "sock.c",
                "scope.c",
                "option.c",
                "stream.c",
                "passive.c",
                "transfer.c",
                "dgram.c",
                "raw.c",
                "rawsend.c",
                "mcast.c",
                "stats.c",
                "masks.c",
                "calls.c",
            ),
            headers=("shim.h", "calls.h"),
            declarations="api.h",
            library="lwip",
            include="lwip",
            probe="lwip/opt.h",
            package="liblwip-dev",
        ),
        Helper(
            name="hot",
            sources=(
                "module.c",
                "vpoll.c",
                "relay.c",
                "uvloop.c",
                "lock.c",
                "pipe.c",
                "stream.c",
                "selector.c",
                "handle.c",
                "turn.c",
                "trigger.c",
                "reader.c",
            ),
            headers=("hot.h",),
            extension=True,
        ),
        Helper(name="tee", sources=("tee.c",), headers=(), extension=True),
        Helper(
            name="fuse",
            sources=("main.c", "mount.c", "detach.c", "userns.c", "descriptors.c", "serve.c"),
            headers=("daemon.h", "protocol.h"),
        ),
        Helper(
            name="vdestack",
            sources=(
                "main.c",
                "namespace.c",
                "serve.c",
                "../fuse/detach.c",
                "../fuse/userns.c",
                "../fuse/descriptors.c",
            ),
            headers=("namespace.h", "../fuse/daemon.h"),
        ),
    )
}
"""Every helper there is, by name."""


class Built(NamedTuple):
    """What `build_all` did for one helper."""

    name: str
    path: Path | None
    """The compiled module, or None when it could not be built."""
    why: str
    """What is missing or failed, when there is no path; else empty."""

    @property
    def available(self) -> bool:
        """Whether the helper can be loaded."""
        return self.path is not None


_loaded: dict[tuple[str, int], ModuleType] = {}
_lock = threading.Lock()


def _helper(name: str) -> Helper:
    try:
        return HELPERS[name]
    except KeyError:
        raise ValueError(
            f"no native helper is called {name!r}; there are: {', '.join(HELPERS)}"
        ) from None


@functools.cache
def _key(helper: Helper, library: Path | None) -> str:
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    for name in (*helper.sources, *helper.headers, helper.declarations):
        if name:
            add(name.encode())
            add((helper.folder / name).read_bytes())
    words = (*_build.flags(helper), sysconfig.get_platform())
    if not helper.program:
        words += (str(sysconfig.get_config_var("SOABI")),)
    if helper.declarations:
        words += (_build.cffi_version(),)
    for word in words:
        add(word.encode())
    add(library.read_bytes() if library is not None else b"")
    return digest.hexdigest()[:24]


def _file_name(helper: Helper) -> str:
    if helper.program:
        return f"{helper.module}-{_key(helper, None)}"
    library = _build.find_library(helper.library) if helper.library else None
    key = _key(helper, library)
    return f"{helper.module}-{key}{importlib.machinery.EXTENSION_SUFFIXES[0]}"


def build(name: str) -> Path:
    """Return the path of the compiled helper `name`, compiling it if need be.

    Raises ValueError for a name that is not in `HELPERS`, and `NativeError` (an
    OSError): ENOPKG when something to install is missing, EPERM when the cache
    directory could be written by somebody else, EIO when the compiler fails.
    """
    helper = _helper(name)
    _build.require_runtime(helper)
    file_name = _file_name(helper)
    directory = _cache.directory()
    path = directory / file_name
    if _cache.is_ours(path):
        return path
    with _cache.locked(directory, helper.module):
        if not _cache.is_ours(path):
            _build.compile_helper(helper, path)
    return path


def load(name: str, instance: int = 0) -> ModuleType:
    """Return the helper `name` as a module; a cffi module has ``ffi`` and ``lib``.

    instance -- of a helper that is linked with a library: which of any number of
        instances, each with global state of its own.  Those beyond the first are made of
        copies of both files; none is ever unloaded.

    Compiles it first when there is no compiled one.  Raises as `build` does, ValueError
    for a helper that is a program or has no instances, and OSError when the copies cannot
    be made or loaded, as from a file system that is mounted noexec.
    """
    helper = _helper(name)
    if helper.program:
        raise ValueError(f"the native helper {name!r} is a program: build() returns its path")
    if instance and not helper.library:
        raise ValueError(f"the native helper {name!r} has one instance only")
    with _lock:
        module = _loaded.get((name, instance))
        if module is None:
            path = build(name)
            if instance:
                path = _copy(helper, path, instance)
            module = _loaded[name, instance] = _import(helper, path)
    return module


def _copy(helper: Helper, path: Path, instance: int) -> Path:
    library = _build.find_library(helper.library)
    assert library is not None  # build() has found it
    with _cache.locked(path.parent, helper.module):
        return _instances.copy(path, library, instance)


def load_built(name: str) -> ModuleType | None:
    """Return the helper `name` as a module if it has been compiled, else None.

    Compiles nothing.  Raises ValueError as `load` does.
    """
    helper = _helper(name)
    try:
        path = _cache.directory() / _file_name(helper)
        if not _cache.is_ours(path):
            return None
        return load(name)
    except OSError:
        return None


def _import(helper: Helper, path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(helper.module, str(path))
    spec = importlib.util.spec_from_file_location(helper.module, path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as exc:
        raise NativeError(errno.EIO, f"the native helper {path} cannot be loaded: {exc}") from exc
    return module


def missing(name: str) -> str:
    """Return what keeps the helper `name` from being loaded or built here, or ``""``.

    Looks only, builds nothing.  Raises ValueError for an unknown name.
    """
    helper = _helper(name)
    if (name, 0) in _loaded:
        return ""
    try:
        _build.require_runtime(helper)
        if not _cache.is_ours(_cache.directory() / _file_name(helper)):
            _build.require_build(helper)
    except OSError as exc:
        return str(exc.strerror or exc)
    return ""


def build_all() -> list[Built]:
    """Compile every helper that is not compiled yet; return what came of each."""
    results = []
    for name in HELPERS:
        try:
            results.append(Built(name, build(name), ""))
        except OSError as exc:
            results.append(Built(name, None, str(exc.strerror or exc)))
    return results


def cache_directory() -> Path:
    """Return the directory that compiled helpers are kept in, making it if need be.

    ``$XDG_CACHE_HOME/vpoll_asyncio``, else ``~/.cache/vpoll_asyncio``; where that
    cannot be written or belongs to somebody else, a private temporary directory that
    is removed when the process ends.  Raises `NativeError` (EPERM) when another user
    could put a file there.
    """
    return _cache.directory()
