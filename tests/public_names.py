"""The public names and how each is called, as tests/public_names.txt keeps them.

``python tests/public_names.py`` in the root of the tree writes that file anew, for what has been
added or changed on purpose.  A line is a name with its parameters: ``=`` behind one that may be
left out, ``*`` and ``/`` as in a signature.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".txt")
PACKAGE = "vpoll_asyncio"
MODULES = (
    *("", ".backends", ".libvpoll", ".links", ".loops", ".native"),
    *(".stacks", ".stacks.streams", ".testing"),
)
"""The modules that users import from, behind the package's name."""


def parameters(call: Any, *, bound: bool = False) -> str:
    """Return the parameters of `call` in parentheses, without types and default values."""
    given = list(inspect.signature(call).parameters.values())[1 if bound else 0 :]
    words: list[str] = []
    for index, one in enumerate(given):
        before = given[index - 1].kind if index else None
        if before is one.POSITIONAL_ONLY and one.kind is not before:
            words.append("/")
        if one.kind is one.KEYWORD_ONLY and before not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            words.append("*")
        star = "*" * (one.kind is one.VAR_POSITIONAL) + "**" * (one.kind is one.VAR_KEYWORD)
        words.append(f"{star}{one.name}{'' if one.default is one.empty else '='}")
    if given and given[-1].kind is inspect.Parameter.POSITIONAL_ONLY:
        words.append("/")
    return f"({', '.join(words)})"


def members(cls: type) -> dict[str, str]:
    """Return name and parameters of each public attribute that our code gives `cls`."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == PACKAGE:
            found |= dict.fromkeys(vars(base).get("__annotations__", ())) | vars(base)
    listed = {}
    for name in sorted(found):
        if name.startswith("_"):
            continue
        value = inspect.getattr_static(cls, name, None)
        if isinstance(value, (staticmethod, classmethod)):
            bound = isinstance(value, classmethod)
            listed[name] = parameters(value.__func__, bound=bound)
        else:
            listed[name] = parameters(value, bound=True) if inspect.isfunction(value) else ""
    return listed


def of_class(cls: type, name: str, others: Collection[type]) -> Iterator[str]:
    """Yield a line for `cls` and one for each attribute that none of `others` gives it likewise."""
    try:
        yield name if issubclass(cls, enum.Enum) else name + parameters(cls)
    except ValueError:
        # A class of the interpreter's own kind.
        yield name
    inherited = {
        member for base in cls.__mro__[1:] if base in others for member in members(base).items()
    }
    for member, called in members(cls).items():
        if (member, called) not in inherited:
            yield f"{name}.{member}{called}"


def lines() -> Iterator[str]:
    """Yield the record's lines; what several modules have is described at its first name."""
    public: dict[str, Any] = {}
    for suffix in MODULES:
        module = importlib.import_module(PACKAGE + suffix)
        for name in sorted(module.__all__):
            public[f"{module.__name__}.{name}"] = getattr(module, name)
    classes = {value for value in public.values() if inspect.isclass(value)}
    described: dict[Any, str] = {}
    for full, value in public.items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            yield full
        elif value in described:
            yield f"{full} is {described[value]}"
        else:
            described[value] = full
            if inspect.isclass(value):
                yield from of_class(value, full, classes)
            else:
                yield full + parameters(value)


def current() -> list[str]:
    """Return the lines of the tree as it is, of the classes in Python whatever is compiled."""
    done = subprocess.run(
        [sys.executable, __file__, "--print"],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "VPOLL_ASYNCIO_ACCELERATE": "0",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(*lines(), sep="\n")
    else:
        RECORD.write_text("".join(f"{line}\n" for line in current()))
