"""Every server on every loop over every stack, a process each: ``python -m soak``.

Flat memory, no descriptor, task or transport left over, no error and nothing logged.
Exit status: 0 when that was so everywhere, 1 else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import subprocess
import sys

from . import cell
from .services import SERVICES

# Seconds beside the load: starting, and coming to rest after each round.
_BESIDE = 300


def run(names: tuple[str, str, str], options: argparse.Namespace) -> bool:
    """Run one cell, report what it says, return whether all was well."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "soak.cell", *names]
    for option in ("seconds", "clients"):
        command += [f"--{option}", str(getattr(options, option))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=2 * options.seconds + _BESIDE)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + "WRONG it did not end\n"
    finally:
        process.kill()
    lines = output.splitlines()
    samples = [line for line in lines if line.startswith("Sample(")]
    # What is neither a sample nor a fault should not be there.
    well = process.returncode == 0 and len(samples) == len(lines)
    shown = samples[-1:] if well else lines
    sys.stdout.write(f"{' '.join(names)}: {'well' if well else 'FAILED'}\n")
    sys.stdout.writelines(f"    {line}\n" for line in shown)
    sys.stdout.flush()
    return well


def main() -> int:
    """Run the cells that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", parents=[cell.parser()])
    parser.add_argument("--service", choices=SERVICES, action="append")
    parser.add_argument("--loop", choices=cell.LOOPS, action="append")
    parser.add_argument("--stack", choices=cell.STACKS, action="append")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args()
    cells = itertools.product(
        options.service or SERVICES, options.loop or cell.LOOPS, options.stack or cell.STACKS
    )
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda names: run(names, options), cells))
    sys.stdout.write(f"{results.count(True)} of {len(results)} well\n")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
