"""The soak finds what it looks for: leaks that were planted, and none where there are none."""

from __future__ import annotations

import os

import pytest

from processes import ROOT, Program

pytestmark = pytest.mark.needs("aiohttp", "uvicorn", "websockets")


@pytest.fixture(autouse=True)
def soak_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)


def test_an_object_kept_for_each_exchange_is_found() -> None:
    with Program("leaky_soak.py", "object") as program:
        program.wait_for("WRONG blocks: ")
        assert program.wait()[0] == 1


def test_whatever_else_is_kept_is_found_by_its_own_count() -> None:
    with Program("leaky_soak.py", "memory", "descriptor", "socket", "task", "warning") as program:
        for count in ("malloc", "resident", "descriptors", "tasks", "sockets", "vpolls"):
            program.wait_for(f"WRONG {count}: ")
        program.wait_for("WRONG server WARNING: something is odd")
        program.wait_for("WRONG descriptor ")
        assert program.wait()[0] == 1


def test_a_server_that_keeps_nothing_is_well() -> None:
    with Program("leaky_soak.py") as program:
        program.wait_for("Sample(")
        program.wait_for("Sample(")
        assert program.wait() == (0, "")
