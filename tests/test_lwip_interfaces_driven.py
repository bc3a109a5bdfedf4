"""Who drives an lwIP stack drives all of its interfaces, while they come, go and break."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from memory_helpers import failure
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.links import FdLink, Link, wire_pair
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")

Run = Callable[[Coroutine[Any, Any, None]], None]
Pair = Callable[[], tuple[Link, Link]]

SECONDS = 60
"""Longest wait for anything; a bound against hangs, not a measurement."""


class PythonLink(FdLink):
    """Its frames pass through Python."""

    native = None


def _ends(cls: type[FdLink]) -> tuple[Link, Link]:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    return cls(ours), FdLink(theirs)


PAIRS: dict[str, Pair] = {
    "descriptor": lambda: _ends(FdLink),
    "descriptor through Python": lambda: _ends(PythonLink),
    "wire": wire_pair,
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    factory: LoopFactory = request.param

    def run(main: Coroutine[Any, Any, None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(SECONDS):
                await main

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited())

    return run


def _serve(stack: LwipStack) -> None:
    """Echo, in a thread, until the stack is closed."""
    listener = stack.socket()
    listener.bind(("0.0.0.0", 7))
    listener.listen(100)

    def echo(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def accept() -> None:
        with listener, contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


class Star:
    """A stack with an interface in each of several networks, and an echo server in each."""

    def __init__(self, pair: Pair, count: int, **options: Any) -> None:
        self._pair = pair
        self._undo = contextlib.ExitStack()
        self.numbers = 0
        links = [self._server() for _ in range(count)]
        first, *further = [
            {"link": link, "iface": f"spoke{number}", "ip": f"10.{number}.0.1/24"}
            for number, link in enumerate(links)
        ]
        stack = open_stack("lwip", **first, interfaces=further, **options)
        assert isinstance(stack, LwipStack)
        self.stack = self._undo.enter_context(stack)

    def _server(self) -> Link:
        near, far = self._pair()
        server = open_stack("lwip", link=far, ip=f"10.{self.numbers}.0.2/24", thread=True)
        self._undo.enter_context(server)
        assert isinstance(server, LwipStack)
        _serve(server)
        self.numbers += 1
        return near

    def add(self) -> int:
        """Add an interface in a network of its own; return the network's number."""
        number = self.numbers
        self.stack.add_interface(
            link=self._server(), iface=f"spoke{number}", ip=f"10.{number}.0.1/24"
        )
        return number

    def close(self) -> None:
        self._undo.close()


@contextlib.contextmanager
def star(pair: Pair, count: int = 2, **options: Any) -> Iterator[Star]:
    made = Star(pair, count, **options)
    try:
        yield made
    finally:
        made.close()


async def talk(stack: LwipStack, number: int, size: int = 100_000) -> None:
    """Have `size` bytes echoed by the server of a network."""
    reader, writer = await va.open_connection(f"10.{number}.0.2", 7, stack=stack)
    data = os.urandom(size)
    writer.write(data)
    assert await reader.readexactly(size) == data
    writer.close()


def talk_blocking(stack: LwipStack, number: int, size: int = 20_000) -> None:
    with stack.socket() as client:
        client.settimeout(SECONDS)
        client.connect((f"10.{number}.0.2", 7))
        data = os.urandom(size)
        client.sendall(data)
        received = bytearray()
        while len(received) < size:
            received += client.recv(size)
        assert received == data


def test_a_loop_drives_eight(run: Run, pair: Pair) -> None:
    with star(pair, 8) as made:
        run(_all(made))


async def _all(made: Star) -> None:
    await asyncio.gather(*(talk(made.stack, number) for number in range(made.numbers)))


@pytest.mark.parametrize("thread", [True, False])
def test_threads_drive_eight(pair: Pair, thread: bool) -> None:
    with star(pair, 8, thread=thread) as made:
        done: list[int] = []

        def work(number: int) -> None:
            talk_blocking(made.stack, number)
            done.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(SECONDS)
        assert sorted(done) == list(range(8))


def test_one_comes_and_goes_while_the_others_work(run: Run, pair: Pair) -> None:
    with star(pair, 2) as made:

        async def main() -> None:
            steady = [asyncio.ensure_future(talk(made.stack, 0, 3_000_000)) for _ in range(2)]
            rounds = 0
            while not all(one.done() for one in steady) or rounds < 3:
                number = await asyncio.to_thread(made.add)
                await talk(made.stack, number, 50_000)
                name = made.stack.interfaces[-1].name
                if rounds % 2:
                    made.stack.del_interface(name)
                else:
                    await asyncio.to_thread(made.stack.del_interface, name)
                rounds += 1
                if rounds == 8:
                    break
            await asyncio.gather(*steady)
            await talk(made.stack, 1)

        run(main())


def test_a_loop_lets_go_of_a_link_before_it_is_closed(run: Run) -> None:
    with star(PAIRS["descriptor"], 2) as made:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            made.stack.attach(loop)
            link = made.stack.interfaces[1].link
            descriptor = link.pollable
            assert isinstance(descriptor, int)
            await asyncio.to_thread(made.stack.del_interface, "spoke1")
            while os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0)
            assert not loop.remove_reader(descriptor)

        run(main())


@pytest.mark.parametrize("closed", [True, False])
def test_a_loop_that_never_runs_again_keeps_no_link_open(closed: bool) -> None:
    with star(PAIRS["descriptor"], 2) as made:
        loop = asyncio.new_event_loop()
        descriptor = made.stack.interfaces[1].link.pollable
        running, go_on = threading.Event(), threading.Event()

        def busy() -> None:
            running.set()
            assert go_on.wait(SECONDS)
            loop.stop()

        made.stack.attach(loop)
        loop.call_soon(busy)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert running.wait(SECONDS)
        # The loop cannot let go of it now, and stops before it could.
        made.stack.del_interface("spoke1")
        go_on.set()
        thread.join(SECONDS)
        if closed:
            loop.close()
        made.stack.detach(loop)
        assert not os.path.exists(f"/proc/self/fd/{descriptor}")
        loop.close()


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("kind", ["descriptor", "descriptor through Python"])
def test_a_broken_link_leaves_the_others_at_work(
    run: Run, kind: str, broken: int, caplog: pytest.LogCaptureFixture
) -> None:
    pairs: list[tuple[Link, Link]] = []

    def remembered() -> tuple[Link, Link]:
        pairs.append(PAIRS[kind]())
        return pairs[-1]

    with star(remembered, 2) as made:

        async def main() -> None:
            await _all(made)
            far = pairs[broken][1]
            assert isinstance(far.pollable, int)
            with socket.socket(fileno=os.dup(far.pollable)) as end:
                end.shutdown(socket.SHUT_RDWR)
            while made.stack.interfaces[broken].link_error is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await talk(made.stack, 1 - broken)
            # What goes there is lost, as on a wire that is cut; nobody waits for room.
            with made.stack.socket(type=socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                for _ in range(2000):
                    sock.sendto(b"lost", (f"10.{broken}.0.2", 9))

        run(main())
        assert made.stack.interfaces[1 - broken].link_error is None
        talk_blocking(made.stack, 1 - broken)
        made.stack.del_interface(f"spoke{broken}")
        talk_blocking(made.stack, 1 - broken)
    assert caplog.text.count(f"interface spoke{broken} of an lwip stack has lost its link") == 1


def test_a_full_link_keeps_only_its_own_datagrams(run: Run) -> None:
    full, _far = socket.socketpair(type=socket.SOCK_DGRAM)
    full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    with _far, star(PAIRS["descriptor"], 1) as made:
        stack = made.stack
        stack.add_interface(link=FdLink(full, medium="ip"), ip="10.9.0.1/24")
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(100_000):
                    sock.sendto(bytes(1000), ("10.9.0.2", 9))
            assert not sock.vpoll.events & va.EventMask.OUT
            run(talk(stack, 0))
            with stack.socket(type=socket.SOCK_DGRAM) as other:
                assert other.vpoll.events & va.EventMask.OUT
                other.sendto(b"elsewhere", ("10.0.0.2", 9))
            # Who asks for another way is not held up by the one that is full.
            sock.sendto(b"elsewhere", ("10.0.0.2", 9))
            assert sock.vpoll.events & va.EventMask.OUT


def test_connections_of_an_interface_that_goes_end(run: Run, pair: Pair) -> None:
    with star(pair, 2) as made:

        async def main() -> None:
            reader, writer = await va.open_connection("10.1.0.2", 7, stack=made.stack)
            made.stack.del_interface("spoke1")
            with pytest.raises(TimeoutError):
                await reader.read(1)
            writer.close()
            await talk(made.stack, 0)

        run(main())


def test_a_child_closes_its_copies_of_them_all(pair: Pair) -> None:
    with star(pair, 2) as made:
        talk_blocking(made.stack, 1)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                links = [port.link for port in made.stack.core.ports]
                assert made.stack.closed
                assert failure(made.stack.socket) == errno.ENETDOWN
                for link in links:
                    with contextlib.suppress(OSError):
                        assert not link.recv_batch(1)
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for number in (0, 1):
            talk_blocking(made.stack, number)
