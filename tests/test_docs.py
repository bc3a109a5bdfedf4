"""What the documentation shows is run; what it links to exists; what is public is described.

Each ``python`` block runs in an interpreter of its own, warnings being errors; a ``text`` block
right behind it is what it prints.  tests/doc_blocks.py has the rest, and test_docs_commands.py
the blocks that are typed at a shell.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import vpoll_asyncio
from doc_blocks import PAGES, Block, as_parameters, blocks, blocks_of, run_block, scratch
from processes import ROOT, free_port
from vpoll_asyncio import EventMask
from vpoll_asyncio.backends.pair import NEAREST
from vpoll_asyncio.hot.accelerator import ACCELERATOR


@pytest.mark.parametrize("block", as_parameters("python"))
def test_python_block_runs(block: Block) -> None:
    # The port that the pages use may be taken here.
    block = block._replace(code=block.code.replace("8080", str(free_port())))
    with scratch() as folder:
        done = run_block(block, folder)
    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs_or_says_why_not(page: Path) -> None:
    found = blocks_of(page)
    silent = []
    for block in found:
        used = block.directives.get("file")
        if used is not None:
            # A file is what others run or import.
            users = [o for o in found if o.line > block.line and (o.runs or "file" in o.directives)]
            explained = any(re.search(rf"\b{Path(used).stem}\b", user.code) for user in users)
        else:
            explained = block.runs or bool(block.directives.get("not-run"))
        if not explained:
            silent.append(f"{block.page}:{block.line}: ```{block.language}")
    assert not silent
    if page.parent != ROOT:
        # Indented code would be seen by nobody here.
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^\n {4,}\S.*$", text, re.MULTILINE)


def test_readme_names_targets_of_the_makefile() -> None:
    named = re.findall(r"^    make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(targets)


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
