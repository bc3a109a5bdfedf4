"""Two programs in one process: ``two_programs.py "SERVER [ARGS]" "CLIENT [ARGS]"``.

Each is a script or ``-m MODULE``.  The server has the main thread; the client starts in a
thread of its own when a line comes on standard input, and its end is the server's Ctrl-C.
"""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import sys
import threading


def run(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def client(command: str) -> None:
    sys.stdin.readline()
    try:
        run(command)
    except SystemExit as end:
        if end.code:
            print(f"the client ended with {end.code}", flush=True)
    finally:
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    server, other = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    thread = threading.Thread(target=client, args=(other,))
    thread.start()
    try:
        run(server)
    finally:
        thread.join()
