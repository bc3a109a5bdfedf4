"""What users import stays, with the parameters that they give; what is new is recorded.

``python tests/public_names.py`` renews the record, tests/public_names.txt, once a change is meant.
"""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from pathlib import Path

import pytest

import public_names
import vpoll_asyncio

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "tests" / "typed" / "sample_user.py"


@pytest.mark.needs("uvloop")
def test_public_names_are_those_of_the_record() -> None:
    recorded = public_names.RECORD.read_text().splitlines()
    changes = [
        line
        for line in difflib.unified_diff(recorded, public_names.current(), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    if changes:
        pytest.fail(
            "what users call has changed (- is gone for them, + is new); if that is meant, run\n"
            "python tests/public_names.py, and say it in CHANGELOG.md:\n" + "\n".join(changes),
            pytrace=False,
        )


def test_a_parameter_that_goes_is_a_change() -> None:
    def before(host: str, port: int = 0, /, *rest: int, limit: int = 1, **options: int) -> None: ...
    def after(host: str, *, limit: int) -> None: ...

    assert public_names.parameters(before) == "(host, port=, /, *rest, limit=, **options)"
    assert public_names.parameters(after) == "(host, *, limit)"


def test_the_sample_program_runs_with_the_standard_library_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", str(SAMPLE)],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sample_program_uses_every_public_name() -> None:
    tree = ast.parse(SAMPLE.read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "va"
    }
    assert not set(vpoll_asyncio.__all__) - used
