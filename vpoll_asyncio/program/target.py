"""Running a Python program as the interpreter's own command line would.

``__main__``, ``sys.argv``, ``sys.path[0]`` and what is said of a program that is not there
are those of ``python SCRIPT``, ``python -m MODULE`` and ``python -c CODE``.  The
program's `SystemExit` and its end are the interpreter's business; of its tracebacks the
frames above its own are cut.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pkgutil
import sys
import types
import warnings
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["Target", "TargetError", "run_target"]

_HERE: Final = str(Path(__file__).parent)
_MAIN: Final = "__main__"


class Target(NamedTuple):
    """The program of a command line."""

    kind: str
    """``"script"``, ``"-m"`` or ``"-c"``."""
    what: str
    """A path (a script, a directory or archive with a ``__main__``, ``-`` for standard
    input), a module's name, or code."""
    arguments: Sequence[str]
    """What follows in `sys.argv`."""


class TargetError(Exception):
    """There is no such program; `status` is the exit status of Python for that."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def run_target(target: Target) -> int:
    """Run the program in the module ``__main__`` and return its exit status.

    The module, `sys.argv` and `sys.path` stay as the program leaves them: its threads
    and what it has registered with `atexit` may need them.  An exception that ends the
    program goes to `sys.excepthook`, its status is 1.

    Raises `TargetError` when there is no such program, SystemExit as the program does,
    and KeyboardInterrupt, which `sys.excepthook` has been told of: left to the
    interpreter it ends the process by SIGINT, without another word.
    """
    try:
        code, module = _load(target)
        sys.modules[_MAIN] = module
        exec(code, module.__dict__)
    except (SystemExit, TargetError):
        raise
    except BaseException as exc:
        _report(exc)
        if isinstance(exc, KeyboardInterrupt):
            _say_nothing_of(exc)
            raise
        return 1
    return 0


def _report(exc: BaseException) -> None:
    trace = exc.__traceback__
    while trace is not None and _is_foreign(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    exc.__traceback__ = trace
    # As the interpreter does it: post-mortem debuggers look there.
    sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = exc
    try:
        sys.excepthook(type(exc), exc, trace)
    except Exception as broken:
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(broken), broken, broken.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(exc), exc, trace)


def _is_foreign(filename: str) -> bool:
    return filename.startswith((_HERE, "<frozen importlib"))


def _say_nothing_of(told: BaseException) -> None:
    hook = sys.excepthook

    def quiet(kind: Any, exc: Any, trace: Any) -> None:
        if exc is not told:
            hook(kind, exc, trace)

    sys.excepthook = quiet


def _load(target: Target) -> tuple[types.CodeType, types.ModuleType]:
    kind, what, arguments = target
    sys.argv[:] = [what if kind == "script" else kind, *arguments]
    if kind == "-m":
        _set_first_path(os.getcwd())
        return _load_module(what)
    if kind == "-c":
        _set_first_path("")
        return compile(what, "<string>", "exec", dont_inherit=True), _module()
    if what == "-":
        _set_first_path("")
        source = sys.stdin.buffer.read()
        return compile(source, "<stdin>", "exec", dont_inherit=True), _module("<stdin>")
    path = os.path.abspath(what)
    if pkgutil.get_importer(path) is not None:
        # A directory or an archive: it is where the module __main__ is looked for.
        sys.path.insert(0, path)
        return _load_main_of(what)
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    return _load_file(path)


def _set_first_path(folder: str) -> None:
    # With -P, -I and PYTHONSAFEPATH the first entry is not the program's.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _module(path: str | None = None, spec: ModuleSpec | None = None) -> types.ModuleType:
    module = types.ModuleType(_MAIN)
    names = module.__dict__
    names["__builtins__"] = __import__("builtins")
    names["__annotations__"] = {}
    # What it is for code without a file.
    names["__loader__"] = BuiltinImporter
    if path is not None:
        names["__file__"] = path
        names["__cached__"] = None
    if spec is not None:
        names["__spec__"] = spec
        names["__loader__"] = spec.loader
        names["__package__"] = spec.parent
        names["__cached__"] = spec.cached
    return module


def _load_file(path: str) -> tuple[types.CodeType, types.ModuleType]:
    module = _module(path)
    if path.endswith(".pyc"):
        compiled = SourcelessFileLoader(_MAIN, path)
        module.__loader__ = compiled
        try:
            code = compiled.get_code(_MAIN)
        except OSError as error:
            raise _cannot_open(path, error) from None
        assert code is not None
        return code, module
    module.__loader__ = SourceFileLoader(_MAIN, path)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        raise _cannot_open(path, error) from None
    return compile(source, path, "exec", dont_inherit=True), module


def _cannot_open(path: str, error: OSError) -> TargetError:
    return TargetError(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}", 2)


def _load_main_of(what: str) -> tuple[types.CodeType, types.ModuleType]:
    # Else the spec of the module that runs now would be found.
    present = sys.modules.pop(_MAIN)
    try:
        return _load_module(_MAIN)
    except TargetError as error:
        raise TargetError(f"can't find {_MAIN!r} module in {what!r}: {error}") from error
    finally:
        sys.modules[_MAIN] = present


def _load_module(name: str) -> tuple[types.CodeType, types.ModuleType]:
    name, spec = _find(name)
    loader: Any = spec.loader
    if loader is None:
        raise TargetError(f"{name!r} is a namespace package and cannot be executed")
    try:
        code = loader.get_code(name)
    except ImportError as error:
        raise TargetError(str(error)) from error
    if code is None:
        raise TargetError(f"No code object available for {name}")
    if sys.argv[0] == "-m":
        sys.argv[0] = spec.origin or name
    return code, _module(spec.origin, spec)


def _find(name: str) -> tuple[str, ModuleSpec]:
    """Return the module to execute: for a package its ``__main__``."""
    if name.startswith("."):
        raise TargetError("Relative module names not supported")
    package = name.rpartition(".")[0]
    if package:
        _import_package(package)
        known = sys.modules.get(name)
        if known is not None and not hasattr(known, "__path__"):
            warnings.warn(
                f"{name!r} is in sys.modules after import of package {package!r}, before it is "
                "executed: it will be there twice",
                RuntimeWarning,
                stacklevel=2,
            )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = f"; did you mean {name[:-3]!r}?" if name.endswith(".py") else ""
        raise TargetError(
            f"Error while finding module {name!r} ({type(error).__name__}: {error}){hint}"
        ) from error
    if spec is None:
        raise TargetError(f"No module named {name}")
    if spec.submodule_search_locations is None:
        return name, spec
    if name == _MAIN or name.endswith(f".{_MAIN}"):
        raise TargetError(f"Cannot use package as {_MAIN} module")
    try:
        return _find(f"{name}.{_MAIN}")
    except TargetError as error:
        raise TargetError(
            f"{error}; {name!r} is a package and cannot be directly executed"
        ) from error


def _import_package(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        # What is missing is the package itself, or one above it: find_spec will say so.
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
