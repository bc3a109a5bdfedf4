"""Imports go down only, and nobody reaches into another module's private names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vpoll_asyncio"

LAYERS: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            {
                "_asyncio",
                "ending",
                "events",
                "kernel",
                "native",
                "requirements",
                "sleeper",
                "suggestions",
            },
            {"hot"},
            {"backends"},
            {"vpoll"},
            {"relay", "selector"},
            {"watch"},
            {"advice", "descriptors", "libvpoll", "sockaddr"},
            {"lookups", "sockhooks"},
            {"delegated", "signalling", "tlschannel"},
            {"sockettransfer"},
            {"sockets"},
            {"tlssockets"},
            {"guards"},
            {"descriptorcalls"},
            {"links"},
            {"stacks"},
            {"install", "transports"},
            {"loops", "streams", "waiting"},
            {"forward"},
            {"__init__"},
            {"demo", "program"},
            {"cli"},
            {"__main__"},
            {"testing"},
        ),
    )
)
"""Lowest first; a part imports from layers below its own, and from itself."""

RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    """The file or folder directly under the package that `module` belongs to."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that runs, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.stmt) and for_types_only(node)):
            yield from imports(node)


def imported_parts(module: Path) -> Iterator[tuple[int, str]]:
    """(line, part) for each import of something of this package's."""
    package = ["vpoll_asyncio", *module.relative_to(PACKAGE).parts[:-1]]
    for node in imports(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
        for name in names:
            root, _, rest = name.partition(".")
            if root == "vpoll_asyncio":
                part = rest.partition(".")[0]
                known = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()
                yield node.lineno, part if part and known else "__init__"


@pytest.mark.parametrize("part", sorted({part_of(module) for module in MODULES}))
def test_part_has_a_layer(part: str) -> None:
    assert part in RANK, f"say in tests/test_layers.py which layer {part} is in"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(module: Path) -> None:
    own = part_of(module)
    upward = [
        f"{module.relative_to(PACKAGE.parent)}:{line} imports {part}"
        for line, part in imported_parts(module)
        if part != own and RANK.get(part, 0) >= RANK.get(own, len(LAYERS))
    ]
    assert not upward


def defined_private_names(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, attributes, slots."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                names.add(name)
            case ast.Constant(value=str(name)) if name.isidentifier():
                names.add(name)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def foreign_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) for each private attribute of something other than the object itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name, value = node.attr, node.value
            itself = isinstance(value, ast.Name) and value.id in ("self", "cls")
            parent = isinstance(value, ast.Call) and ast.unparse(value.func) == "super"
            if name.startswith("_") and not name.startswith("__") and not itself and not parent:
                yield node.lineno, name


def test_no_module_uses_the_private_names_of_another() -> None:
    trees = {module: ast.parse(module.read_text()) for module in MODULES}
    defined = {module: defined_private_names(tree) for module, tree in trees.items()}
    ours = set().union(*defined.values())
    # What asyncio keeps private is the whole subject of these modules.
    for module in ("_asyncio.py", "loops/turn.py"):
        trees.pop(PACKAGE / module)
    uses = [
        f"{module.relative_to(PACKAGE.parent)}:{line} uses {name}"
        for module, tree in trees.items()
        for line, name in foreign_uses(tree)
        if name in ours - defined[module]
    ]
    assert not uses


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_are_imported_within_a_folder_only(module: Path) -> None:
    outside = len(module.relative_to(PACKAGE).parts)
    private = [
        f"{module.relative_to(PACKAGE.parent)}:{node.lineno} imports {alias.name}"
        for node in imports(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level >= outside
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not private


def loaded_by(module: str, names: set[str]) -> str:
    """Which of the modules `names` an import of `module` loads, as a sorted list's text."""
    program = f"import sys, {module}; print(sorted({names!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_package_loads_no_optional_dependency() -> None:
    assert loaded_by("vpoll_asyncio", {"cffi", "uvloop"}) == "[]"


def test_importing_the_testing_package_loads_neither_hypothesis_nor_pytest() -> None:
    assert loaded_by("vpoll_asyncio.testing", {"_pytest", "hypothesis"}) == "[]"
