"""One run of the guest: a QEMU machine without a network, from power on to power off."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .debian import Kernel

__all__ = ["boot", "check_path", "command"]

# Enough to run the wheels that are built for the second x86-64 level, and no AVX: the C
# library would choose AVX code, which is what the emulator is slowest at.
_PROCESSOR: Final = "Nehalem,+rdrand"

# Seconds between the end of the machine's output and its own end.
_EXIT: Final = 60

_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic panic_on_warn=1 "
    # The emulator's clock is one for all processors; the kernel cannot know that.
    "tsc=reliable no_timer_check "
    # Host processors that are busy elsewhere look like stuck ones from inside.
    "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "mitigations=off nokaslr audit=0 apparmor=0"
)


def check_path(path: Path) -> None:
    """Raise ValueError for a path that the command lines of QEMU and Linux would split."""
    if re.search(r"[\s,]", str(path)):
        raise ValueError(f"{path}: expected a path without spaces and commas; move the tree")


def command(
    kernel: Kernel, archive: Path, tree: Path, python: Path, results: Path, *, accelerator: str
) -> list[str]:
    """Return the command line of the machine.

    The guest reads all files of the host that this process may read and writes to
    `results` alone.
    """
    for path in (tree, python, results):
        check_path(path)
    arguments = f"{_KERNEL_ARGUMENTS} vpoll.tree={tree} vpoll.python={python}"
    shared = "local,security_model=none,multidevs=remap"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-machine", "q35", "-accel", accelerator, "-cpu", _PROCESSOR),
        *("-smp", "2", "-m", "2048", "-display", "none", "-nic", "none"),
        *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", arguments),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-fsdev", f"{shared},id=host,path=/,readonly=on"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"{shared},id=results,path={results}"),
        *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
    ]


def boot(arguments: Sequence[str], log: Path, *, seconds: float) -> str:
    """Run the machine to its end; show what it prints and keep that in `log`.

    Returns an empty string when it powered off by itself within `seconds`, else what
    went wrong.
    """
    deadline = time.monotonic() + seconds
    with (
        log.open("wb") as kept,
        subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as machine,
    ):
        assert machine.stdout is not None
        output = machine.stdout.fileno()
        try:
            while (left := deadline - time.monotonic()) > 0:
                if not select.select([output], [], [], left)[0]:
                    continue
                printed = os.read(output, 1 << 16)
                if not printed:
                    status = machine.wait(_EXIT)
                    break
                kept.write(printed)
                sys.stdout.write(printed.decode(errors="replace").replace("\r", ""))
                sys.stdout.flush()
            else:
                return f"the guest was not done after {seconds:.0f} seconds"
        finally:
            machine.kill()
    if status:
        return f"{arguments[0]} ended with {status}"
    if panic := re.search(rb"Kernel panic - [^\r\n]*", log.read_bytes()):
        return panic[0].decode(errors="replace")
    return ""
