"""What the stock loops do, ours do too: signals, subprocesses, executors, timeouts, pipes."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ourloops import ALL, LoopFactory, new_vpoll, run_until, stock_event_loop, when_asleep
from vpoll_asyncio import EventMask, loops
from vpoll_asyncio.selector import VPollSelector

Loop = asyncio.AbstractEventLoop


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    factory: LoopFactory = request.param
    loop = factory()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_signal_handler_of_the_loop_is_called_while_it_sleeps(loop: Loop) -> None:
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
    main = threading.get_ident()
    with when_asleep(lambda: signal.pthread_kill(main, signal.SIGUSR1)):
        run_until(loop, done)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_signal_handler_of_the_loop_sees_a_vpoll_through(loop: Loop) -> None:
    """The handler sets an event, in whatever turn that is, and the reader follows."""
    done = loop.create_future()
    with new_vpoll() as vpoll:

        def reader() -> None:
            loop.remove_reader(vpoll)
            done.set_result(None)

        loop.add_reader(vpoll, reader)
        loop.add_signal_handler(signal.SIGUSR1, vpoll.add_events, EventMask.IN)
        main = threading.get_ident()
        with when_asleep(lambda: signal.pthread_kill(main, signal.SIGUSR1)):
            run_until(loop, done)
        loop.remove_signal_handler(signal.SIGUSR1)


def test_subprocess_runs_while_vpolls_are_watched(loop: Loop) -> None:
    async def main() -> tuple[bytes, int | None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(7)",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate(b"hello")
        return out, process.returncode

    with new_vpoll() as vpoll:
        loop.add_reader(vpoll, lambda: None)
        assert loop.run_until_complete(main()) == (b"HELLO", 7)
        loop.remove_reader(vpoll)


# 3.12 deprecates child watchers, 3.14 drops them.
if sys.version_info < (3, 12):

    @pytest.mark.parametrize(
        "name",
        [
            "SafeChildWatcher",
            "FastChildWatcher",
            "MultiLoopChildWatcher",
            "ThreadedChildWatcher",
            "PidfdChildWatcher",
        ],
    )
    @pytest.mark.parametrize("factory", [loops.EventLoop, stock_event_loop])
    def test_child_watcher_works(factory: LoopFactory, name: str) -> None:
        async def main() -> int:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "exit(7)")
            return await process.wait()

        loop = factory()
        watcher = getattr(asyncio, name)()
        asyncio.set_event_loop(loop)
        watcher.attach_loop(loop)
        asyncio.set_child_watcher(watcher)
        try:
            assert loop.run_until_complete(main()) == 7
        finally:
            watcher.close()
            asyncio.set_event_loop_policy(None)
            loop.close()


def test_executor_wakes_the_sleeping_loop(loop: Loop) -> None:
    async def main() -> int:
        return await loop.run_in_executor(None, threading.get_native_id)

    assert loop.run_until_complete(main()) != threading.get_native_id()


def test_thread_sets_an_event_through_an_executor(loop: Loop) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        with new_vpoll() as vpoll:
            loop.add_reader(vpoll, ready.set)
            await asyncio.to_thread(vpoll.add_events, EventMask.IN)
            async with asyncio.timeout(30):
                await ready.wait()
            loop.remove_reader(vpoll)

    loop.run_until_complete(main())


def test_timeout_ends_a_wait_for_a_vpoll(loop: Loop) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        with new_vpoll() as vpoll:
            loop.add_reader(vpoll, ready.set)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await ready.wait()
            loop.remove_reader(vpoll)

    loop.run_until_complete(main())


def test_call_soon_threadsafe_wakes_the_sleeping_loop(loop: Loop) -> None:
    done = loop.create_future()
    with when_asleep(lambda: loop.call_soon_threadsafe(done.set_result, None)):
        run_until(loop, done)


def test_kernel_connections_work(loop: Loop) -> None:
    async def main() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            writer.close()

        server = await asyncio.start_server(echo, "localhost", 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET)
        writer.write(b"hello")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    assert loop.run_until_complete(main()) == b"hello"


def test_unix_sockets_work(loop: Loop, tmp_path: Path) -> None:
    async def main() -> bytes:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_unix_server(greet, tmp_path / "socket")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    assert loop.run_until_complete(main()) == b"hello"


def test_pipes_work(loop: Loop) -> None:
    async def main() -> bytes:
        read_end, write_end = os.pipe()
        stream = asyncio.StreamReader()
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb")
        )
        writing, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(write_end, "wb"))
        writing.write(b"hello")
        writing.close()
        answer = await stream.read()
        reading.close()
        return answer

    assert loop.run_until_complete(main()) == b"hello"


def test_kernel_sockets_work_with_sock_methods(loop: Loop) -> None:
    async def main() -> bytes:
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.socket()
        with listener, client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = loop.create_task(accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            with await accepting as accepted:
                await loop.sock_sendall(client, b"hello")
                return await loop.sock_recv(accepted, 100)

    async def accept(listener: socket.socket) -> socket.socket:
        return (await loop.sock_accept(listener))[0]

    assert loop.run_until_complete(main()) == b"hello"


def test_running_loop_hears_every_signal_and_a_stopped_one_none() -> None:
    """A plain handler's signal wakes the loop, should it come just before the sleep."""

    def wakeup_fd() -> int:
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        return fd

    async def main() -> int:
        return wakeup_fd()

    loop = loops.EventLoop()
    assert loop.run_until_complete(main()) >= 0
    assert wakeup_fd() == -1
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    mine = wakeup_fd()
    assert loop.run_until_complete(main()) == mine
    assert wakeup_fd() == mine
    loop.close()
    assert wakeup_fd() == -1


def test_running_loop_leaves_the_wakeup_descriptor_of_others() -> None:
    async def main() -> int:
        fd = signal.set_wakeup_fd(theirs.fileno())
        return fd

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        try:
            loop = loops.EventLoop()
            assert loop.run_until_complete(main()) == theirs.fileno()
            loop.close()
        finally:
            assert signal.set_wakeup_fd(-1) == theirs.fileno()


def test_loop_runs_in_another_thread() -> None:
    results: list[int] = []

    async def main() -> int:
        await asyncio.sleep(0)
        return threading.get_native_id()

    def run() -> None:
        loop = loops.EventLoop()
        results.append(loop.run_until_complete(main()))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert results == [thread.native_id]


@pytest.mark.parametrize("make", [VPollSelector, loops.EventLoop], ids=["selector", "loop"])
def test_making_one_without_enough_descriptors_fails_cleanly(
    make: type[VPollSelector | loops.EventLoop], no_fd_leak: None
) -> None:
    made, errors = None, []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        first = lowest_free.fileno()
    # Numbers above the first free one may be taken: enough of them until a loop fits.
    for spare in range(256):
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + spare, limits[1]))
        try:
            made = make()
        except OSError as error:
            errors.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        # What is half made complains when it is collected, if at all.
        gc.collect()
        if made is not None:
            break
    assert set(errors) == {errno.EMFILE}
    assert made is not None
    made.close()
