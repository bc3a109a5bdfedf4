"""Boot the guest, run the suite in it, judge: ``python -m kernel [pytest's arguments]``.

The interpreter that runs this runs the suite in the guest too.  Exit status: 0 when the
suite ran there and passed, 1 else.  ``VPOLL_KERNEL_ACCEL`` names another accelerator of
QEMU than software emulation, as ``kvm``; ``VPOLL_KERNEL_SECONDS`` another time limit.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from . import debian, initramfs, machine, verdict

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent
CACHE = TREE / ".cache" / "kernel"

SUITE = (
    *("test_backend*.py", "test_model*.py", "test_vpoll*.py", "test_libvpoll.py"),
    *("test_cpython_selectors.py", "test_pollers.py", "test_selector_exact.py"),
    "test_wait_events.py",
)
"""The tests that look at a vpoll through the kernel's pollers."""

ELSEWHERE = "test_backend_fuse"
"""How the names of those begin that need no other kernel than the host's."""

HERE_ONLY = (
    "test_backends or test_backend_observed or test_backend_kernel"
    " or (eventfd or device) and not (test_model_backends or test_vpoll_storm)"
    " or (eventfd or device) and (does_what_the_model_does or in_a_storm)"
)
"""Those that need this kernel; what needs none is tested where time is cheap."""

SLOWER = 15
"""How much slower an emulated processor is."""


def say(text: str) -> None:
    sys.stderr.write(f"test-kernel: {text}\n")
    sys.stderr.flush()


def run(arguments: list[str]) -> verdict.Verdict:
    """Run the suite, or what pytest's `arguments` name of it, in the guest."""
    kernel = debian.prepare(CACHE, HERE)
    archive = CACHE / "initramfs"
    archive.write_bytes(initramfs.build(kernel.busybox, HERE / "start.sh", kernel.modules))
    results = CACHE / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()

    accelerator = os.environ.get("VPOLL_KERNEL_ACCEL") or "tcg,thread=multi,tb-size=512"
    scale = SLOWER if accelerator.startswith("tcg") else 1
    nonce = secrets.token_hex(16)
    tests = sorted(
        path
        for glob in SUITE
        for path in (TREE / "tests").glob(glob)
        if not path.name.startswith(ELSEWHERE)
    )
    request = {
        "nonce": nonce,
        "environment": {
            # Skipping is failing, and these things are there.
            "CI": "true",
            "VPOLL_TEST_PRESENT": "dev_vpoll,efd_vpoll",
            "VPOLL_TEST_SCALE": str(scale),
            "VPOLL_TEST_RECORD": "/run/results/observed",
        },
        "pytest": [
            *("-p", "no:cacheprovider", "-o", f"faulthandler_timeout={60 * scale}"),
            *("--color=no", *(arguments or ["-v", "--durations=15", "-k", HERE_ONLY])),
            *(str(path.relative_to(TREE)) for path in tests),
        ],
    }
    (results / "request.json").write_text(json.dumps(request))
    say(f"booting Linux {kernel.release} ({accelerator.partition(',')[0]})")
    fault = machine.boot(
        machine.command(
            kernel, archive, TREE, Path(sys.executable), results, accelerator=accelerator
        ),
        CACHE / "console.log",
        seconds=float(os.environ.get("VPOLL_KERNEL_SECONDS") or 1500),
    )
    judged = verdict.judge(results, nonce)
    return judged._replace(faults=(fault, *judged.faults)) if fault else judged


def end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that the machine ends too."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, end)
    began = time.monotonic()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            judged = run(sys.argv[1:])
        except (debian.Missing, ValueError) as error:
            say(str(error))
            return 1
    for fault in judged.faults:
        say(f"FAILED: {fault}")
    took = time.monotonic() - began
    say(f"{judged.passed} tests passed in the guest, {len(judged.faults)} faults, {took:.0f} s")
    return 1 if judged.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
