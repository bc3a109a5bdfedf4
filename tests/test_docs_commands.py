"""What the documentation shows at a shell is run, without a network of the host's.

Each ``sh`` block and the ``$`` lines of each ``console`` block run in a shell of their own; other
lines of a ``console`` block, and a ``text`` block right behind, are what they print.
"""

from __future__ import annotations

import pytest

from doc_blocks import SANDBOX, SHELLS, Block, as_parameters, run_block, scratch, script_of


@pytest.mark.needs("sandbox", "ip")
@pytest.mark.parametrize("block", as_parameters(*SHELLS))
def test_block_runs(block: Block) -> None:
    with scratch() as folder:
        done = run_block(block, folder, *SANDBOX)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    printed = script_of(block)[1]
    if printed is not None:
        assert done.stdout == printed
