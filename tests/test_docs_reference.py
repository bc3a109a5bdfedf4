"""The reference lists what the code has, all of it and nothing else."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys

import pytest

from processes import ROOT
from vpoll_asyncio import EventMask, backends, stacks

REFERENCE = ROOT / "docs" / "reference"
PACKAGE = ROOT / "vpoll_asyncio"
# Of `open_stack` only: objects, which a string cannot have.
OBJECTS = {"link", "interfaces"}
OWN_STACKS = ("memory", "lwip", "vdestack", "null", "host")


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def section(text: str, heading: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row whose first begins with code."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vpoll_asyncio", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_options_of_run_are_those_of_its_help() -> None:
    table = {
        option
        for row in rows(section(page("cli.md"), "`run`"))
        for option in re.findall(r"`(--?\w[\w-]*)", row[0])
    }
    assert table == set(re.findall(r"^  (?:-h, )?(--\w[\w-]*)", help_of("run"), re.M)) | {"-h"}


@pytest.mark.parametrize("option", ["--loop", "--children"])
def test_choices_of_run_are_those_of_its_help(option: str) -> None:
    cell = next(row[0] for row in rows(page("cli.md")) if row[0].startswith(f"`{option}"))
    choices = re.search(rf"^  {option} {{(.*)}}", help_of("run"), re.MULTILINE)
    assert choices
    assert re.findall(rf"`{option} (\w+)`", cell) == choices[1].split(",")


def test_drain_is_by_default_what_the_help_says() -> None:
    cell = next(row[1] for row in rows(page("cli.md")) if row[0].startswith("`--drain"))
    default = re.search(r"\(default:\s+(\d+)", help_of("run"))
    assert default
    assert f"{default[1]} by default" in cell


def test_commands_are_those_of_the_help() -> None:
    table = {row[0].strip("`") for row in rows(page("cli.md").split("\n## ")[0])}
    commands = set(re.findall(r"^    (\w+) ", help_of(), re.MULTILINE))
    assert table == commands | {"--version"}


@pytest.mark.parametrize("command", ["info", "build", "demo"])
def test_options_of_the_other_commands_are_on_the_page(command: str) -> None:
    row = next(row for row in rows(page("cli.md")) if row[0] == f"`{command}`")
    options = set(re.findall(r"(--[a-z][\w-]*)", help_of(command))) - {"--help"}
    assert set(re.findall(r"`(--[\w-]+)", " ".join(row))) == options


def test_variables_of_the_environment_are_those_that_are_read() -> None:
    read = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read |= set(re.findall(r"^(VPOLL_[A-Z_]+|VDEPLUGIN_PATH|XDG_\w+|CC)$", node.value))
    # Names of libvpoll's constants.
    read -= {name for name in read if name.startswith("VPOLL_CTL_")}
    assert {row[0].strip("`") for row in rows(section(page("cli.md"), "Environment"))} == read


def keys() -> dict[str, set[str]]:
    """The stacks of each key, as the page has them."""
    found: dict[str, set[str]] = {}
    for key, _, where in rows(section(page("stack-string.md"), "Keys")):
        named = set(OWN_STACKS) if where == "all" else set(re.findall(r"`(\w+)`", where))
        found |= dict.fromkeys(re.findall(r"`(\w+)`", key), named)
    return found


@pytest.mark.parametrize("name", OWN_STACKS)
def test_keys_of_a_stack_are_its_options(name: str) -> None:
    listed = {key for key, where in keys().items() if name in where}
    assert listed == (stacks.options_of(name) - OBJECTS) | {"stack"}


def test_every_stack_of_ours_is_on_the_page() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    targets = re.findall(r'^(\w+) = "vpoll_asyncio\.stacks', project, re.MULTILINE)
    assert set(targets) == set(OWN_STACKS)


def test_keys_of_a_further_interface_are_those_that_it_takes() -> None:
    shown = re.search(r"an interface has \(([^)]+)\)", page("stack-string.md").replace("\n", " "))
    assert shown
    listed = set(re.findall(r"`(\w+)`", shown[1]))
    taken = set()
    for key in keys().keys() - {"iface"}:
        parsed = stacks.parse_config(f"vnl=tap://a,iface=b,{key}=value")
        if key in parsed.get("interfaces", [{}])[0]:
            taken.add(key)
    assert listed == taken


PACKAGES = (
    "vpoll_asyncio",
    "vpoll_asyncio.backends",
    "vpoll_asyncio.forward",
    "vpoll_asyncio.libvpoll",
    "vpoll_asyncio.links",
    "vpoll_asyncio.loops",
    "vpoll_asyncio.stacks",
    "vpoll_asyncio.stacks.memory",
    "vpoll_asyncio.stacks.null",
    "vpoll_asyncio.stacks.streams",
    "vpoll_asyncio.stacks.vdestack",
    "vpoll_asyncio.testing",
)


def described() -> list[str]:
    """What the pages of the API have the docstrings of."""
    pages = (REFERENCE / "api").glob("*.md")
    return [name for path in pages for name in re.findall(r"^::: (\S+)$", path.read_text(), re.M)]


def named(identifier: str) -> object:
    module, _, name = identifier.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.needs("uvloop")
def test_api_describes_everything_public_once() -> None:
    names = described()
    assert len(set(names)) == len(names)
    there = {id(named(name)) for name in names}
    public = {
        f"{package}.{name}": getattr(importlib.import_module(package), name)
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
    }
    assert not {name for name, value in public.items() if id(value) not in there}


ALL = (1 << 28) - 1
NAMED = EventMask(sum(EventMask))


def exact_set(text: str) -> int:
    whole = {"all": ALL, "all but bit 14": ALL & ~(1 << 14), "every event with a name": int(NAMED)}
    if text in whole:
        return whole[text]
    return EventMask(sum(EventMask[name] for name in text.split(", ")))


def test_exact_sets_of_the_backends_are_those_in_force() -> None:
    table = {
        row[0].strip("`"): exact_set(row[2])
        for row in rows(section(page("backends.md"), "Which one is taken"))
        if len(row) == 5
    }
    assert table == {info.name: info.exact for info in backends()}
