"""The command line of ``vpoll-asyncio run``."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from .children import CHILDREN
from .loops import LOOPS
from .target import Target

__all__ = ["Options", "parse"]

_DRAIN: Final = 2.0
_STACK: Final = "VPOLL_STACK"

_EPILOG: Final = """\
CONFIG is what open_stack() takes: a stack's name, or key=value,key=value with stack=NAME in it;
name=LABEL there names it for vpoll_asyncio.stack_named("LABEL"). Without --stack it is taken from
the environment variable VPOLL_STACK. What follows SCRIPT, MODULE or CODE is the program's.
"""


class Options(NamedTuple):
    """What a command line asks for."""

    target: Target
    stacks: list[str]
    """Configurations; the first is the default stack."""
    loop: str | None
    backend: str | None
    pcap: str | None
    trace: str | None
    children: str | None
    drain: float
    """Seconds that the stacks get at the end to deliver what was sent."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vpoll-asyncio run",
        usage="vpoll-asyncio run --stack CONFIG [OPTIONS] (SCRIPT | -m MODULE | -c CODE) [ARGS...]",
        description="Run an unmodified Python program on a network stack of its own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stack",
        metavar="CONFIG",
        action="append",
        default=[],
        help="a stack to open; repeated, the first is the one that the program's sockets are on",
    )
    parser.add_argument(
        "--loop",
        choices=LOOPS,
        help="the event loop, whichever the program asks for; without it, uvloop's for a program "
        "that asks for uvloop, asyncio's else",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="how descriptors show a socket's events to the kernel's pollers: `vpoll-asyncio info` "
        "lists the names",
    )
    parser.add_argument(
        "--pcap", metavar="FILE", help="record the frames of the first stack's link"
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="record changes of sockets' event masks, a JSON line each"
    )
    parser.add_argument(
        "--children",
        choices=CHILDREN,
        help="the network of processes that the program starts: the stack's, none for those in "
        "Python, or the host's; without it, the stack's for vdestack, else none",
    )
    parser.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        default=_DRAIN,
        help="how long data that was sent may take to arrive once the program has ended "
        f"(default: {_DRAIN:g}; 0 drops it)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0 or more")
    return seconds


def _split(argv: Sequence[str]) -> tuple[list[str], Target | None]:
    """Return our own options and the program.

    Not argparse's work: it would look for options of ours among those of the program.
    """
    for position, argument in enumerate(argv):
        own, rest = list(argv[:position]), list(argv[position + 1 :])
        if position and argv[position - 1].startswith("--") and "=" not in argv[position - 1]:
            continue
        for kind in ("-m", "-c"):
            if argument == kind:
                return own, Target(kind, rest[0], rest[1:]) if rest else None
            if argument.startswith(kind):
                return own, Target(kind, argument[2:], rest)
        if argument == "--":
            return own, Target("script", rest[0], rest[1:]) if rest else None
        if argument == "-" or not argument.startswith("-"):
            return own, Target("script", argument, rest)
    return list(argv), None


def parse(argv: Sequence[str]) -> Options:
    """Return what the command line `argv`, without ``run`` itself, asks for.

    Raises SystemExit, as argparse does, for ``--help`` and a wrong command line.
    """
    parser = _parser()
    own, target = _split(argv)
    given = parser.parse_args(own)
    if target is None:
        parser.error("expected a program: SCRIPT, -m MODULE or -c CODE")
    stacks = given.stack or list(filter(None, [os.environ.get(_STACK)]))
    if not stacks:
        parser.error(f"expected --stack CONFIG (or {_STACK} in the environment)")
    return Options(
        target,
        stacks,
        given.loop,
        given.backend,
        given.pcap,
        given.trace,
        given.children,
        given.drain,
    )
