"""The code that the documentation shows, as a reader would type it.

A line of HTML comment before a block says what no reader needs to see:

``<!-- needs: lwip slirp -->``  what running it takes, names of tests/needs.py
``<!-- file: NAME -->``         the block is a file, or its next part, which later blocks use
``<!-- not-run: REASON -->``    why nobody runs it here
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from processes import ROOT, SECONDS

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

SHELLS = ("sh", "console")
# Nothing leaves it, and nothing outlives it: a network and processes of its own.
SANDBOX = ("unshare", "-U", "-r", "-n", "-p", "-f", "--mount-proc", "--kill-child")

_DIRECTIVE = re.compile(r"<!-- *(needs|file|not-run): *(.*?) *-->")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    directives: dict[str, str]
    output: str | None = None
    """What it prints: the ``text`` block behind it."""

    @property
    def needs(self) -> list[str]:
        return self.directives.get("needs", "").split()

    @property
    def runs(self) -> bool:
        wanted = self.language == "python" or self.language in SHELLS
        return wanted and not {"file", "not-run"} & self.directives.keys()


def blocks_of(page: Path) -> list[Block]:
    """Return every fenced block of a page."""
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    found: list[Block] = []
    directives: dict[str, str] = {}
    follows = False
    for number, line in lines:
        if line.startswith("```"):
            language, code = line[3:].strip(), []
            for _, inside in lines:
                if inside.startswith("```"):
                    break
                code.append(f"{inside}\n")
            else:
                raise AssertionError(f"{page}:{number}: this block has no end")
            text = "".join(code)
            if language == "text" and follows and found[-1].runs:
                found[-1] = found[-1]._replace(output=text)
            else:
                name = str(page.relative_to(ROOT))
                found.append(Block(name, number, language, text, directives))
            directives, follows = {}, True
        elif directive := _DIRECTIVE.fullmatch(line):
            directives[directive[1]] = directive[2]
        elif line.strip():
            directives, follows = {}, False
    return found


def blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks_of(page)


def as_parameters(*languages: str) -> list[object]:
    """Return the blocks that run, for ``pytest.mark.parametrize``."""
    return [
        pytest.param(
            block,
            id=f"{block.page}:{block.line}",
            marks=[pytest.mark.needs(*block.needs)] if block.needs else [],
        )
        for block in blocks()
        if block.runs and block.language in languages
    ]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    # Short: the name of a UNIX socket has 108 bytes.
    with tempfile.TemporaryDirectory(prefix="docs") as name:
        yield Path(name)


def lay_out(block: Block, folder: Path) -> None:
    """Make `folder` what a reader has before him: the page's files and the commands."""
    for other in blocks_of(ROOT / block.page):
        if "file" in other.directives and other.line < block.line:
            with (folder / other.directives["file"]).open("a") as file:
                file.write(other.code)
    commands = folder / ".bin"
    commands.mkdir()
    python = shlex.quote(sys.executable)
    for name, command in (
        ("python", python),
        ("vpoll-asyncio", f"{python} -m vpoll_asyncio"),
    ):
        (commands / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (commands / name).chmod(0o755)


def script_of(block: Block) -> tuple[str, str | None]:
    """Return the commands of a shell's block, and what they print where the page says so."""
    if block.language == "sh":
        return block.code, block.output
    lines = block.code.splitlines(keepends=True)
    commands = "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    printed = "".join(line for line in lines if not line.startswith("$ "))
    return commands, printed or block.output


def run_block(block: Block, folder: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run a block in `folder`, which takes the place of ``/tmp`` too."""
    lay_out(block, folder)
    if block.language == "python":
        command = [sys.executable, "-W", "error", "-c"]
        code = block.code
    else:
        command = ["bash", "-euo", "pipefail", "-c"]
        code = f"ip link set lo up\n{script_of(block)[0]}"
    return subprocess.run(
        [*prefix, *command, code.replace("/tmp/", f"{folder}/")],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder}/.bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            # As where the library is installed.
            "PYTEST_PLUGINS": "pytest_vpoll_asyncio",
            # Hypothesis then has no deadline, which a busy machine would miss.
            "CI": "true",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
