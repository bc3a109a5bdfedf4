"""The command line: what it prints, where, and its exit status."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import vpoll_asyncio
from vpoll_asyncio import backends, cli, links, native, stacks

ROOT = Path(__file__).parent.parent

Printed = pytest.CaptureFixture[str]


def rows(printed: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Title's first word -> name -> (available, remark), out of what `info` prints."""
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    for line in printed.splitlines():
        if title := re.match(r"(\w+): ", line):
            table = tables[title[1]] = {}
        elif row := re.match(r"  (\S+) +(yes|no) *(.*)", line):
            table[row[1]] = (row[2], row[3])
    return tables


def test_info_lists_what_the_library_knows(capsys: Printed) -> None:
    assert cli.main(["info"]) == 0
    tables = rows(capsys.readouterr().out)
    assert list(tables) == [
        "Backends",
        "Stacks",
        "Links",
        "Accelerator",
        "Names",
        "DHCP",
        "Loops",
    ]
    assert list(tables["Backends"]) == [info.name for info in backends()]
    assert list(tables["Stacks"]) == [info.name for info in stacks.available()]
    assert list(tables["Links"]) == [info.name for info in links.available()]
    assert list(tables["Loops"]) == ["asyncio", "uvloop"]


def test_info_says_what_looks_names_up(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    cli.main(["info"])
    assert rows(capsys.readouterr().out)["Names"] == {"dnspython": ("yes", "dnspython 9.9")}

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    cli.main(["info"])
    table = rows(capsys.readouterr().out)["Names"]
    assert table == {"dnspython": ("no", "pip install 'vpoll-asyncio[dns]'")}


def test_info_says_what_is_missing(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = [SimpleNamespace(name="absent", available=False, why="install the package absent")]
    monkeypatch.setattr(stacks, "available", lambda: absent)
    monkeypatch.setattr(links, "available", lambda: absent)
    assert cli.main(["info"]) == 0
    tables = rows(capsys.readouterr().out)
    assert tables["Stacks"] == {"absent": ("no", "install the package absent")}
    assert tables["Links"] == {"absent": ("no", "install the package absent")}


def test_info_names_the_events_of_an_exact_set(capsys: Printed) -> None:
    assert cli.main(["info"]) == 0
    table = rows(capsys.readouterr().out)["Backends"]
    assert table["virtual"][1].startswith("exact: all events")
    assert table["unixpair"][1].startswith("exact: IN OUT")


@pytest.mark.needs("lwip")
def test_info_has_lwip_s_version_from_the_library(capsys: Printed) -> None:
    assert cli.main(["info"]) == 0
    assert re.fullmatch(
        r"lwIP \d+\.\d+\.\d+\w*", rows(capsys.readouterr().out)["Stacks"]["lwip"][1]
    )


def test_info_says_why_lwip_does_not_load(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> ModuleType:
        raise native.NativeError(errno.EIO, "the compiler failed")

    lwip = stacks.StackInfo("lwip", True, "")
    monkeypatch.setattr(stacks, "available", lambda: [lwip])
    monkeypatch.setattr(native, "load", load)
    assert cli.main(["info"]) == 0
    assert rows(capsys.readouterr().out)["Stacks"]["lwip"] == ("no", "the compiler failed")


def test_version_is_the_package_s(capsys: Printed) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vpoll_asyncio {vpoll_asyncio.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["info", "more"], ["--nonsense"]])
def test_wrong_command_line_exits_with_2_and_the_usage(argv: list[str], capsys: Printed) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: vpoll-asyncio")


@pytest.mark.parametrize("command", ["run", "info", "demo", "build"])
def test_help_of_a_command_begins_with_its_usage_and_says_what_it_does(
    command: str, capsys: Printed
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: vpoll-asyncio {command}")
    assert rest[0].isupper()


def test_help_of_the_package_names_what_there_is() -> None:
    text = pydoc.plain(pydoc.render_doc(vpoll_asyncio))
    assert text.startswith("Python Library Documentation: package vpoll_asyncio")
    described = re.findall(r"`([a-zA-Z_]+)`", vpoll_asyncio.__doc__ or "")
    assert "open_stack" in described
    assert set(described) <= set(vpoll_asyncio.__all__)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("vpoll_asyncio.demo")
    monkeypatch.setitem(sys.modules, "vpoll_asyncio.demo", module)
    return module


@pytest.mark.parametrize("status", [0, 1])
def test_demo_gets_its_arguments_and_gives_its_status(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    calls: list[list[str]] = []

    def main(argv: list[str]) -> int:
        calls.append(argv)
        return status

    monkeypatch.setattr(demo, "main", main, raising=False)
    assert cli.main(["demo", "--loop", "uvloop"]) == status
    assert calls == [["--loop", "uvloop"]]


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(98, "Address already in use"), 1, "vpoll-asyncio: [Errno 98] Address already"),
    ],
)
def test_failure_gives_a_status_and_no_traceback(
    demo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Printed,
    raised: BaseException,
    status: int,
    said: str,
) -> None:
    def main(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr(demo, "main", main, raising=False)
    assert cli.main(["demo"]) == status
    assert capsys.readouterr().err.startswith(said)


def test_build_fails_when_nothing_can_be_built(
    monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    failed = native.Built("lwip", None, "no cc: install gcc")
    monkeypatch.setattr(native, "build_all", lambda: [failed])
    assert cli.main(["build"]) == 1
    assert capsys.readouterr().err == "lwip: not built: no cc: install gcc\n"


@pytest.mark.needs("lwip")
def test_build_names_the_files_that_it_made(capsys: Printed) -> None:
    assert cli.main(["build"]) == 0
    name, _, path = capsys.readouterr().out.splitlines()[0].partition(": ")
    assert name == "lwip"
    assert Path(path).is_file()


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "vpoll_asyncio", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_module_runs_as_a_program() -> None:
    with run("info") as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    assert list(rows(out)["Backends"]) == [info.name for info in backends()]


def test_reader_that_goes_away_brings_no_traceback() -> None:
    with run("info") as program:
        assert program.stdout is not None
        program.stdout.close()
        assert program.stderr is not None
        assert program.stderr.read() == ""
    assert program.returncode == 1


def test_script_of_the_package_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    target = scripts["project"]["scripts"]["vpoll-asyncio"]
    module, _, attribute = target.partition(":")
    assert getattr(importlib.import_module(module), attribute) is cli.main


def test_entry_points_are_the_stacks_that_need_no_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]["entry-points"]["vpoll_asyncio.stacks"]
    assert declared.keys() <= {info.name for info in stacks.available()}
