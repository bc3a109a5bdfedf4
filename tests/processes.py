"""Programs that tests run as processes of their own, and wait for by what they print."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
SECONDS = 120
"""Longest wait for a line or for an exit; a bound against hangs, not a measurement."""


class Command:
    """A command that runs until stopped, and what it says on standard output and error.

    merge -- whether the lines of standard error are among those of standard output
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        pass_fds: tuple[int, ...] = (),
        merge: bool = False,
    ) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=cwd,
            pass_fds=pass_fds,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        self._errors = ""
        out, err = self._process.stdout, self._process.stderr
        assert out is not None

        def read_lines() -> None:
            for line in out:
                self._said.append(line.rstrip("\n"))
                self._lines.put(line.rstrip("\n"))
            self._lines.put(None)

        def read_errors() -> None:
            self._errors = err.read() if err is not None else ""

        self._readers = [threading.Thread(target=read_lines), threading.Thread(target=read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def peak_memory(self) -> int:
        """Largest resident size so far, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM in /proc/PID/status")

    def wait_for(self, prefix: str) -> str:
        """Return the next line that begins with `prefix`."""
        while True:
            try:
                line = self._lines.get(timeout=SECONDS)
            except queue.Empty:
                self.kill()
                raise AssertionError(f"no line {prefix!r} in time; {self._told()}") from None
            if line is None:
                self.wait()
                raise AssertionError(f"ended without a line {prefix!r}; {self._told()}")
            if line.startswith(prefix):
                return line

    @property
    def said(self) -> list[str]:
        """The lines of its standard output so far."""
        return list(self._said)

    def _told(self) -> str:
        return "\n".join(["output:", *self._said, f"stderr: {self._errors}"])

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def interrupt(self) -> None:
        """Send Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and what it wrote to standard error."""
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end in time; {self._told()}") from None
        for reader in self._readers:
            reader.join()
        return status, self._errors

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if exc is not None:
            sys.stderr.write(self._told())


class Program(Command):
    """A Python program of ``tests/programs`` that runs until stopped, warnings as errors.

    prefix -- a command to run it under, such as ``("unshare", "-n")``
    """

    def __init__(
        self,
        script: str,
        *args: str,
        prefix: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        python = (sys.executable, "-X", "dev", "-W", "error")
        super().__init__([*prefix, *python, str(PROGRAMS / script), *args], pass_fds=pass_fds)


def free_port(kind: str = "tcp") -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    import socket

    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
