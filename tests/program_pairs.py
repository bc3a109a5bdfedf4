"""Real servers and clients, by their own command lines, and what they say to each other.

docs/how-to/programs.md shows these command lines.
"""

from __future__ import annotations

import hashlib
import random
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from processes import PROGRAMS, Command

LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]

STACKS = [
    pytest.param("lwip", marks=pytest.mark.needs("lwip", "vde")),
    pytest.param("vdestack", marks=pytest.mark.needs("vdestack", "vde")),
]
"""The stacks that carry a program's traffic out of its process."""

SERVER = "10.9.0.1"
CLIENT = "10.9.0.2"
# In an empty network namespace the kernel's sockets reach nothing, not even 127.0.0.1.
EMPTY_NETWORK = ("unshare", "-U", "-r", "-n")

_BLOB = 3_000_000
_COMPLAINTS = ("Traceback", "Warning", "Exception ignored", "never retrieved", "was destroyed")
# What the client of websockets moves the cursor with.
_ESCAPES = re.compile(r"\x1b(?:\[[A-Z]|[78])")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A server, its client, and what they say.

    ``{server}`` and ``{client}`` stand for their addresses, as the other one sees them.
    """

    name: str
    needs: tuple[str, ...]
    server: str
    """Arguments of ``vpoll-asyncio run``, as `client`."""
    ready: str
    """How the line of the server begins that says that it serves."""
    client: str
    told: tuple[str, ...]
    """What the client says, all of it."""
    typed: tuple[tuple[str, str], ...] = ()
    """Lines for the client, each with the beginning of the answer to wait for."""
    heard: tuple[str, ...] = ()
    """How lines begin that the server says then, in this order."""


WEBSOCKETS = Pair(
    name="websockets",
    needs=("websockets",),
    server="websockets_server.py 0.0.0.0 80",
    ready="Serving on 0.0.0.0:80",
    client="-m websockets ws://{server}/",
    told=("Connected to ws://{server}/.", "< HELLO", "< YOU", "Connection closed: 1000 (OK)."),
    typed=(("hello", "\x1b[A\x1b[L< HELLO"), ("you", "\x1b[A\x1b[L< YOU")),
)

PAIRS = [
    Pair(
        name="aiohttp",
        needs=("aiohttp",),
        server="-m aiohttp.web -H 0.0.0.0 -P 80 aiohttp_app:make",
        ready="======== Running on http://0.0.0.0",
        client="aiohttp_client.py http://{server}",
        told=(
            "10 answers over 1 connection from {client}",
            "1048576 bytes came back",
            "OVER A USER-SPACE STACK",
        ),
        heard=("INFO:aiohttp.access:{client} ", "Stopped"),
    ),
    Pair(
        name="uvicorn, httpx",
        needs=("uvicorn", "httpx"),
        server="-m uvicorn asgi_app:app --host 0.0.0.0 --port 80",
        ready="INFO:     Uvicorn running on http://0.0.0.0:80",
        client="httpx_client.py http://{server}",
        told=(
            "AsyncClient: 10 answers over 1 connection from {client}",
            "Client: 10 answers over 1 connection from {client}",
        ),
        heard=("INFO:     {client}:", "INFO:     Application shutdown complete."),
    ),
    WEBSOCKETS,
    Pair(
        name="asyncssh",
        needs=("asyncssh",),
        server="ssh_server.py 0.0.0.0 22 host_key guest.pub files",
        ready="Serving on 0.0.0.0:22",
        client="ssh_client.py {server} 22 guest known_hosts",
        told=(
            "hello guest from {client} ONE TWO, exit status 7",
            "1048576 bytes went by SFTP and came back",
        ),
    ),
    Pair(
        name="aiosmtpd, smtplib",
        needs=("aiosmtpd",),
        server="-m aiosmtpd -n -d -l 0.0.0.0:25",
        ready="INFO:mail.log:Server is listening on 0.0.0.0:25",
        client="smtp_client.py {server} 25",
        told=("refused: nobody", "then: (250, b'OK')"),
        heard=("Subject: by smtplib", "X-Peer: ('{client}', ", "------------ END MESSAGE"),
    ),
    Pair(
        name="http.server, requests",
        needs=("requests",),
        server="-m http.server 80 --directory files",
        ready="Serving HTTP on ",
        client="requests_client.py http://{server}",
        told=(
            "200 OK, blob listed: True",
            "404 File not found",
            f"{_BLOB} bytes, whole: True",
            "at once: 8",
        ),
        heard=("{client} - - [", "Keyboard interrupt received, exiting."),
    ),
]

DATABASE_CLIENT = ("database_client.py",)
"""Then come the host, the port and the user."""


def as_parameters(pairs: Iterable[Pair]) -> list[object]:
    return [
        pytest.param(pair, id=pair.name, marks=pytest.mark.needs(*pair.needs)) for pair in pairs
    ]


def lay_out(folder: Path) -> None:
    """Copy the programs to `folder`, with the files that they read."""
    shutil.copytree(PROGRAMS / "apps", folder, dirs_exist_ok=True)
    files = folder / "files"
    files.mkdir()
    blob = random.Random(5).randbytes(_BLOB)
    (files / "blob").write_bytes(blob)
    (files / "blob.sha256").write_text(hashlib.sha256(blob).hexdigest())


def lay_out_keys(folder: Path, *servers: str) -> None:
    """Make the SSH keys of a host known by the addresses `servers`, and of its guest."""
    import asyncssh

    for name in ("host_key", "guest"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        key.write_public_key(folder / f"{name}.pub")
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"{','.join(servers)} {public}")


def run_on(
    stack: str, loop: str, program: Sequence[str], folder: Path, prefix: Sequence[str] = ()
) -> Command:
    """Start ``vpoll-asyncio run`` with `program` in `folder`.

    stack -- its configuration
    prefix -- a command to run it under
    """
    run = ("-m", "vpoll_asyncio", "run", "--stack", stack, "--loop", loop)
    return start([*run, *program], folder, prefix)


def start(python: Sequence[str], folder: Path, prefix: Sequence[str] = ()) -> Command:
    """Start Python with these arguments in `folder`: what it leaves open it tells."""
    command = [*prefix, sys.executable, "-W", "always::ResourceWarning", *python]
    return Command(command, cwd=folder, merge=True)


class Conversation:
    """A `Pair` with its addresses filled in."""

    def __init__(self, pair: Pair, *, server: str = SERVER, client: str = CLIENT) -> None:
        self._pair = pair
        self._addresses = {"server": server, "client": client}

    def _filled(self, text: str) -> str:
        return text.format(**self._addresses)

    @property
    def server(self) -> list[str]:
        return shlex.split(self._filled(self._pair.server))

    @property
    def client(self) -> list[str]:
        return shlex.split(self._filled(self._pair.client))

    def wait_for_server(self, server: Command) -> None:
        server.wait_for(self._pair.ready)

    def type_in(self, client: Command) -> None:
        """Type what there is to type, and end the input of `client`."""
        for line, answer in self._pair.typed:
            client.say(line)
            client.wait_for(answer)
        client.end_input()

    def _said(self, process: Command) -> list[str]:
        # Without prompts.
        lines = [_ESCAPES.sub("", line).lstrip("> ") for line in process.said]
        return [line for line in lines if line]

    def check_client(self, client: Command) -> None:
        """Wait for the end of `client`: it must have said what it should, and no more."""
        status, _ = client.wait()
        assert self._said(client) == [self._filled(line) for line in self._pair.told]
        assert status == 0

    def check_client_among(self, both: Command) -> None:
        """`both` runs the server, too, and has ended.

        What the two say may stand in one line: each writes a line's end by itself.
        """
        said = "\n".join(self._said(both))
        at = 0
        for told in map(self._filled, self._pair.told):
            at = said.find(told, at)
            assert at >= 0, told
            at += len(told)

    def check_server(self, server: Command) -> None:
        """Wait for the end of `server`, of which Ctrl-C is a good one."""
        status, _ = server.wait()
        lines = iter(server.said)
        for beginning in map(self._filled, self._pair.heard):
            assert any(line.startswith(beginning) for line in lines), beginning
        assert not complaints(server.said)
        assert status == 0


def complaints(lines: Sequence[str]) -> list[str]:
    """Return the lines that a program prints when something went wrong in it."""
    return [line for line in lines if any(part in line for part in _COMPLAINTS)]
