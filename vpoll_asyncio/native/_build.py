"""Compiling a helper: the C compiler does it, from C code that cffi wrote where it is a module."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import NativeError

if TYPE_CHECKING:
    from . import Helper

_FLAGS = ("-std=gnu11", "-O2", "-fvisibility=hidden", "-Wl,-z,relro", "-Wl,-z,now")

_TIMEOUT = 300
"""Seconds that the compiler may take."""


def flags(helper: Helper) -> tuple[str, ...]:
    """Return the compiler's options for `helper`, without files."""
    if helper.program:
        return (*_FLAGS, "-fPIE", "-pie")
    # Copies of the library, of further instances, are found beside the copies of the helper.
    found = ("-Wl,-rpath,$ORIGIN",) if helper.library else ()
    return (*_FLAGS, "-fPIC", "-shared", *found)


def _lacking(what: str, package: str) -> NativeError:
    return NativeError(errno.ENOPKG, f"{what}: install the Debian package {package}")


def cffi_version() -> str:
    """Return the version of cffi's runtime, or ``""`` where there is none."""
    try:
        import _cffi_backend
    except ImportError:
        return ""
    return str(_cffi_backend.__version__)


def find_library(name: str) -> Path | None:
    """Return the shared library ``lib<name>.so*`` that the dynamic linker would load."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    folders = [
        Path(prefix) / part
        for prefix in ("/usr/local/lib", "/usr/lib", "/lib")
        for part in (multiarch, "")
    ]
    for folder in (*folders, Path("/usr/lib64")):
        # The versioned name is there without the development package as well.
        for path in sorted(folder.glob(f"lib{name}.so.*")):
            if path.is_file():
                return path.resolve()
    return None


def require_runtime(helper: Helper) -> None:
    """Raise `NativeError` (ENOPKG) for what even a compiled helper needs."""
    if helper.program or helper.extension:
        return
    if not cffi_version():
        raise NativeError(
            errno.ENOPKG,
            f"cffi is not installed for {sys.executable}: "
            f"pip install 'vpoll-asyncio[{helper.name}]', or the Debian package python3-cffi",
        )
    if find_library(helper.library) is None:
        raise _lacking(f"lib{helper.library} is not installed", helper.package)


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise _lacking(f"there is no C compiler ({command[0]!r} not found)", "gcc")
    return command


def _includes(helper: Helper) -> list[str]:
    return [f"/usr/local/include/{helper.include}", f"/usr/include/{helper.include}"]


def require_build(helper: Helper) -> list[str]:
    """Return the compiler's command; raise `NativeError` (ENOPKG) for what is missing."""
    if helper.program:
        return _compiler()
    if not helper.extension:
        try:
            import cffi  # noqa: F401
        except ImportError as exc:
            raise NativeError(
                errno.ENOPKG,
                f"cffi is not installed for {sys.executable}: "
                f"pip install 'vpoll-asyncio[{helper.name}]', or the Debian package python3-cffi",
            ) from exc
    compiler = _compiler()
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        raise _lacking(f"Python.h is not in {include}", "python3-dev")
    if helper.extension:
        return compiler
    if not any(os.path.exists(os.path.join(path, helper.probe)) for path in _includes(helper)):
        raise _lacking(f"the headers of lib{helper.library} are not installed", helper.package)
    return compiler


def compile_helper(helper: Helper, path: Path) -> None:
    """Compile `helper` to `path`, which appears whole or not at all.

    Raises `NativeError`: ENOPKG for what is missing, EIO with the compiler's words.
    """
    compiler = require_build(helper)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as scratch:
        output = os.path.join(scratch, path.name)
        sources = [str(helper.folder / source) for source in helper.sources]
        command = [*compiler, *flags(helper)]
        if helper.program:
            command += [*sources, "-o", output]
        else:
            includes = [sysconfig.get_path("include"), str(helper.folder)]
            if not helper.extension:
                includes += _includes(helper)
                sources = [_write_glue(helper, scratch), *sources]
            command += [f"-I{folder}" for folder in includes]
            command += [*sources, "-o", output]
            if helper.library:
                command += [f"-l{helper.library}"]
        _run(helper, command)
        os.chmod(output, 0o700 if helper.program else 0o600)
        os.replace(output, path)


def _write_glue(helper: Helper, scratch: str) -> str:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef((helper.folder / helper.declarations).read_text())
    preamble = f'#include <stdint.h>\n#include "{helper.declarations}"\n'
    ffi.set_source(helper.module, preamble, compiler_verbose=0)
    glue = os.path.join(scratch, f"{helper.module}.c")
    ffi.emit_c_code(glue)
    return glue


def _run(helper: Helper, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NativeError(
            errno.EIO, f"the compiler did not finish in {_TIMEOUT} s: {shlex.join(command)}"
        ) from exc
    if done.returncode:
        raise NativeError(
            errno.EIO,
            f"the native helper {helper.name!r} does not compile: {shlex.join(command)}\n"
            + done.stdout.strip()[-2000:],
        )
