"""CPython's own suite of asyncio over our loops, on the kernel's sockets and on memory's.

The latter are in the place of the former by `install`, in a network namespace in which
the kernel's reach nothing.
"""

from __future__ import annotations

import pytest

from cpython_asyncio import SETTINGS, Setting, exceptions_for, run_suite
from cpython_suite import Except, judge

pytestmark = pytest.mark.needs("cpython_tests")


def parametrized(network: str) -> list[object]:
    return [
        pytest.param(
            setting,
            id=f"{setting.loop}-{setting.module}",
            marks=[pytest.mark.needs("uvloop")] if setting.loop == "uvloop" else [],
        )
        for setting in SETTINGS
        if setting.network == network
    ]


@pytest.mark.parametrize("setting", parametrized("kernel"))
def test_over_kernel_sockets(setting: Setting) -> None:
    lines = run_suite(setting)
    assert any(line.get("outcome") == "passed" for line in lines)
    assert not (wrong := judge(lines, exceptions_for(setting))), "\n".join(wrong)


@pytest.mark.needs("netns")
@pytest.mark.parametrize("setting", parametrized("memory"))
def test_over_memory_sockets(setting: Setting) -> None:
    lines = run_suite(setting, isolated=True)
    assert any(line.get("sockets") for line in lines)
    assert not (wrong := judge(lines, exceptions_for(setting))), "\n".join(wrong)


@pytest.mark.needs("netns")
def test_without_memory_sockets_there_is_no_network() -> None:
    setting = Setting("asyncio", "kernel", "test_buffered_proto")
    lines = run_suite(setting, isolated=True)
    assert [line["outcome"] for line in lines if "outcome" in line] == ["failed"]


PASSED = {"case": "Class.test", "outcome": "passed", "text": ""}
FAILED = {"case": "Class.test", "outcome": "failed", "text": "AssertionError"}
SKIPPED = {"case": "Class.test", "outcome": "skipped", "text": "no IPv6"}
MAY_FAIL = Except("*", "Class.test", "a reason")
LEFT_OUT = Except("*", "Other.*", "a reason", runs=False)


@pytest.mark.parametrize(
    ("line", "exceptions", "complaint"),
    [
        (PASSED, [], None),
        (FAILED, [], "Class.test failed: AssertionError"),
        (SKIPPED, [], "Class.test skipped: no IPv6"),
        (FAILED, [MAY_FAIL], None),
        (SKIPPED, [MAY_FAIL], None),
        (PASSED, [MAY_FAIL], "Class.test passes: it is no exception any more"),
        ({"left_out": ["Other.test"]}, [LEFT_OUT], None),
        (PASSED, [LEFT_OUT], "Other.* is no case of the suite: a reason"),
        ({"left_out": ["Other.test"]}, [MAY_FAIL], "Class.test is no case of the suite: a reason"),
    ],
)
def test_exceptions_are_needed_and_suffice(
    line: dict[str, object], exceptions: list[Except], complaint: str | None
) -> None:
    assert judge([line], exceptions) == ([] if complaint is None else [complaint])
