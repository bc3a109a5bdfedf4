"""Every backend answers as the published page of differences says, on this kernel too."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from kernel import differences
from observations import OBSERVATIONS, PROMISED, observe
from vpoll_helpers import KERNEL_BACKENDS

RECORD = "VPOLL_TEST_RECORD"
"""Environment variable: the folder for what is observed, one file a backend."""


def recorded() -> differences.Observed:
    observed: differences.Observed = json.loads(differences.OBSERVED.read_text())
    return observed


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_a_backend_answers_as_recorded(backend: str) -> None:
    answers = observe(backend)
    if folder := os.environ.get(RECORD):
        linux = ".".join(platform.release().split(".")[:2])
        report = {"kernel": linux, "observations": answers}
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / f"{backend}.json").write_text(json.dumps(report))
    assert answers == recorded()["backends"].get(backend), (
        "after a wanted change: make test-kernel, then in tests: python -m kernel.differences"
    )


@pytest.mark.needs("efd_vpoll")
def test_the_kernels_eventfd_does_as_it_promises() -> None:
    assert observe("eventfd") == PROMISED


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_an_observation_says_what_it_observes(name: str) -> None:
    said = OBSERVATIONS[name].__doc__
    assert said
    assert said.endswith(".")


def test_the_page_says_what_was_recorded() -> None:
    assert differences.PAGE.read_text() == differences.render(recorded())
