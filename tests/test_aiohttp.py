"""An unmodified aiohttp server and client over user-space stacks, with no network underneath."""

from __future__ import annotations

import pytest

from processes import Program

pytestmark = pytest.mark.needs("aiohttp", "netns", "userns")

# In an empty network namespace even 127.0.0.1 is unreachable to the kernel's sockets.
EMPTY_NETWORK = ("unshare", "-U", "-r", "-n")


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param("stack=memory,vnl=mem://lab,ip=10.1.1.1/24", id="memory"),
        pytest.param(
            "stack=lwip,vnl=wire://lab,ip=10.1.1.1/24", id="lwip", marks=pytest.mark.needs("lwip")
        ),
    ],
)
@pytest.mark.parametrize("host", ["10.1.1.1", "127.0.0.1"])
def test_server_and_client_meet_on_the_stack(loop: str, config: str, host: str) -> None:
    with Program("aiohttp_on_stack.py", loop, config, host, prefix=EMPTY_NETWORK) as program:
        program.wait_for(f"hello {host}")
        program.wait_for("posted")
        program.wait_for("downloaded")
        program.wait_for("OVER A USER-SPACE STACK")
        program.wait_for("at once 100")
        program.wait_for("done")
        assert program.wait() == (0, "")


def test_the_kernels_sockets_reach_nothing_there() -> None:
    with Program("kernel_loopback.py", prefix=EMPTY_NETWORK) as program:
        program.wait_for("ENETUNREACH")
        assert program.wait() == (0, "")
