"""Whether a run of the guest proves anything: the judge of what it left behind."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

__all__ = ["PROVEN", "Verdict", "judge"]

PROVEN = ("eventfd", "device")
"""Backends of which a run is to show that they are right."""


class Verdict(NamedTuple):
    """What a run of the guest shows."""

    faults: tuple[str, ...]
    """What speaks against it; empty for a run that passed."""
    passed: int
    """How many tests passed."""


def judge(results: Path, nonce: str) -> Verdict:
    """Judge the files in the folder `results` of a run that was asked for with `nonce`."""
    faults = []
    try:
        status = json.loads((results / "status.json").read_text())
    except FileNotFoundError:
        faults.append("the suite in the guest did not run to its end")
    except ValueError as error:
        faults.append(f"status.json: {error}")
    else:
        if status.get("nonce") != nonce:
            faults.append("status.json is another run's")
        elif status.get("exit") != 0:
            faults.append(f"pytest in the guest ended with {status.get('exit')}")
    try:
        report = ET.parse(results / "junit.xml").getroot()
    except FileNotFoundError:
        return Verdict((*faults, "no report of the tests"), 0)
    except ET.ParseError as error:
        return Verdict((*faults, f"junit.xml: {error}"), 0)

    ends: Counter[str] = Counter()
    proofs: Counter[str] = Counter()
    for case in report.iter("testcase"):
        children = {child.tag for child in case}
        end = next((tag for tag in ("error", "failure", "skipped") if tag in children), "passed")
        ends[end] += 1
        if end == "passed":
            proofs.update(set(re.findall(r"\w+", case.get("name", ""))) & set(PROVEN))
        else:
            faults.append(f"{end}: {case.get('classname')}::{case.get('name')}")
    if not ends["passed"]:
        faults.append("no test passed")
    faults += [f"no test of the backend {name} passed" for name in PROVEN if not proofs[name]]
    return Verdict(tuple(faults), ends["passed"])
