"""Every way to an event loop that a program under ``vpoll-asyncio run`` may take leads to ours."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from needs import missing
from processes import PROGRAMS
from run_helpers import MEMORY, python, run

APPS = PROGRAMS / "apps"
ASYNCIO = [
    "asyncio.run",
    "Runner",
    "new_event_loop",
    "get_event_loop",
    "the policy's new_event_loop",
    "SelectorEventLoop",
    "loop_factory=SelectorEventLoop",
    "loop_factory=new_event_loop",
    "DefaultEventLoopPolicy",
    "a policy of the program's",
    "IsolatedAsyncioTestCase",
    *(["asyncio.run(loop_factory=)"] if sys.version_info >= (3, 12) else []),
    *(["EventLoop"] if sys.version_info >= (3, 13) else []),
]
PACKAGES = {"anyio": "httpx", "uvicorn --loop asyncio": "uvicorn"}
UVLOOP = [
    "uvloop.run",
    "uvloop.install",
    "uvloop.new_event_loop",
    "uvloop.EventLoopPolicy",
    "uvloop.Loop",
    "loop_factory=uvloop.new_event_loop",
]
UVLOOP_PACKAGES = {
    "anyio with uvloop": "httpx",
    "uvicorn --loop uvloop": "uvicorn",
    "uvicorn --loop auto": "uvicorn",
}
OWN = "a class of the program's"


def needing(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.needs(*names)


WAYS = [
    *(pytest.param(way, "asyncio", id=way) for way in ASYNCIO),
    *(
        pytest.param(way, "asyncio", id=way, marks=needing(package))
        for way, package in PACKAGES.items()
    ),
    *(pytest.param(way, "uvloop", id=way, marks=needing("uvloop")) for way in UVLOOP),
    *(
        pytest.param(way, "uvloop", id=way, marks=needing("uvloop", package))
        for way, package in UVLOOP_PACKAGES.items()
    ),
]
CHOICES = [None, "asyncio", pytest.param("uvloop", marks=needing("uvloop"))]
CLASSES = {"asyncio": "EventLoop", "uvloop": "UvloopEventLoop"}


@functools.cache
def made(choice: str | None) -> dict[str, str]:
    """The class of the loop for each way that can be tried here."""
    ways = [*ASYNCIO, OWN]
    ways += [way for way, package in PACKAGES.items() if missing(package) is None]
    if missing("uvloop") is None:
        ways += UVLOOP
        ways += [way for way, package in UVLOOP_PACKAGES.items() if missing(package) is None]
    chosen = [] if choice is None else ["--loop", choice]
    # anyio and uvicorn warn of themselves on some versions of Python.
    command = ["-W", "always", "-m", "vpoll_asyncio", "run", "--stack", MEMORY, *chosen]
    ended = python(*command, "loops_made.py", *ways, cwd=APPS)
    assert ended.status == 0, ended.err
    return dict(line.split(": ") for line in ended.out.splitlines())


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("way", "asked"), WAYS)
def test_a_program_gets_the_loop_that_it_asks_for_or_the_one_that_is_chosen(
    way: str, asked: str, choice: str | None
) -> None:
    assert made(choice)[way] == CLASSES[choice or asked]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_class_that_the_program_derives_stays_its_own(choice: str | None) -> None:
    assert made(choice)[OWN] == "Own"


ASYNC_TEST = """
import asyncio, socket
import vpoll_asyncio as va

async def test_loop():
    assert type(asyncio.get_running_loop()) is va.CLASS
    async def answer(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    server = await asyncio.start_server(answer, "10.0.0.1", 7)
    reader, writer = await asyncio.open_connection("10.0.0.1", 7)
    writer.write(b"hello")
    assert await reader.read(100) == b"hello"
    writer.close()
    server.close()
"""


@pytest.mark.parametrize("choice", ["asyncio", pytest.param("uvloop", marks=needing("uvloop"))])
def test_a_test_of_pytest_asyncio_runs_on_it(choice: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(ASYNC_TEST.replace("CLASS", CLASSES[choice]))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = ["-m", "vpoll_asyncio", "run", "--stack", MEMORY, "--loop", choice]
    ended = python("-W", "always", *command, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path)
    assert ended.status == 0, ended.out + ended.err
    assert "1 passed" in ended.out


POLLS = """
import select, socket
server = socket.create_server(("10.0.0.1", 7))
poll, epoll = select.poll(), select.epoll()
for poller in (poll, epoll):
    poller.register(server.fileno(), select.POLLIN)
with socket.create_connection(("10.0.0.1", 7)):
    ready, _, _ = select.select([server], [], [], 60)
    print(len(poll.poll(60000)), len(epoll.poll(60)), ready == [server])
    server.accept()[0].close()
epoll.close()
server.close()
"""


@pytest.mark.parametrize(
    "backend",
    [
        "unixpair",
        "tcppair",
        pytest.param("fuse", marks=needing("fuse")),
        pytest.param("device", marks=needing("dev_vpoll")),
        pytest.param("eventfd", marks=needing("efd_vpoll")),
    ],
)
def test_a_backend_shows_the_programs_sockets_to_pollers(backend: str) -> None:
    assert run("--backend", backend, "-c", POLLS) == (0, "1 1 True\n", "")


def test_a_backend_that_there_is_not_is_refused() -> None:
    status, out, err = run("--backend", "absent", "-c", "print(1)")
    assert (status, out) == (2, "")
    assert "absent" in err


def test_the_stack_is_taken_from_the_environment() -> None:
    told = (
        "import socket; sock = socket.create_server(('10.0.0.1', 7)); print(sock.getsockname()); "
        "sock.close()"
    )
    ended = python(*("-m", "vpoll_asyncio", "run", "-c", told), environment={"VPOLL_STACK": MEMORY})
    assert ended == (0, "('10.0.0.1', 7)\n", "")


def test_a_second_stack_is_reached_by_its_name() -> None:
    told = """
import socket
import vpoll_asyncio as va
second = va.stack_named("second")
with second.socket() as server, socket.socket() as client:
    server.bind(("10.0.0.2", 7))
    server.listen()
    client.connect(("10.0.0.2", 7))
    accepted, peer = server.accept()
    print(peer[0], client.stack is not second)
    accepted.close()
"""
    command = ["-m", "vpoll_asyncio", "run", "--stack", "stack=memory,vnl=mem://two,ip=10.0.0.1/24"]
    command += ["--stack", "stack=memory,vnl=mem://two,ip=10.0.0.2/24,name=second"]
    assert python(*command, "-c", told) == (0, "10.0.0.1 True\n", "")


def test_a_second_stack_without_a_name_is_refused() -> None:
    status, out, err = run("--stack", "stack=memory,ip=10.0.0.2/24", "-c", "print(1)")
    assert (status, out) == (2, "")
    assert "add name=LABEL" in err
