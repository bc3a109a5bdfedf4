"""wait_events: files that are always ready, closed files, errors, and every form of a file."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_helpers import Lab
from ourloops import new_vpoll
from vpoll_asyncio import EventMask, VPoll, VPollSelector, wait_events
from vpoll_asyncio.stacks.base import Stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_helpers import by_epoll, descriptors_left
from wait_helpers import LOOPS, Run, given_up, runner, turns, waiting

IN, OUT, PRI = EventMask.IN, EventMask.OUT, EventMask.PRI
ERR, RDHUP = EventMask.ERR, EventMask.RDHUP

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run[Any]]:
    with runner(request.param) as run:
        yield run


@pytest.fixture(params=["memory", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    stack: Stack = MemoryStack() if request.param == "memory" else host_stack()
    with stack:
        lab = Lab(stack)
        yield lab
        lab.close()


# Files that are always ready.


def test_file_on_disk_is_ready_as_poll_has_it(run: Run[None], tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"")
        with path.open("rb") as file:
            assert await wait_events(file, IN | PRI | RDHUP) == IN
            assert await wait_events(file.fileno(), OUT | EventMask.WRNORM) == (
                OUT | EventMask.WRNORM
            )
            await given_up(await waiting(file, PRI | ERR))

    run(main())


# What goes wrong.


def test_bits_that_are_no_events_are_a_value_error(run: Run[None], lab: Lab) -> None:
    async def main() -> None:
        for mask in (1 << 28, select.EPOLLET, IN | select.EPOLLONESHOT, -1):
            with pytest.raises(ValueError, match="event mask"):
                await wait_events(lab.stream(), mask)

    run(main())


def test_what_is_no_file_is_a_type_error(run: Run[None]) -> None:
    nothing: list[Any] = [None, "name", 1.5, object()]

    async def main() -> None:
        for fileobj in nothing:
            with pytest.raises(TypeError, match="is no file"):
                await wait_events(fileobj, IN)

    run(main())


def closed_descriptor() -> Any:
    fd = os.dup(0)
    os.close(fd)
    return fd


def closed_socket() -> Any:
    sock = socket.socket()
    sock.close()
    return sock


def closed_vpoll() -> Any:
    vpoll = VPoll()
    vpoll.close()
    return vpoll


def gone_number() -> Any:
    with new_vpoll() as vpoll:
        return vpoll.fileno()


def closed_user_socket() -> Any:
    with MemoryStack() as stack:
        sock = stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.close()
    return sock


CLOSED: list[Callable[[], Any]] = [
    closed_descriptor,
    closed_socket,
    closed_vpoll,
    gone_number,
    closed_user_socket,
    lambda: -1,
]


def test_closed_file_is_ebadf(run: Run[None]) -> None:
    async def main() -> None:
        for closed in CLOSED:
            with pytest.raises(OSError) as caught:
                await wait_events(closed(), IN)
            assert caught.value.errno == errno.EBADF, closed

    run(main())


def test_number_that_a_file_got_meanwhile_is_another_file(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        task = await waiting(ours, IN)
        fd = ours.fileno()
        ours.close()
        theirs.close()
        reader, writer = os.pipe()
        os.dup2(reader, fd)
        os.write(writer, b"!")
        await turns()
        assert not task.done()
        assert await wait_events(fd, IN) == IN
        await given_up(task)
        assert await wait_events(fd, IN) == IN
        for number in {reader, writer, fd}:
            os.close(number)

    run(main())


def test_file_whose_number_is_closed_is_waited_for_while_a_duplicate_lives(
    run: Run[None],
) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, ours.dup():
            task = await waiting(ours, IN)
            ours.close()
            theirs.send(b"!")
            assert await task == IN

    run(main())


def test_vpoll_that_is_closed_during_the_wait_ends_it_by_its_duplicate_only(
    run: Run[None],
) -> None:
    async def main() -> None:
        vpoll = VPoll()
        with vpoll.dup() as twin:
            task = await waiting(vpoll, IN)
            vpoll.close()
            await turns()
            assert not task.done()
            twin.add_events(IN)
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF

    run(main())


def test_user_socket_that_is_closed_during_the_wait_is_ebadf(run: Run[None]) -> None:
    async def main() -> None:
        with MemoryStack() as stack:
            lab = Lab(stack)
            _, server = lab.pair()
            task = await waiting(server, PRI)
            server.close()
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF
            lab.close()

    run(main())


def test_want_of_descriptors_is_emfile_and_leaves_nothing(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with descriptors_left(0):
                with pytest.raises(OSError) as caught:
                    await wait_events(ours, PRI)
                assert caught.value.errno == errno.EMFILE
            theirs.send(b"!")
            assert await wait_events(ours, IN) == IN

    run(main())


# Every form of a file.


class Wrapper:
    """An object that has a fileno() and nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def test_object_with_a_virtual_number_is_its_vpoll(run: Run[None]) -> None:
    async def main() -> None:
        with new_vpoll() as vpoll:
            for fileobj in (vpoll, vpoll.fileno(), Wrapper(vpoll.fileno())):
                task = await waiting(fileobj, PRI)
                vpoll.add_events(PRI)
                assert await task == PRI
                vpoll.del_events(PRI)

    run(main())


def test_epoll_that_holds_an_epoll_can_be_waited_for(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, select.epoll() as epoll:
            epoll.register(ours, PRI | RDHUP)
            task = await waiting(epoll, IN)
            theirs.shutdown(socket.SHUT_WR)
            assert await task == IN
            assert by_epoll(epoll.fileno()) & IN

    run(main())


def test_selector_can_be_waited_for(run: Run[None]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, VPollSelector() as selector:
            selector.register_mask(ours, RDHUP)
            task = await waiting(selector, IN)
            theirs.shutdown(socket.SHUT_WR)
            assert await task == IN

    run(main())
