"""A program with a vdestack that stays in one phase of its life until it is killed.

vdestack_phase.py PHASE   PHASE is "opening", "open", "accept", "asking" or "closing"
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import vpoll_asyncio as va
from vpoll_asyncio import native
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.stacks.vdestack import VdeStack

phase = sys.argv[1]
near, far = wire_pair()
if phase == "opening":
    # A helper that stops before it does anything.
    helper = Path(os.environ["VPOLL_TEST_HELPER"])
    native.build = lambda name: helper
    print("now", flush=True)
stack = va.open_stack("vdestack", link=near, ip="10.9.0.1/24")
assert isinstance(stack, VdeStack)
with stack.socket() as listener:
    print("helper", stack.helper, flush=True)
    listener.bind(("10.9.0.1", 80))
    listener.listen()
    if phase in ("asking", "closing"):
        os.kill(stack.helper, signal.SIGSTOP)
    print("now", flush=True)
    match phase:
        case "open":
            signal.pause()
        case "accept":
            listener.accept()
        case "asking":
            stack.socket()
        case "closing":
            stack.close()
