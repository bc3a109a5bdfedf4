"""Test suites of others, as they are, over our stacks and on our loops by the plugin's options.

They are run in an empty network namespace, so that only the stack can carry them.  Each
comes with its project's source distribution, of a pinned version, which pip downloads once.
The whole of a suite runs with ``VPOLL_TEST_LONG=1``, else some of its files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from processes import ROOT

LONG = os.environ.get("VPOLL_TEST_LONG") == "1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpoll_asyncio_tests"
EMPTY = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-U", "-r", "-n")


class Project(NamedTuple):
    """A project whose suite runs."""

    requirement: str
    sha256: str
    imports: str
    """The folder of its tree that is on the path."""
    tests: str
    some: tuple[str, ...]
    """The files that are run always."""
    deselected: dict[str, str]
    """Tests that are left out, and why."""
    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    """Requirements that pip puts beside it."""


AIOFTP = Project(
    requirement="aioftp==0.28.3",
    sha256="f054f3af285b4958621220f04ce755e58907140181e95efa859369091c92d040",
    imports="src",
    tests="tests",
    some=("test_passive.py", "test_client_side_socks.py", "test_tls.py"),
    deselected={},
)
"""pytest-asyncio: clients and servers on one loop, two connections a transfer, a SOCKS proxy."""

AIOSMTPD = Project(
    requirement="aiosmtpd==1.4.6",
    sha256="5a811826e1a5a06c25ebc3e6c4a704613eb9a1bcf6b78428fbe865f4f6c9a4b8",
    imports=".",
    tests="aiosmtpd/tests",
    some=(),
    deselected={
        "test_main.py::TestMainByWatcher::test_tls": "a child process connects",
        "test_main.py::TestMainByWatcher::test_tls_noreq": "a child process connects",
        "test_main.py::TestMainByWatcher::test_smtps": "a child process connects",
        "test_server.py::TestController::test_testconn_raises": "patches the kernel's sockets",
        "test_server.py::TestUnthreaded::test_unixsocket": "fails on Python 3.13 anywhere",
        "test_smtp.py::TestSleepingHandler::test_close_after_helo": "is a race of 10 ms",
    },
    # Some of its fixtures live as long as their module.
    options=("-W", "ignore::UserWarning", "--vpoll-stack-scope", "module"),
    # pkg_resources went later.
    needed=("setuptools==80.9.0",),
)
"""Servers in threads of their own, and smtplib, which blocks."""


def pip(*arguments: str) -> None:
    """Run pip; skip, which is a failure in CI, where it cannot be had or reaches no index."""
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"pip {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")


def unpacked(project: Project, folder: Path) -> Path:
    """Return the project's tree, unpacked in `folder`; what was downloaded is kept for later."""
    name, _, version = project.requirement.partition("==")
    archive = CACHE / f"{name}-{version}.tar.gz"
    if not archive.exists():
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{project.requirement} --hash=sha256:{project.sha256}\n")
        pip("download", "--no-deps", "--no-binary", name, "-r", str(wanted), "-d", str(folder))
        CACHE.mkdir(parents=True, exist_ok=True)
        # Atomic: others may do the same now.
        (folder / archive.name).replace(archive)
    with tarfile.open(archive) as tree:
        tree.extractall(folder, filter="data")
    return folder / f"{name}-{version}"


def run_suite(project: Project, folder: Path, *options: str) -> dict[str, int]:
    """Run the suite; return how many tests had each outcome."""
    tree = unpacked(project, folder)
    path = [str(ROOT), str(tree / project.imports)]
    if project.needed:
        beside = folder / "beside"
        pip("install", "--quiet", "--target", str(beside), *project.needed)
        path.append(str(beside))
    done = subprocess.run(
        [
            *EMPTY,
            *(sys.executable, "-m", "pytest", "-q", "-p", "pytest_vpoll_asyncio"),
            *("-p", "no:cacheprovider", "-o", "addopts=", *project.options, *options),
            *(f"--deselect={project.tests}/{test}" for test in project.deselected),
            *([project.tests] if LONG else [f"{project.tests}/{name}" for name in project.some]),
        ],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "CI": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
    last = done.stdout.rstrip().splitlines()[-1]
    return {outcome: int(number) for number, outcome in re.findall(r"(\d+) (\w+)", last)}


@pytest.mark.needs("netns", "uvloop", "siosocks", "trustme", "pytest_mock", "async_timeout")
@pytest.mark.parametrize("stack", ["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))])
def test_suite_of_aioftp(tmp_path: Path, stack: str) -> None:
    outcomes = run_suite(AIOFTP, tmp_path, "--vpoll-stack", stack, "--vpoll-loop", "asyncio,uvloop")
    assert outcomes["passed"] == 2 * (792 if LONG else 34)
    assert not outcomes.keys() & {"failed", "error", "errors", "skipped", "deselected"}


if LONG:

    @pytest.mark.needs("netns", "uvloop", "pytest_mock")
    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_suite_of_aiosmtpd(tmp_path: Path, loop: str) -> None:
        outcomes = run_suite(AIOSMTPD, tmp_path, "--vpoll-stack", "memory", "--vpoll-loop", loop)
        assert outcomes["passed"] == 546
        assert outcomes["deselected"] == len(AIOSMTPD.deselected)
