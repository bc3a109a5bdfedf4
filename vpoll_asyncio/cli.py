"""The command line: ``python -m vpoll_asyncio run | info | demo | build``, or ``vpoll-asyncio``.

Exit status: 0 for success, 1 for a failure, whose reason is on standard error, 2 for a
wrong command line, 130 after Ctrl-C; of ``run`` it is the program's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

__all__ = ["main"]

_PROGRAM: Final = "vpoll-asyncio"
_INTERRUPTED: Final = 130


class _Part(Protocol):
    """What `backends()`, `stacks.available()` and `links.available()` list."""

    @property
    def name(self) -> str: ...
    @property
    def available(self) -> bool: ...
    @property
    def why(self) -> str: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: ``sys.argv[1:]``) and return its exit status.

    Raises SystemExit, as argparse does, for ``--help``, ``--version`` and a wrong
    command line; and what the program of ``run`` raises to end itself.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["run"]:
        return _run(arguments[1:])
    return _own(arguments)


def _run(argv: Sequence[str]) -> int:
    from .program import main as run_program

    return run_program(argv)


def _own(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Virtual file descriptors and user-space network stacks for asyncio.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", add_help=False, help="run a Python program on a stack")
    for name, about in (
        ("info", "what is available here, and what is missing for the rest"),
        ("build", "compile the native helpers ahead of their first use"),
    ):
        commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    commands.add_parser(
        "demo",
        add_help=False,
        help="an ordinary asyncio HTTP server on a user-space stack, fetched by this host",
    )
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "demo":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command is None and not arguments.version:
        parser.error("expected a command: run, info, demo or build")

    try:
        if arguments.version:
            print(_version_line())
            status = 0
        elif arguments.command == "info":
            status = _info()
        elif arguments.command == "build":
            status = _build()
        else:
            status = _demo(rest)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; flushing at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    return status


def _version_line() -> str:
    from . import __version__

    return f"vpoll_asyncio {__version__}"


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rows(parts: Iterable[_Part]) -> list[tuple[str, str, str]]:
    return [(part.name, "yes" if part.available else "no", part.why) for part in parts]


def _accelerator() -> tuple[str, str]:
    from . import native
    from .hot.accelerator import ACCELERATOR, CHOICE

    if ACCELERATOR is not None:
        return "yes", ""
    if os.environ.get(CHOICE) == "0":
        return "no", f"{CHOICE}=0"
    return "no", native.missing("hot") or "`vpoll-asyncio build` compiles it"


def _info() -> int:
    from . import links, stacks
    from .backends import backends

    system = f"{platform.system()} {platform.release()}"
    print(f"{_version_line()}, Python {platform.python_version()}, {system}")

    listing = backends()
    names = {info.name: _events(int(info.exact)) for info in listing}
    _table(
        "Backends: how the kernel's pollers see a vpoll, fastest first",
        [
            (name, there, f"exact: {names[name]}" + (f"; {why}" if why else ""))
            for name, there, why in _rows(listing)
        ],
    )
    _table(
        "Stacks: open_stack(NAME, ...)",
        [
            (name, *(_lwip() if (name, there) == ("lwip", "yes") else (there, why)))
            for name, there, why in _rows(stacks.available())
        ],
    )
    _table("Links: vnl=SCHEME://...", _rows(links.available()))
    _table("Accelerator: events and memory streams in C", [("hot", *_accelerator())])
    dnspython = _distribution("dnspython")
    _table(
        "Names: open_stack(..., dns=ADDRESS)",
        [
            (
                "dnspython",
                "yes" if dnspython else "no",
                f"dnspython {dnspython}" if dnspython else "pip install 'vpoll-asyncio[dns]'",
            )
        ],
    )
    dpkt = _distribution("dpkt")
    _table(
        "DHCP: open_stack('lwip', ..., dhcp=True), or auto=True",
        [
            (
                "dpkt",
                "yes" if dpkt else "no",
                f"dpkt {dpkt}" if dpkt else "pip install 'vpoll-asyncio[dhcp]'",
            )
        ],
    )
    uvloop = _distribution("uvloop")
    _table(
        'Loops: run(..., loop="NAME")',
        [
            ("asyncio", "yes", f"Python {platform.python_version()}"),
            (
                "uvloop",
                "yes" if uvloop else "no",
                f"uvloop {uvloop}" if uvloop else "pip install 'vpoll-asyncio[uvloop]'",
            ),
        ],
    )
    return 0


def _lwip() -> tuple[str, str]:
    """(available, remark) from the library itself, for which its helper is compiled."""
    from . import native

    try:
        module = native.load("lwip")
    except OSError as error:
        return "no", error.strerror or str(error)
    abi = module.ffi.new("struct vp_abi *")
    module.lib.vp_abi(abi)
    return "yes", f"lwIP {module.ffi.string(abi.version).decode()}"


def _events(exact: int) -> str:
    from .events import EventMask

    named = [event for event in EventMask if event.name]
    if all(exact & event for event in named):
        return "all events"
    return " ".join(event.name or "" for event in named if exact & event)


def _table(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    print(f"\n{title}")
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, available, remark in rows:
        print(f"  {name:<{width}}  {available:<3}  {remark}".rstrip())


def _build() -> int:
    from . import native

    results = native.build_all()
    for helper in results:
        if helper.path is None:
            print(f"{helper.name}: not built: {helper.why}", file=sys.stderr)
        else:
            print(f"{helper.name}: {helper.path}")
    return 0 if any(helper.path for helper in results) else 1


def _demo(argv: Sequence[str]) -> int:
    from .demo import main as run_demo

    return run_demo(argv)
