"""Servers and clients of well-known packages, unmodified, each on a stack of its own.

Every process is started by the command line that docs/how-to/programs.md shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import missing
from processes import PROGRAMS, ROOT
from program_pairs import (
    CLIENT,
    EMPTY_NETWORK,
    LOOPS,
    PAIRS,
    SERVER,
    STACKS,
    Conversation,
    Pair,
    as_parameters,
    lay_out,
    lay_out_keys,
    run_on,
)
from vde_ends import vde_switch

pytestmark = pytest.mark.needs("netns", "userns")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs run: they, their files and their keys."""
    folder = tmp_path_factory.mktemp("programs")
    lay_out(folder)
    if missing("asyncssh") is None:
        lay_out_keys(folder, SERVER)
    return folder


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A vde_switch, the only way from one process to the other."""
    path = tmp_path_factory.mktemp("network") / "switch"
    with vde_switch(path):
        yield path


@pytest.mark.needs("vde_switch")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("pair", as_parameters(PAIRS))
def test_server_and_client_meet_on_a_vde_network(
    pair: Pair, stack: str, loop: str, folder: Path, switch: Path
) -> None:
    talk = Conversation(pair)
    config = f"stack={stack},vnl=vde://{switch},ip="
    with run_on(f"{config}{SERVER}/24", loop, talk.server, folder, EMPTY_NETWORK) as server:
        talk.wait_for_server(server)
        with run_on(f"{config}{CLIENT}/24", loop, talk.client, folder, EMPTY_NETWORK) as client:
            talk.type_in(client)
            talk.check_client(client)
        server.interrupt()
        talk.check_server(server)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("pair", as_parameters(PAIRS))
def test_server_and_client_meet_in_one_process(pair: Pair, loop: str, folder: Path) -> None:
    talk = Conversation(pair, client=SERVER)
    both = [str(PROGRAMS / "two_programs.py"), *map(" ".join, (talk.server, talk.client))]
    config = f"stack=memory,vnl=mem://programs,ip={SERVER}/24"
    with run_on(config, loop, both, folder, EMPTY_NETWORK) as process:
        talk.wait_for_server(process)
        process.say("go")
        talk.type_in(process)
        talk.check_server(process)
        talk.check_client_among(process)


@pytest.mark.parametrize("pair", as_parameters(PAIRS))
def test_the_documentation_shows_the_command_lines(pair: Pair) -> None:
    page = (ROOT / "docs" / "how-to" / "programs.md").read_text()
    talk = Conversation(pair)
    for program in (talk.server, talk.client):
        assert f"`{' '.join(program)}`" in page
