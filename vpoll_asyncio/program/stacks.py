"""The stacks of a command line: opened in its order, named, the first the default."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..links import Link, PcapLink, open_link
from ..stacks import Stack, open_stack, options_of, parse_config
from ..stacks.current import set_default_stack
from ..stacks.named import forget_stack, name_stack

__all__ = ["stacks_opened"]

# Seconds.  Who is started just before, to read a FIFO, may take a while to open it.
_READER_COMES: Final = 15.0
_LOOKS: Final = 0.05


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


def _recorder(link: Link, pcap: str) -> PcapLink:
    """`link`, recorded in the file `pcap`; a FIFO's reader is waited for."""
    deadline = time.monotonic() + _READER_COMES
    while True:
        try:
            return PcapLink(link, pcap)
        except OSError as error:
            nobody_yet = error.errno == errno.ENXIO and Path(pcap).is_fifo()
            if not nobody_yet or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOKS)


def _recorded(config: _Config, pcap: str) -> dict[str, Any]:
    """The options of `config` with a link that is recorded in the file `pcap`."""
    vnl = config.options.get("vnl")
    if not {"vnl", "link"} <= options_of(config.stack) or not isinstance(vnl, str):
        raise ValueError(
            f"--pcap {pcap!r}: the first stack, {config.stack}, has no link whose frames could be "
            "recorded: expected a stack with vnl=LOCATOR, as lwip or vdestack"
        )
    link = open_link(vnl)
    try:
        recorded = _recorder(link, pcap)
    except BaseException:
        link.close()
        raise
    return {
        **{key: value for key, value in config.options.items() if key != "vnl"},
        "link": recorded,
    }


def _open(config: _Config, pcap: str | None = None) -> Stack:
    options = config.options if pcap is None else _recorded(config, pcap)
    if "thread" not in options and "thread" in options_of(config.stack):
        # A blocking program never runs a loop that would drive the stack.
        options = {**options, "thread": True}
    try:
        return open_stack(config.stack, **options)
    except BaseException:
        if pcap is not None:
            options["link"].close()
        raise


def _drain(stacks: Sequence[Stack], seconds: float, opener: int) -> None:
    if seconds <= 0 or os.getpid() != opener:
        return
    deadline = time.monotonic() + seconds
    for stack in stacks:
        stack.drain(max(0, deadline - time.monotonic()))


@contextlib.contextmanager
def stacks_opened(
    configs: Sequence[str], pcap: str | None = None, drain: float = 0
) -> Iterator[list[Stack]]:
    """Open the stacks of `configs`, the first of which becomes the process's default.

    configs -- as for `open_stack`, with ``name=LABEL`` for `stack_named`
    pcap -- a file in which the frames of the first one's link are recorded
    drain -- seconds that they get at the end, together, to deliver what was sent

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
        opened: list[Stack] = []
        for config in parsed:
            stack = undo.enter_context(_open(config, None if opened else pcap))
            opened.append(stack)
            if config.label is not None:
                name_stack(config.label, stack)
                undo.callback(forget_stack, config.label)
        undo.callback(set_default_stack, set_default_stack(opened[0]))
        undo.callback(_drain, opened, drain, os.getpid())
        yield opened
