"""The compiled classes take the place of those in Python, where they have been compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpoll_asyncio.hot.accelerator import ACCELERATOR, CHOICE

ROOT = Path(__file__).parent.parent

TELL = """
from vpoll_asyncio.hot import accelerator, pipe, relay, stream, vpoll
compiled = accelerator.ACCELERATOR
classes = [
    vpoll.FileState, vpoll.DirectState, vpoll.VPollState, relay.RelayState, relay.WatchState,
    pipe.Lock, pipe.PipeState, stream.StreamIO,
]
print(compiled is not None, [getattr(compiled, each.__name__, None) is each for each in classes])
"""

ALL = "True " + str([True] * 8)
NONE = "False " + str([False] * 8)


def run(
    code: str, cache: Path, choice: str | None, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), **more}
    environment.pop(CHOICE, None)
    if choice is not None:
        environment[CHOICE] = choice
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def test_this_run_uses_the_classes_that_it_was_told_to() -> None:
    told = os.environ.get(CHOICE) or str(int(ACCELERATOR is not None))
    assert told == str(int(ACCELERATOR is not None))


def test_nothing_is_compiled_without_being_asked_for(cache: Path) -> None:
    done = run(TELL, cache, None)
    assert done.stdout.strip() == NONE, done.stderr
    assert not list(cache.rglob("*.so"))


@pytest.mark.needs("cc")
def test_built_ahead_they_are_used_unless_refused(cache: Path) -> None:
    built = run("from vpoll_asyncio import native; native.build('hot')", cache, None)
    assert built.returncode == 0, built.stderr
    assert run(TELL, cache, None).stdout.strip() == ALL
    assert run(TELL, cache, "0").stdout.strip() == NONE
    assert run(TELL, cache, "1").stdout.strip() == ALL


@pytest.mark.needs("cc")
def test_asked_for_they_are_compiled(cache: Path) -> None:
    done = run(TELL, cache, "1")
    assert done.stdout.strip() == ALL, done.stderr


def test_asked_for_without_a_compiler_it_says_so(cache: Path) -> None:
    done = run(TELL, cache, "1", CC="no-such-compiler")
    assert "no-such-compiler" in done.stderr
    assert "gcc" in done.stderr


def test_another_choice_is_refused(cache: Path) -> None:
    done = run(TELL, cache, "yes")
    assert f"{CHOICE}: 'yes': expected 0, 1 or nothing" in done.stderr


@pytest.mark.parametrize("choice", ["0", pytest.param("1", marks=pytest.mark.needs("cc"))])
def test_operations_cost_no_object_that_stays(cache: Path, choice: str) -> None:
    code = """
import gc, sys
import vpoll_asyncio as va
def turn(vpoll):
    vpoll.add_events(0x5)
    vpoll.del_events(0x1)
    vpoll.set_events(0x2000)
    try:
        vpoll.add_events(1 << 30)
    except ValueError:
        pass
    try:
        vpoll.add_events("x")
    except TypeError:
        pass
vpoll = va.VPoll()
seen = []
vpoll.add_waiter(seen.append)
for _ in range(100):
    turn(vpoll)
gc.collect()
seen.clear()
before = len(gc.get_objects()), sys.getallocatedblocks()
for _ in range(1000):
    turn(vpoll)
seen.clear()
gc.collect()
after = len(gc.get_objects()), sys.getallocatedblocks()
print(after[0] - before[0] < 20, after[1] - before[1] < 100)
"""
    done = run(code, cache, choice)
    assert done.stdout.strip() == "True True", done.stdout + done.stderr
