"""Starting the daemon of the `fuse` backend, and what the daemon hands over.

The daemon is no child that anybody sees: no SIGCHLD comes of it, ``waitpid(-1)`` and
child watchers do not meet it, and there is nothing to reap.  A shell starts it in the
background and ends; that shell is the child of a process whose own end is announced
by no signal (clone(2) with an exit signal of 0), which only ``__WALL`` waits for.

Whether the program is the compiled one or the one in Python, it is told a number of a
socket, and answers there (``native/fuse/main.c`` has the message).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["COMPILED", "PYTHON", "Daemon", "NoDaemon", "launch", "run_in_background"]

COMPILED: Final = "compiled"
PYTHON: Final = "python"

_TIMEOUT: Final = 60.0
"""Seconds that a daemon may take to start, on a machine that is busy."""

_CLONE_VM: Final = 0x100
_CLONE_VFORK: Final = 0x4000
_WALL: Final = 0x4000_0000
_STACK: Final = 1 << 18

_head: Final = struct.Struct("=ii")


class NoDaemon(OSError):
    """A daemon cannot make its mount: the errno of the step that failed, and the step."""


class Daemon:
    """A daemon that runs: the root of its mount, and its process id.

    `device` is the number (``st_dev``) that files of its mount have and no others.

    The daemon ends when the descriptors of its mount are closed, `directory` among
    them, in every process that holds one.
    """

    __slots__ = ("device", "directory", "kind", "pid")

    def __init__(self, directory: int, pid: int, kind: str) -> None:
        self.directory = directory
        self.device = os.fstat(directory).st_dev
        self.pid = pid
        self.kind = kind

    def open(self) -> int:
        """Return a close-on-exec descriptor of a new vpoll without events.

        Raises OSError: ENOTCONN when the daemon is gone, EMFILE ….
        """
        return os.open("vpoll", os.O_RDWR | os.O_CLOEXEC, dir_fd=self.directory)

    def close(self) -> None:
        """Give back the root of the mount."""
        fd, self.directory = self.directory, -1
        if fd >= 0:
            os.close(fd)


def launch(kind: str | None = None) -> Daemon:
    """Start a daemon and return it once it can open vpolls.

    kind -- `COMPILED` or `PYTHON`; None takes the compiled one where it can be had

    Raises `NoDaemon` when the kernel refuses the mount, `OSError` when `COMPILED` was
    asked for and cannot be built, or when descriptors or processes run out, and
    TimeoutError when nothing was heard of the daemon.
    """
    if kind != PYTHON:
        try:
            # Not at the top: what compiles is of no use to who has no such vpoll.
            from ..native import build

            return _start([str(build("fuse"))], COMPILED)
        except NoDaemon:
            raise
        except OSError as error:
            if kind == COMPILED or error.errno in (errno.EMFILE, errno.ENFILE):
                raise
    if not sys.executable:
        raise OSError(errno.ENOENT, "sys.executable is empty: no Python to run the daemon with")
    program = Path(__file__).with_name("fuse_daemon.py")
    return _start([sys.executable, "-I", "-S", str(program)], PYTHON)


def _start(command: list[str], kind: str) -> Daemon:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            run_in_background([*command, str(theirs.fileno())], theirs.fileno())
        ours.settimeout(_TIMEOUT)
        message, fds, *_ = socket.recv_fds(ours, 4096, 1, socket.MSG_CMSG_CLOEXEC)
    if not message:
        raise OSError(errno.ENOEXEC, f"{shlex.join(command)} ended without a word")
    code, pid = _head.unpack_from(message)
    if code:
        step = message[_head.size :].decode()
        raise NoDaemon(code, f"{step}: {os.strerror(code)}")
    if not fds:
        # The kernel cuts off the descriptors for which there is no room.
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    try:
        return Daemon(fds[0], pid, kind)
    except BaseException:
        os.close(fds[0])
        raise


def run_in_background(command: list[str], inherited: int) -> None:
    """Run `command` as a process that is nobody's child, with the descriptor `inherited`."""
    script = f"{shlex.join(command)} &"
    try:
        import ctypes
    except ImportError:
        _run_as_child(script, inherited)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    function = ctypes.cast(libc.system, ctypes.c_void_p)
    argument = ctypes.create_string_buffer(os.fsencode(script))
    with mmap.mmap(-1, _STACK) as memory:
        stack = ctypes.c_char.from_buffer(memory)
        top = ctypes.c_void_p(ctypes.addressof(stack) + _STACK)
        try:
            with _signals_blocked():
                os.set_inheritable(inherited, True)
                # As vfork(2): this thread sleeps until system(3) is done in the other process.
                child = libc.clone(function, top, _CLONE_VM | _CLONE_VFORK, argument)
                os.set_inheritable(inherited, False)
                if child > 0:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child, _WALL)
        finally:
            # A mapping is not closed while something refers to its memory.
            del stack
    if child < 0:
        _run_as_child(script, inherited)


def _run_as_child(script: str, inherited: int) -> None:
    subprocess.run(["/bin/sh", "-c", script], pass_fds=[inherited], check=False)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    # Handlers would run in both processes, which share their memory.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
