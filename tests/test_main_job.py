"""The main job: the host's clients are answered by an unmodified program on lwIP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Program, free_port

MEGABYTE = 1_000_000
LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def started(loop_name: str, port: int) -> Iterator[Program]:
    """The HTTP server on lwIP behind slirp, reached at 127.0.0.1:`port`."""
    vnl = f"slirp:///tcpfwd=127.0.0.1:{port}:10.0.2.15:80"
    config = f"stack=lwip,vnl={vnl},ip=10.0.2.15/24,gw=10.0.2.2"
    with Program("http_on_stack.py", loop_name, config) as program:
        program.wait_for("listening on")
        yield program


@pytest.fixture
def program(started: Program) -> Iterator[Program]:
    """The same, and it must end cleanly after the test."""
    yield started
    end_cleanly(started)


def end_cleanly(program: Program) -> None:
    program.interrupt()
    program.wait_for("interrupted")
    assert program.wait_for("leaked") == "leaked []"
    assert program.wait() == (0, "")


def curl(*arguments: str) -> bytes:
    return subprocess.run(
        ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "100", *arguments],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout


pytestmark = pytest.mark.needs("lwip", "slirp")


@pytest.mark.needs("curl")
def test_curl_is_answered(program: Program, port: int) -> None:
    assert curl(f"http://127.0.0.1:{port}/") == b"hello\n"


def test_a_thousand_requests_one_after_the_other_succeed(program: Program, port: int) -> None:
    for _ in range(1000):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/", headers={"Connection": "close"})
        assert connection.getresponse().read() == b"hello\n"
        connection.close()


async def test_two_hundred_requests_at_once_succeed(program: Program, port: int) -> None:
    async def fetch() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: lwip\r\nConnection: close\r\n\r\n")
            return (await reader.read()).partition(b"\r\n\r\n")[2]
        finally:
            writer.close()
            await writer.wait_closed()

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(fetch() for _ in range(200)))
    assert answers == [b"hello\n"] * 200


@pytest.mark.needs("curl")
def test_fifty_megabytes_go_in_and_out_intact_in_bounded_memory(
    program: Program, port: int, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(os.urandom(50 * MEGABYTE))
    curl(f"http://127.0.0.1:{port}/bytes/{MEGABYTE}")
    before = program.peak_memory

    said = curl("-T", str(upload), f"http://127.0.0.1:{port}/upload").split()
    assert said[0] == b"50000000"
    assert said[1].decode() == hashlib.sha256(upload.read_bytes()).hexdigest()

    head = tmp_path / "head"
    body = curl("--dump-header", str(head), f"http://127.0.0.1:{port}/bytes/{50 * MEGABYTE}")
    told = [line for line in head.read_text().splitlines() if line.startswith("X-SHA256")]
    assert told == [f"X-SHA256: {hashlib.sha256(body).hexdigest()}"]

    assert program.peak_memory - before < 10 * MEGABYTE


def test_ctrl_c_ends_it_cleanly_with_connections_open(started: Program, port: int) -> None:
    with contextlib.ExitStack() as opened:

        def request(path: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            opened.callback(connection.close)
            connection.request("GET", path)
            return opened.enter_context(connection.getresponse())

        idle = request("/")
        assert idle.read() == b"hello\n"
        busy = request(f"/bytes/{50 * MEGABYTE}")
        assert len(busy.read(MEGABYTE)) == MEGABYTE
        end_cleanly(started)


@pytest.mark.needs("root", "tap", "ip", "curl")
def test_over_tap_the_host_kernels_tcp_is_answered(loop_name: str, tmp_path: Path) -> None:
    config = "stack=lwip,vnl=tap://tap0,ip=10.9.0.2/24"
    with Program("http_on_stack.py", loop_name, config, prefix=("unshare", "-n")) as program:
        program.wait_for("listening on")
        inside = ["nsenter", "-t", str(program.pid), "-n"]
        for command in ("addr add 10.9.0.1/24 dev tap0", "link set tap0 up"):
            subprocess.run([*inside, "ip", *command.split()], check=True)
        fetch = [*inside, "curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "100"]
        body = subprocess.run(
            [*fetch, f"http://10.9.0.2/bytes/{50 * MEGABYTE}"], check=True, stdout=subprocess.PIPE
        ).stdout
        upload = tmp_path / "upload"
        upload.write_bytes(body)
        said = subprocess.run(
            [*fetch, "-T", str(upload), "http://10.9.0.2/up"], check=True, stdout=subprocess.PIPE
        ).stdout
        digest = hashlib.sha256(body).hexdigest()
        assert said.decode().split() == [str(50 * MEGABYTE), digest]
        for _ in range(3):
            answers = subprocess.run(
                [*fetch, "--parallel", "--parallel-max", "100", "http://10.9.0.2/?[1-200]"],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
            assert answers == b"hello\n" * 200
        end_cleanly(program)


@pytest.mark.parametrize("config", ["stack=memory", "stack=lwip,vnl=wire://lab"])
def test_ctrl_c_ends_serve_forever_with_a_client_connected(loop_name: str, config: str) -> None:
    with Program("serve_forever.py", loop_name, f"{config},ip=10.1.1.1/24") as program:
        program.wait_for("connected")
        program.interrupt()
        program.wait_for("interrupted")
        assert program.wait() == (0, "")
