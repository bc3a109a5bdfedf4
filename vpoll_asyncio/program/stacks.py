"""The stacks of a command line: opened in its order, named, the first the default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..stacks import Stack, open_stack, options_of, parse_config
from ..stacks.current import set_default_stack
from ..stacks.named import forget_stack, name_stack

__all__ = ["stacks_opened"]


class _Config(NamedTuple):
    stack: str
    label: str | None
    options: dict[str, Any]


def _parse(config: str) -> _Config:
    if "=" not in config:
        return _Config(config, None, {})
    options = parse_config(config)
    stack, label = options.pop("stack", None), options.pop("name", None)
    if not isinstance(stack, str):
        raise ValueError(f"stack configuration {config!r} needs exactly one stack=NAME")
    if isinstance(label, list):
        raise ValueError(f"stack configuration {config!r} has more than one name=LABEL")
    return _Config(stack, label, dict(options))


def _open(config: _Config) -> Stack:
    options = config.options
    if "thread" not in options and "thread" in options_of(config.stack):
        # A blocking program never runs a loop that would drive the stack.
        options = {**options, "thread": True}
    return open_stack(config.stack, **options)


@contextlib.contextmanager
def stacks_opened(configs: Sequence[str]) -> Iterator[list[Stack]]:
    """Open the stacks of `configs`, the first of which becomes the process's default.

    configs -- as for `open_stack`, with ``name=LABEL`` for `stack_named`

    A stack that takes the option ``thread`` gets it, unless the configuration has it.
    They are closed in the opposite order at the end.

    Raises ValueError for a configuration that is wrong and for a stack that nobody could
    reach, and what `open_stack` raises.
    """
    parsed = [_parse(config) for config in configs]
    for text, config in zip(configs[1:], parsed[1:], strict=True):
        if config.label is None:
            raise ValueError(
                f"--stack {text!r}: the program could not reach a second stack without a name: "
                "add name=LABEL, which vpoll_asyncio.stack_named('LABEL') finds"
            )
    with contextlib.ExitStack() as undo:
        opened = []
        for config in parsed:
            stack = undo.enter_context(_open(config))
            opened.append(stack)
            if config.label is not None:
                name_stack(config.label, stack)
                undo.callback(forget_stack, config.label)
        undo.callback(set_default_stack, set_default_stack(opened[0]))
        yield opened
