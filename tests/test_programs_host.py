"""Programs on a stack with the host, as slirp has it, at the other end: a port each way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postgresql import USER, postgresql
from processes import ROOT, free_port
from program_pairs import (
    DATABASE_CLIENT,
    LOOPS,
    STACKS,
    WEBSOCKETS,
    Conversation,
    complaints,
    lay_out,
    run_on,
    start,
)

pytestmark = pytest.mark.needs("slirp")

# The addresses that slirp gives.
STACK, HOST = "10.0.2.15", "10.0.2.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    """The port of a PostgreSQL server on the host's loopback."""
    with postgresql() as port:
        yield port


@pytest.fixture(params=STACKS)
def config(request: pytest.FixtureRequest) -> str:
    """A stack behind slirp, whose options are still to be filled in."""
    return f"stack={request.param},vnl=slirp://{{}},ip={STACK}/24,gw={HOST}"


@pytest.mark.needs("websockets")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_websockets_client_of_the_host_meets_a_server_on_the_stack(
    config: str, loop: str, folder: Path
) -> None:
    port = free_port()
    talk = Conversation(WEBSOCKETS, server=f"127.0.0.1:{port}", client=HOST)
    on_slirp = config.format(f"/tcpfwd=127.0.0.1:{port}:{STACK}:80")
    with run_on(on_slirp, loop, talk.server, folder) as server:
        talk.wait_for_server(server)
        with start(talk.client, folder) as client:
            talk.type_in(client)
            talk.check_client(client)
        server.interrupt()
        talk.check_server(server)


@pytest.mark.needs("websockets")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_websockets_client_on_the_stack_meets_a_server_of_the_host(
    config: str, loop: str, folder: Path
) -> None:
    port = free_port()
    talk = Conversation(WEBSOCKETS, server=f"{HOST}:{port}", client="127.0.0.1")
    with start(["websockets_server.py", "127.0.0.1", str(port)], folder) as server:
        server.wait_for("Serving on ")
        with run_on(config.format(""), loop, talk.client, folder) as client:
            talk.type_in(client)
            talk.check_client(client)
        server.interrupt()
        talk.check_server(server)


@pytest.mark.needs("asyncpg", "postgresql")
@pytest.mark.parametrize("loop", LOOPS)
def test_asyncpg_on_the_stack_works_with_a_postgresql_server_of_the_host(
    config: str, loop: str, folder: Path, database: int
) -> None:
    command = [*DATABASE_CLIENT, HOST, str(database), USER]
    with run_on(config.format(""), loop, command, folder) as client:
        status, _ = client.wait()
        assert not complaints(client.said)
        assert client.said == [
            "PostgreSQL",
            "COPY 10000",
            "UniqueViolationError",
            "sum 49995000",
            "8555",
            "heard",
            "cancelled 1",
        ]
        assert status == 0


def test_the_documentation_shows_the_database_client() -> None:
    page = (ROOT / "docs" / "how-to" / "programs.md").read_text()
    assert f"`{' '.join([*DATABASE_CLIENT, HOST, '5432', USER])}`" in page
