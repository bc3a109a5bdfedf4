"""What a test run may be told to use: stacks, loops and backends, checked and named."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ..backends import backends
from ..program.loops import LOOPS, uvloop_module
from ..stacks import available, options_of, parse_config

__all__ = [
    "StackChoice",
    "backend_names",
    "loop_names",
    "names_of_stacks",
    "stack_choices",
    "usable_backends",
    "usable_loops",
]

# Only our selector knows what this backend shows: there is nothing of the kernel's to choose.
_UNSEEN: Final = "virtual"


_NUMBERS: Final = itertools.count(1)


class StackChoice(NamedTuple):
    """A stack that tests are to run on."""

    config: str
    """As it was given, for messages."""
    name: str
    """The stack's, for `open_stack`."""
    label: str
    """What a test's id calls it."""
    options: dict[str, Any]
    """For `open_stack`."""


def _names(given: Sequence[str]) -> list[str]:
    """Return the items of comma lists, each once, in order."""
    items = [item.strip() for text in given for item in text.split(",")]
    return list(dict.fromkeys(filter(None, items)))


def usable_backends() -> list[str]:
    """Return the names of the backends that this machine has and the kernel's pollers see."""
    return [info.name for info in backends() if info.available and info.name != _UNSEEN]


def backend_names(given: Sequence[str]) -> list[str]:
    """Return the backends that the lists `given` name.

    Raises ValueError for an unknown one and for one that cannot be used here.
    """
    known = {info.name: info for info in backends() if info.name != _UNSEEN}
    for name in (names := _names(given)):
        if name not in known:
            raise ValueError(f"no vpoll backend {name!r}: expected some of {', '.join(known)}")
        if not known[name].available:
            usable = ", ".join(usable_backends())
            raise ValueError(
                f"the vpoll backend {name!r} cannot be used here: {known[name].why}; "
                f"expected some of {usable}"
            )
    return names


def usable_loops() -> list[str]:
    """Return the names of the loops that can be had: uvloop's only where it is installed."""
    return [name for name in LOOPS if name != "uvloop" or uvloop_module() is not None]


def loop_names(given: Sequence[str]) -> list[str]:
    """Return the loops that the lists `given` name.

    Raises ValueError for an unknown one, and for uvloop where it is not installed.
    """
    for name in (names := _names(given)):
        if name not in LOOPS:
            raise ValueError(f"no event loop {name!r}: expected 'asyncio' or 'uvloop'")
        if name not in usable_loops():
            raise ValueError(f"the loop {name!r} needs uvloop: pip install 'vpoll-asyncio[uvloop]'")
    return names


def _stack(config: str) -> StackChoice:
    config = config.strip()
    if "=" in config:
        options = parse_config(config)
        name = options.pop("stack", None)
        if not isinstance(name, str):
            raise ValueError(f"the stack {config!r} needs exactly one stack=NAME")
    else:
        name, options = config, {}
    label = options.pop("name", name)
    if not isinstance(label, str) or not label:
        raise ValueError(f"the stack {config!r} has more than one name=LABEL")
    takes = options_of(name)
    if unknown := sorted(options.keys() - takes):
        raise ValueError(
            f"the stack {config!r}: {name} has no option {unknown[0]!r}: "
            f"it takes {', '.join(sorted(takes)) or 'no options'}"
        )
    if {"vnl", "link"} <= takes and not options.keys() & {"vnl", "link"}:
        options["vnl"] = f"wire://pytest-{next(_NUMBERS)}"
    if "thread" in takes:
        # A test that blocks runs no loop that would drive the stack.
        options.setdefault("thread", True)
    why = next((info.why for info in available() if info.name == name), "")
    if why:
        raise ValueError(f"the stack {config!r} is not available: {why}")
    return StackChoice(config, name, label, options)


def stack_choices(given: Sequence[str]) -> list[StackChoice]:
    """Return the stacks of the configurations `given`.

    Each is a stack's name or what `open_stack` takes, and may have ``name=LABEL``.  A
    stack with the option ``thread`` gets it, unless the configuration says otherwise, and
    one that needs a link a wire inside the process on which it is alone.
    Raises ValueError for an unknown stack or option, and for a stack that cannot be
    opened here.
    """
    return [_stack(config) for config in given]


def names_of_stacks(choices: Sequence[StackChoice]) -> list[str]:
    """Return a name for the id of a test on each of `choices`: no two have the same."""
    counts = Counter(choice.label for choice in choices)
    seen: Counter[str] = Counter()
    names = []
    for choice in choices:
        seen[choice.label] += 1
        several = counts[choice.label] > 1
        names.append(f"{choice.label}{seen[choice.label]}" if several else choice.label)
    return names
