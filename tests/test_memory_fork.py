"""fork(2) beside threads that use a memory network."""

from __future__ import annotations

import os
import threading

from memory_helpers import BOUND, until
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.stacks.memory.network import network
from vpoll_asyncio.testing.stack_suite.threads import wait_until_blocked


def ended(child: int) -> int:
    """Wait for `child`; return its exit status, and kill it if it does not end."""
    found = (0, 0)

    def over() -> bool:
        nonlocal found
        found = os.waitpid(child, os.WNOHANG)
        return bool(found[0])

    try:
        until(over, "the child does not end", BOUND)
    except AssertionError:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    return os.waitstatus_to_exitcode(found[1])


def use_in_child(stack: MemoryStack) -> int:
    child = os.fork()
    if not child:
        try:
            with stack.socket() as listener, stack.socket() as sock:
                listener.bind(("10.0.0.1", 0))
                listener.listen()
                sock.connect(listener.getsockname())
                connection, _ = listener.accept()
                connection.send(b"from the child")
                os._exit(0 if sock.recv(100) == b"from the child" else 1)
        finally:
            os._exit(2)
    return child


def test_a_child_can_use_a_network_that_another_thread_had_locked() -> None:
    forking = threading.get_native_id()
    locked = threading.Event()
    with MemoryStack(vnl="mem://forked", ip="10.0.0.1/24") as stack:

        def hold() -> None:
            with network("mem://forked").lock:
                locked.set()
                wait_until_blocked(forking)

        holder = threading.Thread(target=hold)
        holder.start()
        assert locked.wait(BOUND)
        child = use_in_child(stack)
        assert ended(child) == 0
        holder.join()


def test_a_child_can_use_a_network_that_threads_are_busy_with() -> None:
    with MemoryStack(vnl="mem://busy", ip="10.0.0.1/24") as stack:
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                with stack.socket() as listener, stack.socket() as sock:
                    listener.bind(("10.0.0.1", 0))
                    listener.listen()
                    sock.connect(listener.getsockname())
                    connection, _ = listener.accept()
                    connection.close()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(10):
                assert ended(use_in_child(stack)) == 0
        finally:
            over.set()
            for worker in workers:
                worker.join()
