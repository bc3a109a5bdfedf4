"""The process of one contender: ``python -m benchmarks.suite.worker``, driven by lines of JSON.

The first line says what to set up; the answer is ``{"ready": …}`` with the
folder of the build, or ``{"error": …}`` with
``"missing": true`` where this machine lacks something.  Each line after it asks for one
sample and is answered with the measured values.  The end of the input ends the process.
"""

from __future__ import annotations

import cProfile
import gc
import io
import json
import os
import pstats
import sys
from typing import Any, TextIO

from .contenders import Contender, Sample
from .scenarios import SCENARIOS

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "33554432"}
"""glibc's thresholds, fixed: otherwise they adapt to what each contender happens to free."""


def main() -> None:
    unset = [name for name, value in MALLOC.items() if os.environ.get(name) != value]
    if unset:
        raise SystemExit(f"{unset} must be set before the interpreter starts (measure.py does)")
    # What a scenario prints does not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    contender = Contender(**request["contender"])
    sizes = request["sizes"] | contender.options
    try:
        context = SCENARIOS[request["scenario"]](contender, **sizes)
        sample = context.__enter__()
    except (OSError, ImportError) as error:
        _answer(answers, {"error": f"{type(error).__name__}: {error}", "missing": True})
        return
    except Exception as error:
        _answer(answers, {"error": f"{type(error).__name__}: {error}", "missing": False})
        raise
    _answer(answers, {"ready": _package(contender)})
    try:
        for _ in sys.stdin:
            gc.collect()
            _answer(answers, _profiled(sample) if request["profile"] else sample())
    finally:
        context.__exit__(None, None, None)


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")


def _package(contender: Contender) -> str:
    if not contender.ours:
        return ""
    import vpoll_asyncio

    return os.path.dirname(os.path.dirname(vpoll_asyncio.__file__))


def _profiled(sample: Sample) -> dict[str, float]:
    profile = cProfile.Profile()
    profile.enable()
    values = sample()
    profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(14)
    lines = text.getvalue().splitlines()
    sys.stderr.write("\n".join(line for line in lines if line.strip()) + "\n")
    return values


if __name__ == "__main__":
    main()
