"""What the documentation shows is run; what it links to exists; what is public is described.

In README.md and below docs/ every ``python`` block runs in an interpreter of its own, warnings
being errors.  A ``text`` block right behind it is what it prints.  In ``console`` blocks the
lines ``$ python -m vpoll_asyncio ...`` run.  An HTML comment before a block says what it needs
(``<!-- needs: lwip slirp -->``, names of tests/needs.py) or, for real devices only, why it does
not run (``<!-- not-run: reason -->``).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import vpoll_asyncio
from processes import free_port
from vpoll_asyncio import EventMask
from vpoll_asyncio.backends.pair import NEAREST
from vpoll_asyncio.hot.accelerator import ACCELERATOR

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- *(?P<directive>needs|not-run): *(?P<argument>[^>]*?) *-->\n+)?"
    r"^```(?P<language>python|console)\n(?P<code>.*?)^```\n"
    r"(?:\n*^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    output: str | None
    needs: tuple[str, ...]


def blocks() -> Iterator[Block]:
    """Every block that runs."""
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            if found["directive"] == "not-run":
                continue
            yield Block(
                str(page.relative_to(ROOT)),
                text.count("\n", 0, found.start("code")) + 1,
                found["language"],
                found["code"],
                found["output"],
                tuple((found["argument"] or "").split()),
            )


def shown(language: str) -> list[object]:
    return [
        pytest.param(
            block,
            id=f"{block.page}:{block.line}",
            marks=[pytest.mark.needs(*block.needs)] if block.needs else [],
        )
        for block in blocks()
        if block.language == language
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("block", shown("python"))
def test_python_block_runs(block: Block) -> None:
    # The port that the pages use may be taken here.
    done = run("-W", "error", "-c", block.code.replace("8080", str(free_port())))
    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


@pytest.mark.parametrize("block", shown("console"))
def test_console_block_runs(block: Block) -> None:
    for line in block.code.splitlines():
        if line.startswith("$ python "):
            done = run(*shlex.split(line)[2:])
            assert (done.returncode, done.stderr) == (0, ""), line


def test_readme_shows_an_example() -> None:
    assert [block for block in blocks() if (block.page, block.language) == ("README.md", "python")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert not {page for page in pages - {"index.md"} if f"({page})" not in index}


def test_table_of_nearest_wakeups_is_the_one_in_force() -> None:
    page = (ROOT / "docs" / "reference" / "backends.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([A-Z ]+) \|$", page, re.MULTILINE)
    table = {
        EventMask[event]: EventMask(sum(EventMask[name] for name in shown.split()))
        for event, shown in rows
    }
    assert table == NEAREST


def test_demo_server_imports_the_standard_library_only() -> None:
    tree = ast.parse((ROOT / "docs" / "http_server.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").partition(".")[0])
    assert not imported - sys.stdlib_module_names


def modules() -> list[str]:
    found = pkgutil.walk_packages(vpoll_asyncio.__path__, "vpoll_asyncio.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    return ["vpoll_asyncio", *names]


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """(name, object) for what a module defines for others, methods of its classes included."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for attribute, member in vars(value).items():
                described = inspect.isroutine(member) or isinstance(member, property)
                if not attribute.startswith("_") and described:
                    yield f"{name}.{attribute}", getattr(value, attribute)
        elif inspect.isroutine(value):
            yield name, value


# The compiled classes have the descriptions of those in Python, which are absent where they run.
if ACCELERATOR is None:

    @pytest.mark.parametrize("name", modules())
    def test_public_names_are_described(name: str) -> None:
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        bare = [what for what, value in public(module) if not inspect.getdoc(value)]
        assert not bare


@pytest.mark.parametrize("name", modules())
def test_names_in_all_exist(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert not [item for item in listed if not hasattr(module, item)]
    assert len(set(listed)) == len(listed)
