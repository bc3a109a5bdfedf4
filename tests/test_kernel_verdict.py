"""A run of the guest counts as passed only when it shows that everything was tried."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kernel import initramfs, machine, verdict

NONCE = "5d1c"

CASE = '<testcase classname="tests.test_x" name="test_y[{}]">{}</testcase>'
GOOD = CASE.format("eventfd", "") + CASE.format("0-device", "") + CASE.format("unixpair", "")


def results(folder: Path, *, status: object = None, cases: str | None = GOOD) -> Path:
    if status is None:
        status = {"nonce": NONCE, "exit": 0}
    if status:
        (folder / "status.json").write_text(json.dumps(status))
    if cases is not None:
        report = f"<testsuites><testsuite>{cases}</testsuite></testsuites>"
        (folder / "junit.xml").write_text(report)
    return folder


def test_a_run_in_which_everything_passed_has_no_fault(tmp_path: Path) -> None:
    assert verdict.judge(results(tmp_path), NONCE) == verdict.Verdict((), 3)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (False, "did not run to its end"),
        ({"nonce": "another", "exit": 0}, "another run's"),
        ({"nonce": NONCE, "exit": 1}, "ended with 1"),
        ({"nonce": NONCE}, "ended with None"),
    ],
)
def test_a_suite_that_did_not_end_well_is_a_fault(
    tmp_path: Path, status: object, fault: str
) -> None:
    (told,) = verdict.judge(results(tmp_path, status=status), NONCE).faults
    assert fault in told


@pytest.mark.parametrize(
    ("cases", "fault"),
    [
        (None, "no report of the tests"),
        ("", "no test passed"),
        ("<", "junit.xml: "),
        (GOOD + CASE.format("a", '<failure message="m"/>'), "failure: tests.test_x::test_y[a]"),
        (GOOD + CASE.format("b", '<error message="m"/>'), "error: tests.test_x::test_y[b]"),
        (GOOD + CASE.format("eventfd", "<skipped/>"), "skipped: tests.test_x::test_y[eventfd]"),
        (CASE.format("device", ""), "no test of the backend eventfd passed"),
        (CASE.format("eventfd", ""), "no test of the backend device passed"),
        (
            CASE.format("my_device", "") + CASE.format("eventfd", ""),
            "no test of the backend device",
        ),
    ],
)
def test_a_report_that_proves_nothing_is_a_fault(
    tmp_path: Path, cases: str | None, fault: str
) -> None:
    told = verdict.judge(results(tmp_path, cases=cases), NONCE).faults
    assert any(fault in one for one in told)


@pytest.mark.parametrize(
    ("program", "seconds", "fault"),
    [
        ("print('done')", 60, ""),
        ("print('Kernel panic - not syncing: VFS')", 60, "Kernel panic - not syncing: VFS"),
        ("raise SystemExit(3)", 60, "ended with 3"),
        ("import time; time.sleep(600)", 1, "not done after 1 seconds"),
    ],
)
def test_a_machine_that_does_not_end_by_itself_is_a_fault(
    tmp_path: Path, program: str, seconds: float, fault: str
) -> None:
    told = machine.boot([sys.executable, "-c", program], tmp_path / "log", seconds=seconds)
    assert (fault in told) if fault else not told


def test_a_path_that_the_machine_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without spaces and commas"):
        machine.check_path(tmp_path / "a,b")


def test_the_guests_first_files_are_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    module = tmp_path / "00-virtio.ko"
    module.write_bytes(b"module" * 7)
    script = tmp_path / "start.sh"
    script.write_text("#!/bin/busybox sh\n")
    archive = initramfs.build(module, script, [module])
    names = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        names.append(name)
        at += -(-(110 + length) // 4) * 4
        if name == "modules/00-virtio.ko":
            assert archive[at : at + size] == module.read_bytes()
        at += -(-size // 4) * 4
        if name == "TRAILER!!!":
            break
    assert at == len(archive)
    assert {"init", "start", "etc/inittab", "dev/console", "modules/order"} <= set(names)
