"""How a program under ``vpoll-asyncio run`` ends: its data arrives, its status is Python's."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import ROOT, SECONDS
from run_helpers import MEMORY, Ended, python

# What is on its way when the program ends takes another tenth of a second.
SLOW = "vnl=netem://delay=100ms{slirp://},ip=10.0.2.15/24,gw=10.0.2.2"
STACKS = pytest.mark.parametrize(
    "stack",
    [
        pytest.param("lwip", marks=pytest.mark.needs("lwip", "slirp")),
        pytest.param("vdestack", marks=pytest.mark.needs("vdestack", "slirp")),
    ],
)
SIZE = 20_000

ENDS = {
    "end of the script": "",
    "closed socket": "sock.close()",
    "exception": "raise ValueError('last')",
    "thread": "threading.Thread(target=lambda: (threading.main_thread().join(),"
    " sock.sendall(bytes(100)))).start()",
}
SENDS = """
import socket, sys, threading, warnings
warnings.simplefilter("ignore", ResourceWarning)
sock = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
sock.sendall(bytes({size}))
{end}
"""
LOOP_SENDS = f"""
import asyncio, sys, warnings
warnings.simplefilter("ignore", ResourceWarning)
async def main():
    reader, writer = await asyncio.open_connection("10.0.2.2", int(sys.argv[1]))
    writer.write(bytes({SIZE}))
    await writer.drain()
asyncio.run(main())
"""


def received(stack: str, code: str, *options: str) -> int:
    """How many bytes the host gets of a program that connects to it and ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        port = str(server.getsockname()[1])
        config = f"stack={stack},{SLOW}"
        command = ["-m", "vpoll_asyncio", "run", "--stack", config, *options, "-c", code, port]
        with subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                accepted, _ = server.accept()
                accepted.settimeout(SECONDS)
                count = 0
                with accepted, contextlib.suppress(ConnectionResetError):
                    while data := accepted.recv(65536):
                        count += len(data)
                process.wait(SECONDS)
            finally:
                process.kill()
        return count


@pytest.mark.parametrize(
    ("stack", "end"),
    [
        *(pytest.param("lwip", end, marks=pytest.mark.needs("lwip", "slirp")) for end in ENDS),
        *(
            pytest.param("vdestack", end, marks=pytest.mark.needs("vdestack", "slirp"))
            for end in ("end of the script", "thread")
        ),
    ],
)
def test_data_that_was_sent_arrives_although_the_program_ends(stack: str, end: str) -> None:
    more = 100 if end == "thread" else 0
    code = SENDS.format(size=SIZE - more, end=ENDS[end])
    assert received(stack, code) == SIZE


@pytest.mark.needs("lwip", "slirp")
@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_data_that_a_loop_was_sending_arrives(loop: str) -> None:
    assert received("lwip", LOOP_SENDS, "--loop", loop) == SIZE


@STACKS
def test_data_is_dropped_where_that_is_asked_for(stack: str) -> None:
    assert received(stack, SENDS.format(size=SIZE, end=""), "--drain", "0") < SIZE


@pytest.mark.parametrize("seconds", ["-1", "soon", "nan", "inf"])
def test_a_wrong_time_is_refused(seconds: str) -> None:
    command = ("-m", "vpoll_asyncio", "run", "--stack", MEMORY, "--drain", seconds, "-c", "1")
    ended = python(*command)
    assert ended.status == 2
    assert f"{seconds!r}: expected seconds" in ended.err


WAITS = """
import signal, sys
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: sys.exit(f"told {number}"))
print("ready", flush=True)
signal.pause()
"""


def signalled(command: list[str], number: int) -> Ended:
    with subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, out, err)


def under_run(*arguments: str, stack: str = MEMORY) -> list[str]:
    return ["-m", "vpoll_asyncio", "run", "--stack", stack, *arguments]


@pytest.mark.parametrize(
    ("name", "handled"),
    [
        ("SIGINT", False),
        ("SIGTERM", False),
        ("SIGHUP", False),
        ("SIGINT", True),
        ("SIGTERM", True),
        # Python ignores it else: see test_a_reader_that_goes_away_is_a_broken_pipe.
        ("SIGPIPE", True),
    ],
)
def test_a_signal_ends_a_program_as_it_ends_python(
    tmp_path: Path, name: str, handled: bool
) -> None:
    program = tmp_path / "waits.py"
    program.write_text(WAITS)
    arguments = [str(program), *([name] if handled else [])]
    number = getattr(signal, name)
    ours = signalled(under_run(*arguments), number)
    theirs = signalled(arguments, number)
    # In which statement the program is interrupted is chance.
    statement = re.compile(r", line \d+, in <module>\n(    .*\n)+")
    assert ours._replace(err=statement.sub("", ours.err)) == theirs._replace(
        err=statement.sub("", theirs.err)
    )
    assert ours.status == (1 if handled else -number)


def piped(command: list[str]) -> tuple[int, bytes]:
    """Run `command`, close its output after a line; return its status and its last words."""
    with subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(SECONDS)
    return process.returncode, err


def test_a_reader_that_goes_away_is_a_broken_pipe(tmp_path: Path) -> None:
    program = tmp_path / "talks.py"
    program.write_text("while True:\n    print('line ' * 1000)\n")
    ours = piped(under_run(str(program)))
    assert ours == piped([str(program)])
    assert ours[0] != 0
    assert b"BrokenPipeError" in ours[1]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_a_program_has_the_terminal(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    code = "import os; print(input('name? '), os.isatty(0), os.isatty(1), os.tcgetpgrp(0) > 0)"
    with subprocess.Popen(
        [sys.executable, *under_run("-c", code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    ) as process:
        said = b""
        while b"name? " not in said:
            said += os.read(ours, 1000)
        os.write(ours, b"me\n")
        process.wait(SECONDS)
    said += os.read(ours, 1000)
    assert b"me True True True" in said, said


def test_the_prompt_of_python_i_has_the_programs_names(tmp_path: Path) -> None:
    program = tmp_path / "names.py"
    program.write_text("name = 'found'\n")
    ended = python("-i", *under_run(str(program)), stdin="print(name)\n")
    assert ended.out == "found\n"


def test_what_the_interpreter_was_told_holds_for_the_program() -> None:
    code = textwrap.dedent("""
        import sys, warnings
        print(sys.flags.dev_mode, sys._xoptions.get("own"), sys.flags.optimize)
        assert False, "not with -O"
        warnings.warn("told", UserWarning)
    """)
    ours = python("-O", "-X", "own=1", *under_run("-c", code))
    assert ours.out == "True 1 1\n"
    assert "UserWarning: told" in ours.err
    assert ours.status == 1


def test_an_open_socket_at_the_end_adds_nothing_to_the_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, socketserver\n"
        "server = socketserver.TCPServer(('0.0.0.0', 80), None)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "server.serve_forever()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "vpoll_asyncio", "run", "--stack", "stack=memory", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in ended.stderr
