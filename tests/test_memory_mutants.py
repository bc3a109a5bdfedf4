"""The conformance suite finds every fault that is planted in the memory stack.

Each fault has a test that finds it without luck.  ``VPOLL_TEST_LONG=1`` runs the whole suite over
every fault and prints which tests find it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from memory_mutants import MUTANTS, UNCHANGED, Mutant
from scale import LONG

TESTS = Path(__file__).parent

PROGRAM = """\
import memory_mutants as mutants

for mutant in (mutants.UNCHANGED, *mutants.MUTANTS):
    suite = mutants.suite_of(mutant)
    globals()[suite.__name__] = suite
"""

Outcomes = dict[tuple[str, str], str]
"""By the mutant's name and the test with its case."""


def run(folder: Path, *chosen: str, without: str = "") -> Outcomes:
    """Run the suite's tests that are `chosen`, or all, over the mutants in a process of its own.

    without -- what is in the name of tests that are left out
    """
    (folder / "test_mutants.py").write_text(PROGRAM)
    report = folder / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"]
        + ["--rootdir", str(folder), f"--basetemp={folder / 'temporary'}", f"--junitxml={report}"]
        + (["-k", f"not {without}"] if without else [])
        + [f"test_mutants.py::{node}" for node in chosen],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=270,
    )
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), (
        done.stdout + done.stderr
    )
    outcomes: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        suite = case.attrib["classname"].rpartition(".Test")[2]
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcomes[suite, case.attrib["name"]] = " ".join(sorted(kinds)) or "passed"
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Every mutant with the test that finds it, and the unchanged stack with all of these."""
    killers = sorted({mutant.killer for mutant in MUTANTS})
    return run(
        tmp_path_factory.mktemp("mutants"),
        *(f"Test{UNCHANGED.name}::{killer}" for killer in killers),
        *(f"Test{mutant.name}::{mutant.killer}" for mutant in MUTANTS),
    )


def of(outcomes: Outcomes, mutant: Mutant, killer: str) -> set[str]:
    """Return how the cases of `killer`, or the one that it names, have ended."""
    return {
        outcome
        for (suite, test), outcome in outcomes.items()
        if suite == mutant.name and killer in (test, test.partition("[")[0])
    }


@pytest.mark.parametrize("killer", sorted({mutant.killer for mutant in MUTANTS}))
def test_unchanged_stack_passes(outcomes: Outcomes, killer: str) -> None:
    assert of(outcomes, UNCHANGED, killer) == {"passed"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_fault_is_found(outcomes: Outcomes, mutant: Mutant) -> None:
    # An error would be a fault of what loads the stack, not of the stack.
    assert "failure" in of(outcomes, mutant, mutant.killer) <= {"failure", "passed"}


if LONG:

    @pytest.mark.parametrize("mutant", [UNCHANGED, *MUTANTS], ids=lambda mutant: mutant.name)
    def test_whole_suite(tmp_path: Path, mutant: Mutant) -> None:
        # Random programs find most faults too, by luck, and then look long for the shortest.
        luck = "" if mutant is UNCHANGED else "random_programs"
        outcomes = run(tmp_path, f"Test{mutant.name}", without=luck)
        failing = sorted(test for (_, test), how in outcomes.items() if how == "failure")
        sys.stdout.write(f"{mutant.name}: {', '.join(failing) or 'nothing'}\n")
        assert bool(failing) == (mutant is not UNCHANGED)
        assert not failing or "failure" in of(outcomes, mutant, mutant.killer)
