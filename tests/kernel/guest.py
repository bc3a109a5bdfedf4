"""Runs inside the guest, after its files are mounted: the suite and its results.

Leaves in ``/run/results`` what the host judges: ``request.json`` holds what is asked,
``junit.xml`` is pytest's report, and ``status.json``, written last, repeats the
request's nonce with pytest's exit status, so that nothing but a suite that ran to its
end looks like one.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

RESULTS = Path("/run/results")
TREE = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    os.chdir(TREE)
    request = json.loads((RESULTS / "request.json").read_text())
    environment = os.environ | request["environment"]
    sys.path.insert(0, str(TREE))
    vpoll_asyncio = importlib.import_module("vpoll_asyncio")
    for backend in vpoll_asyncio.backends():
        sys.stdout.write(f"{backend.name:9} {backend.why or 'available'}\n")
    sys.stdout.flush()
    suite = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            f"--junitxml={RESULTS / 'junit.xml'}",
            *request["pytest"],
        ],
        env=environment,
    )
    status = {
        "nonce": request["nonce"],
        "exit": suite.returncode,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    unfinished = RESULTS / "status.json.new"
    unfinished.write_text(json.dumps(status))
    unfinished.rename(RESULTS / "status.json")


if __name__ == "__main__":
    main()
