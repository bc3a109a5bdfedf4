"""Stacks by name: those of this package and those that others install."""

from __future__ import annotations

import errno
import functools
import importlib
import inspect
import sys
from importlib import metadata
from typing import Any, Final

from ..suggestions import did_you_mean
from .base import Addresses, AddrInfo, Stack, StackInfo
from .names import Resolver

__all__ = [
    "AddrInfo",
    "Addresses",
    "Resolver",
    "Stack",
    "StackInfo",
    "available",
    "open_stack",
    "options_of",
    "parse_config",
]

_GROUP: Final = "vpoll_asyncio.stacks"
# Ours are found without installed metadata too, in a source tree on sys.path.
_OWN: Final = {
    "memory": "vpoll_asyncio.stacks.memory:MemoryStack",
    "host": "vpoll_asyncio.stacks.host:HostStack",
    "lwip": "vpoll_asyncio.stacks.lwip:LwipStack",
    "null": "vpoll_asyncio.stacks.null:NullStack",
    "vdestack": "vpoll_asyncio.stacks.vdestack:VdeStack",
}


@functools.lru_cache(1)
def _installed(path: tuple[str, ...]) -> dict[str, str]:
    """Return the stacks that packages on `path` bring: looking reads files of each of them."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=_GROUP)}


def _targets() -> dict[str, str]:
    return {**_OWN, **_installed(tuple(sys.path))}


def _stack_class(name: str) -> type[Stack]:
    targets = _targets()
    if name not in targets:
        bare, comma, rest = name.partition(",")
        if comma and bare in targets:
            raise ValueError(
                f"stack configuration 'stack={name}': expected KEY=VALUE after the comma, "
                f"as ip={rest}"
            )
        expected = f"expected one of {', '.join(sorted(targets))}"
        raise ValueError(f"no stack {name!r}: {expected}{did_you_mean(name, targets)}")
    module, _, attribute = targets[name].partition(":")
    loaded: Any = importlib.import_module(module)
    for part in attribute.split("."):
        loaded = getattr(loaded, part)
    if not (isinstance(loaded, type) and issubclass(loaded, Stack)):
        raise TypeError(f"entry point {name!r} ({targets[name]}) is not a subclass of Stack")
    return loaded


def available() -> list[StackInfo]:
    """Return every stack that `open_stack` knows, with what is missing where one cannot be used."""
    listing = []
    for name in sorted(_targets()):
        try:
            why = _stack_class(name).missing()
        except Exception as exc:
            why = f"{type(exc).__name__}: {exc}"
        listing.append(StackInfo(name, not why, why))
    return listing


Options = dict[str, str | list[str]]

# Of the keys of a configuration, those that an interface has of its own.
_OF_INTERFACE: Final = frozenset(
    (
        *("iface", "vnl", "ip", "ip6", "gw", "route", "mac", "mtu"),
        *("eth", "dhcp", "dhcpv6", "rd", "slaac", "auto", "auto4", "auto6"),
    )
)


def parse_config(config: str) -> dict[str, Any]:
    """Return the options of iothconf's ``key=value,key=value`` as a dictionary.

    A key that is repeated (``ip=…,ip=…``) has the list of its values; a key without
    ``=`` has the value ``"1"``.  What is neither goes on with the value before it, so
    that slirp's lists of forwarded ports need no quoting.  A locator with another one in
    braces (``vnl=netem://delay=10ms,loss=1%{slirp://}``) is one value, from its
    ``SCHEME://`` to the closing brace.

    Once there is a ``vnl``, ``iface=NAME`` begins a further interface, whose keys
    (``vnl``, ``ip``, ``ip6``, ``gw``, ``route``, ``mac``, ``mtu``, and the words that say
    how it is configured, as ``dhcp``, ``rd`` and ``auto``) are in a dictionary of their own
    in the list ``"interfaces"``; before it names the first.

    Raises ValueError for an item without a key and for braces without their counterpart.
    """
    items: list[str] = []
    for item in filter(None, map(str.strip, _split_at_commas(config))):
        key = item.partition("=")[0].strip()
        if key.isidentifier():
            items.append(item)
        elif "=" not in item and items:
            items[-1] += f",{item}"
        else:
            raise ValueError(
                f"bad item {item!r} in stack configuration {config!r}: expected key=value"
            )
    options: dict[str, Any] = {}
    current: Options = options
    for item in items:
        key, equals, value = map(str.strip, item.partition("="))
        value = value if equals else "1"
        if key == "iface" and "vnl" in current:
            current = {}
            options.setdefault("interfaces", []).append(current)
        target = current if key in _OF_INTERFACE else options
        before = target.get(key)
        if before is None:
            target[key] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            target[key] = [before, value]
    return options


def options_of(name: str) -> frozenset[str]:
    """Return the names of the options that `open_stack` takes for the stack `name`.

    Raises ValueError for an unknown stack.
    """
    return frozenset(inspect.signature(_stack_class(name)).parameters)


def _split_at_commas(config: str) -> list[str]:
    pieces: list[str] = []
    depth = 0
    for piece in config.split(","):
        if depth:
            pieces[-1] += f",{piece}"
        else:
            pieces.append(piece)
            if "{" in piece and "://" not in piece.partition("{")[0]:
                _rejoin_locator(pieces)
        depth += piece.count("{") - piece.count("}")
        if depth < 0:
            break
    if depth:
        raise ValueError(f"stack configuration {config!r}: a brace has no counterpart")
    return pieces


def _rejoin_locator(pieces: list[str]) -> None:
    """Join the last piece, which has the brace of a locator, with its beginning."""
    for at in range(len(pieces) - 2, -1, -1):
        if "://" in pieces[at]:
            pieces[at:] = [",".join(pieces[at:])]
            return


def open_stack(config: str, **options: Any) -> Stack:
    """Open a stack.

    config -- its name (``"lwip"``), or iothconf's string with everything in it:
        ``"stack=lwip,vnl=slirp://,ip=10.0.2.15/24,gw=10.0.2.2"``
    options -- what the stack's class takes: `vnl` or `link` for its network, `ip`
        (one address with prefix length, or a list), `gw` …; they win over the string

    Raises ValueError for an unknown stack, an option that it does not take or a bad
    value, and OSError when it cannot be opened here, with what is missing.
    """
    name = config
    if "=" in config:
        parsed = parse_config(config)
        chosen = parsed.pop("stack", None)
        if not isinstance(chosen, str):
            raise ValueError(f"stack configuration {config!r} needs exactly one stack=NAME")
        name, options = chosen, {**parsed, **options}
    cls = _stack_class(name)
    signature = inspect.signature(cls)
    try:
        signature.bind(**options)
    except TypeError as exc:
        takes = ", ".join(signature.parameters)
        unknown = next((key for key in options if key not in signature.parameters), "")
        raise ValueError(
            f"stack {name!r}: {exc}; it takes {takes or 'no options'}"
            f"{did_you_mean(unknown, signature.parameters)}"
        ) from None
    if why := cls.missing():
        raise OSError(errno.ENOSYS, f"stack {name!r} is not available: {why}")
    return cls(**options)
