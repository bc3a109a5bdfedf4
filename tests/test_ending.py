"""A program that ends with things open ends at once, and tells of them as Python does of its own.

None of it is an "Exception ignored" or a hang, and what would outlive the process, a
plugin's socket in the file system say, is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import needs
import vpoll_asyncio.ending
from processes import PROGRAMS, ROOT, SECONDS
from vde_ends import vde_switch
from vpoll_asyncio.ending import join, unclosed
from vpoll_asyncio.testing.stack_suite import until

NEEDS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "lwip": ("lwip",),
    "lwip-thread": ("lwip",),
    "vdestack": ("vdestack",),
    "vdestack-switch": ("vdestack", "vde", "vde_switch"),
    "socket": (),
    "transports": (),
    "vpoll": (),
    "unixpair": (),
    "tcppair": (),
    "fuse": ("fuse",),
    "selector": (),
    "fd": (),
    "packet": (),
    "wire": (),
    "netem": ("vde",),
    "pcap": (),
    "ptp": ("vde",),
    "hub": ("vde",),
    "switch": ("vde", "vde_switch"),
    "slirp": ("slirp",),
}
"""What tests/programs/left_open.py can open."""

KINDS = [pytest.param(kind, marks=pytest.mark.needs(*need)) for kind, need in NEEDS.items()]
TOLD = {"MemoryStack", "LwipStack", "VdeStack", "StreamTransport", "DatagramTransport"}
TOLD |= {"FdLink", "NetemLink", "VdeLink"}
"""What a program has opened itself: of what is inside these nobody is told."""
STATUS = {"end": 0, "threads": 0, "exception": 1, "ctrl-c": -signal.SIGINT}


def left_open(folder: Path, how: str, *kinds: str, options: tuple[str, ...]) -> str:
    """Run a program that ends `how`, with `kinds` open; return what it says at the end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as held:
        if needs.missing("vde_switch") is None:
            held.enter_context(vde_switch(folder / "switch"))
        before = set(folder.rglob("*"))
        done = subprocess.run(
            [sys.executable, *options, PROGRAMS / "left_open.py", how, folder, *kinds],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
        )
        assert (done.stdout, done.returncode) == ("open\n", STATUS[how]), done.stderr
        before.add(folder / "frames.pcap")
        # A switch removes itself what it has made for a plug.
        until(lambda: set(folder.rglob("*")) <= before, "a file is left")
    return done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_open_at_the_end_is_no_error(kind: str, tmp_path: Path) -> None:
    """Where warnings are errors, too: it would be one that nobody can catch."""
    assert left_open(tmp_path, "end", kind, options=("-W", "error")) == ""


@pytest.mark.parametrize("how", ["exception", "ctrl-c"])
@pytest.mark.parametrize("options", [("-W", "error"), ("-X", "dev"), ()], ids=" ".join)
def test_nothing_follows_the_traceback_but_warnings(
    how: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    kinds = [kind for kind, wanted in NEEDS.items() if not any(map(needs.missing, wanted))]
    said = left_open(tmp_path, how, *kinds, options=options)
    last = {"exception": "LookupError: nobody catches it", "ctrl-c": "KeyboardInterrupt"}[how]
    traceback, _, rest = said.partition(f"\n{last}\n")
    assert traceback.startswith("Traceback")
    advice = "ResourceWarning: Enable tracemalloc to get the object allocation traceback"
    warnings = [line for line in rest.splitlines() if line != advice]
    told = {re.sub(".*: ResourceWarning: unclosed (transport )?<", "", w) for w in warnings}
    names = {thing.split()[0] for thing in told}
    assert names <= (TOLD if "dev" in options else set())
    if "dev" in options:
        assert {"MemoryStack", "StreamTransport", "FdLink"} <= names


@pytest.mark.parametrize("stack", KINDS[:5])
def test_threads_that_use_a_stack_at_the_end_hold_nobody_up(stack: str, tmp_path: Path) -> None:
    said = left_open(tmp_path, "threads", stack, options=("-X", "dev"))
    assert "Exception ignored" not in said


def test_one_that_is_open_is_told_of_and_closed() -> None:
    closed = []
    with pytest.warns(ResourceWarning, match=r"^unclosed 'thing'$"):
        unclosed("thing", lambda: closed.append("closed"), at_end=lambda: closed.append("end"))
    assert closed == ["closed"]


@pytest.mark.filterwarnings("error")
def test_it_is_closed_where_the_warning_is_an_error() -> None:
    closed = []
    with pytest.raises(ResourceWarning):
        unclosed("thing", lambda: closed.append("closed"))
    assert closed == ["closed"]


def test_a_thread_does_not_wait_for_itself() -> None:
    joined = []
    thread = threading.Thread(target=lambda: joined.append(join(threading.current_thread())))
    thread.start()
    assert join(thread)
    assert joined == [False]


def test_no_thread_is_waited_for_while_the_interpreter_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vpoll_asyncio.ending, "ending", lambda: True)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert not join(thread)
    stop.set()
    thread.join()
    assert join(thread)
