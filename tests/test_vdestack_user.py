"""vdestack for an ordinary user: no privilege, /dev/net/tun as udev makes it, a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ordinary_user import NOBODY, Runner, ordinary_user

pytestmark = pytest.mark.needs("ordinary_user", "vdestack")

USER = os.geteuid() or NOBODY


@pytest.fixture(scope="module")
def user() -> Iterator[Runner]:
    """One user for all tests, who compiles the helper once."""
    with ordinary_user() as runner:
        yield runner


@pytest.mark.parametrize(
    "network",
    ["wire", "ptp", pytest.param("switch", marks=pytest.mark.needs("vde", "vde_switch"))],
)
def test_stacks_are_opened_used_and_closed(user: Runner, network: str) -> None:
    path = f"{user.folder}/{network}"
    locator, *folder = {
        "wire": ["wire://lab"],
        "ptp": [f"ptp://{path}"],
        "switch": [f"vde://{path}", path],
    }[network]
    done = user(str(user.programs / "vdestack_life.py"), locator, *folder)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "answer HELLO",
        f"helpers of {USER}",
        f"myself {USER}",
        "gone",
    ]


ASKS = "import socket; print(*(name for _, name in socket.if_nameindex()))"
CHILDREN = {
    "any command": "subprocess.run(['ip', '-o', 'link'], check=True)",
    "a Python program": f"os.spawnl(os.P_WAIT, sys.executable, sys.executable, '-c', {ASKS!r})",
    "a forked child": f"os.fork() and os.wait() or exec({ASKS!r})",
}


@pytest.mark.needs("ip")
@pytest.mark.parametrize("child", CHILDREN)
def test_children_of_a_program_are_on_the_stack(user: Runner, child: str) -> None:
    stack = "stack=vdestack,vnl=wire://lab,ip=10.9.0.1/24"
    done = user(
        *("-W", "ignore:This process:DeprecationWarning"),
        *("-m", "vpoll_asyncio", "run", "--stack", stack, "--children", "stack"),
        *("-c", f"import os, subprocess, sys; {CHILDREN[child]}"),
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert "vde0" in done.stdout
