"""What the conformance suite does with the differences that a stack declares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vpoll_asyncio.testing import Difference, Lab, StackSuite, differences_table

ROOT = Path(__file__).parent.parent

PROGRAM = '''
import errno
import pytest
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.testing import Difference, Hosts, StackSuite
from vpoll_asyncio.testing.stack_suite import mask_of


class Base(StackSuite):
    examples = 2

    @pytest.fixture(params=["a", "b"])
    def hosts(self, request):
        with open_stack("memory", ip="10.0.0.1/24") as stack:
            yield Hosts(stack, stack, "10.0.0.1", "10.0.0.1")


class TestPlain(Base):
    pass


class TestStillHolds(Base):
    differences = {
        "test_connected": Difference("a connection has no mask"),
        "test_flag[TCP_CORK]": Difference("there is no cork"),
    }


class Broken(Base):
    """A stack whose connections are readable for nothing, as the suite sees it."""

    def test_connected(self, lab):
        client, _ = lab.pair()
        client.vpoll.add_events(1)
        assert not mask_of(client) & 1


def readable(lab):
    client, _ = lab.pair()
    assert not mask_of(client) & 1


def unreadable(lab):
    assert mask_of(lab.stream()) & 1


class TestDiffers(Broken):
    differences = {
        "test_connected": Difference("it is readable", readable),
        "test_fresh_stream": Difference("nobody knows", run=False),
        "Streams.receive": Difference("nothing is received"),
    }


class TestHasNoPart(Broken):
    differences = {
        "test_connected": Difference("it is readable", readable),
        "MaskTests": Difference("masks are not looked at", run=False),
    }


class TestInsteadFails(Broken):
    differences = {"test_connected": Difference("it is readable", unreadable)}
'''

CHOSEN = "test_connected or test_flag or test_fresh_stream or with_streams"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_mine.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--tb=line"]
        + ["--rootdir", str(folder), "-k", CHOSEN, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.findall(r"^(PASSED|FAILED|XFAIL|ERROR) .*?::(Test\S+)(.*)$", done.stdout, re.M)
    assert found, done.stdout
    return {test: outcome + rest for outcome, test, rest in found}


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("TestPlain::test_connected[a]", "PASSED"),
        ("TestPlain::test_random_programs_with_streams[a]", "PASSED"),
        ("TestStillHolds::test_connected[b]", "FAILED"),
        ("TestStillHolds::test_flag[a-TCP_CORK]", "FAILED"),
        ("TestStillHolds::test_flag[a-TCP_NODELAY]", "PASSED"),
        ("TestDiffers::test_connected[a]", "PASSED"),
        ("TestDiffers::test_fresh_stream[a]", "XFAIL"),
        ("TestDiffers::test_random_programs_with_streams[a]", "PASSED"),
        ("TestHasNoPart::test_connected[a]", "PASSED"),
        ("TestHasNoPart::test_fresh_stream[a]", "XFAIL"),
        ("TestHasNoPart::test_flag[a-TCP_CORK]", "PASSED"),
        ("TestInsteadFails::test_connected[a]", "FAILED"),
    ],
)
def test_outcome(outcomes: dict[str, str], test: str, outcome: str) -> None:
    assert outcomes[test].startswith(outcome), outcomes[test]


@pytest.mark.parametrize("name", ["test_conected", "Stream.receive", "Streams.recieve", "flag[x"])
def test_a_name_that_is_no_tests_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name.partition("[")[0])):
        type("TestWrong", (StackSuite,), {"differences": {name: Difference("different")}})


def test_a_part_of_which_some_may_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="run=False"):
        type("TestWrong", (StackSuite,), {"differences": {"MaskTests": Difference("different")}})


def test_the_table_has_a_row_for_each_reason() -> None:
    def check(lab: Lab) -> None:
        pass

    table = differences_table(
        {
            "test_a": Difference("no | urgent\n data", check),
            "test_b[x]": Difference("no | urgent\n data", check),
            "test_c": Difference("other"),
            "test_d": Difference("not tried", run=False),
        }
    )
    assert table.splitlines()[2:] == [
        r"| no \| urgent data | `test_a`, `test_b[x]` | a test of it |",
        "| other | `test_c` | that test failing |",
        "| not tried | `test_d` | nothing |",
    ]


def test_a_suite_without_hosts_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="fixture `hosts`"):
        StackSuite.hosts.__wrapped__(StackSuite())  # type: ignore[attr-defined]
