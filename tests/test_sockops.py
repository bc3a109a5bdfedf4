"""``sock_*`` on user sockets: asyncio's behaviour, and nothing lost by cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, cast
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transport_helpers import LOOPS, Hosts, LoopFactory, on_every_loop, run_on, turns, until
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.transports import sockops


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def new_socket(stack: Any, type: int = socket.SOCK_STREAM) -> UserSocket:
    sock = cast(UserSocket, stack.socket(socket.AF_INET, type))
    sock.setblocking(False)
    return sock


def listening(hosts: Hosts, backlog: int = 16) -> UserSocket:
    sock = new_socket(hosts.server)
    sock.bind(("10.0.0.1", 80))
    sock.listen(backlog)
    return sock


@contextlib.asynccontextmanager
async def connected(hosts: Hosts) -> AsyncIterator[tuple[UserSocket, UserSocket]]:
    """(client, server) ends of a connection."""
    with listening(hosts) as listener, new_socket(hosts.client) as client:
        await sockops.sock_connect(loop(), client, ("10.0.0.1", 80))
        server, address = await sockops.sock_accept(loop(), listener)
        assert address == client.getsockname()
        with server:
            yield client, server


def waiters(sock: UserSocket) -> int:
    """How many wait on the socket's vpoll."""
    file = sock.vpoll.file
    assert file is not None
    return len(file.waiters)


@on_every_loop
async def test_data_goes_both_ways(hosts: Hosts) -> None:
    async with connected(hosts) as (client, server):
        await sockops.sock_sendall(loop(), client, b"question")
        assert await sockops.sock_recv(loop(), server, 3) == b"que"
        assert await sockops.sock_recv(loop(), server, 100) == b"stion"
        waiting = asyncio.create_task(sockops.sock_recv(loop(), client, 100))
        await turns(3)
        await sockops.sock_sendall(loop(), server, bytearray(b"answer"))
        assert await waiting == b"answer"
        server.shutdown(socket.SHUT_WR)
        assert await sockops.sock_recv(loop(), client, 100) == b""
        assert waiters(client) == waiters(server) == 0


@on_every_loop
async def test_recv_into_a_buffer(hosts: Hosts) -> None:
    async with connected(hosts) as (client, server):
        buffer = bytearray(10)
        waiting = asyncio.create_task(sockops.sock_recv_into(loop(), client, buffer))
        await turns(3)
        await sockops.sock_sendall(loop(), server, b"abc")
        assert await waiting == 3
        assert buffer == b"abc" + bytes(7)


@on_every_loop
async def test_sendall_waits_for_room_and_sends_everything(hosts: Hosts) -> None:
    data = random.Random(7).randbytes(5 << 20)
    async with connected(hosts) as (client, server):
        sending = asyncio.create_task(sockops.sock_sendall(loop(), client, data))
        received = bytearray()
        while len(received) < len(data):
            received += await sockops.sock_recv(loop(), server, 1 << 16)
        await sending
        assert received == data


@on_every_loop
async def test_datagrams(hosts: Hosts) -> None:
    with (
        new_socket(hosts.server, socket.SOCK_DGRAM) as server,
        new_socket(hosts.client, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("10.0.0.1", 53))
        waiting = asyncio.create_task(sockops.sock_recvfrom(loop(), server, 100))
        await turns(3)
        assert await sockops.sock_sendto(loop(), client, b"query", ("10.0.0.1", 53)) == 5
        data, address = await waiting
        assert data == b"query"
        assert await sockops.sock_sendto(loop(), server, b"", address) == 0
        buffer = bytearray(5)
        assert await sockops.sock_recvfrom_into(loop(), client, buffer) == (0, ("10.0.0.1", 53))
        await sockops.sock_sendto(loop(), server, b"reply", address)
        assert await sockops.sock_recvfrom_into(loop(), client, buffer, 3) == (
            3,
            ("10.0.0.1", 53),
        )
        assert buffer == b"rep\0\0"
        with pytest.raises(ValueError, match="nbytes"):
            await sockops.sock_recvfrom_into(loop(), client, buffer, 6)


@on_every_loop
async def test_connect_finds_a_name_through_the_stack(hosts: Hosts) -> None:
    with listening(hosts) as listener, new_socket(hosts.client) as client:
        await sockops.sock_connect(loop(), client, ("server.test", 80))
        assert client.getpeername() == ("10.0.0.1", 80)
        (await sockops.sock_accept(loop(), listener))[0].close()


@on_every_loop
async def test_connect_is_refused(hosts: Hosts) -> None:
    with new_socket(hosts.client) as client:
        with pytest.raises(ConnectionRefusedError):
            await sockops.sock_connect(loop(), client, ("10.0.0.1", 81))
        assert waiters(client) == 0


@on_every_loop
async def test_accepted_sockets_do_not_block(hosts: Hosts) -> None:
    with listening(hosts) as listener, new_socket(hosts.client) as client:
        waiting = asyncio.create_task(sockops.sock_accept(loop(), listener))
        await turns(3)
        await sockops.sock_connect(loop(), client, ("10.0.0.1", 80))
        accepted, _ = await waiting
        with accepted:
            assert accepted.gettimeout() == 0


@on_every_loop
async def test_debug_mode_refuses_a_blocking_socket(hosts: Hosts) -> None:
    with new_socket(hosts.client) as sock:
        sock.setblocking(True)
        loop().set_debug(True)
        try:
            for operation in (
                sockops.sock_recv(loop(), sock, 1),
                sockops.sock_sendall(loop(), sock, b"x"),
                sockops.sock_connect(loop(), sock, ("10.0.0.1", 80)),
                sockops.sock_accept(loop(), sock),
            ):
                with pytest.raises(ValueError, match="the socket must be non-blocking"):
                    await operation
        finally:
            loop().set_debug(False)


@on_every_loop
async def test_several_tasks_may_wait_on_one_socket(hosts: Hosts) -> None:
    async with connected(hosts) as (client, server):
        tasks = [asyncio.create_task(sockops.sock_recv(loop(), server, 1)) for _ in range(5)]
        await turns(3)
        await sockops.sock_sendall(loop(), client, b"abcde")
        assert sorted(await asyncio.gather(*tasks)) == [b"a", b"b", b"c", b"d", b"e"]
        assert waiters(server) == 0


@on_every_loop
async def test_closing_a_socket_wakes_who_waits_on_it(hosts: Hosts) -> None:
    async with connected(hosts) as (client, _):
        waiting = asyncio.create_task(sockops.sock_recv(loop(), client, 1))
        await turns(3)
        client.close()
        with pytest.raises(OSError) as caught:
            await waiting
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError) as caught:
            await sockops.sock_recv(loop(), client, 1)
        assert caught.value.errno == errno.EBADF


@on_every_loop
async def test_closing_the_stack_wakes_who_waits(hosts: Hosts) -> None:
    with listening(hosts) as listener:
        waiting = asyncio.create_task(sockops.sock_accept(loop(), listener))
        await turns(3)
        hosts.server.close()
        with pytest.raises(OSError) as caught:
            await waiting
        assert caught.value.errno == errno.ENETDOWN


@on_every_loop
async def test_a_reset_is_raised_once(hosts: Hosts) -> None:
    async with connected(hosts) as (client, server):
        waiting = asyncio.create_task(sockops.sock_recv(loop(), server, 1))
        await turns(3)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            await waiting
        assert await sockops.sock_recv(loop(), server, 1) == b""


@on_every_loop
async def test_an_error_that_no_operation_tells_ends_the_wait(hosts: Hosts) -> None:
    # A stack that shows HUP and yet would block must not make the loop spin.
    async with connected(hosts) as (client, _):
        with mock.patch.object(type(client), "do_recv", side_effect=BlockingIOError):
            waiting = asyncio.create_task(sockops.sock_recv(loop(), client, 1))
            await turns(3)
            client.vpoll.add_events(0x10)
            with pytest.raises(OSError) as caught:
                await waiting
            assert caught.value.errno == errno.ENOTCONN


@on_every_loop
async def test_sendfile_reads_the_file_block_by_block(hosts: Hosts) -> None:
    data = random.Random(8).randbytes(1 << 20)
    file = io.BytesIO(data)
    async with connected(hosts) as (client, server):
        sending = asyncio.create_task(
            sockops.sock_sendfile(loop(), client, file, 1000, (1 << 20) - 2000)
        )
        received = bytearray()
        while len(received) < len(data) - 2000:
            received += await sockops.sock_recv(loop(), server, 1 << 16)
        assert await sending == len(data) - 2000
        assert received == data[1000:-1000]
        assert file.tell() == len(data) - 1000
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await sockops.sock_sendfile(loop(), client, file, fallback=False)
        for offset, count in ((-1, None), (0, 0)):
            with pytest.raises(ValueError, match=r"must be a (non-negative|positive) integer"):
                await sockops.sock_sendfile(loop(), client, file, offset, count)


@pytest.mark.parametrize("step", range(12))
@on_every_loop
async def test_a_receive_cancelled_at_any_turn_loses_nothing(hosts: Hosts, step: int) -> None:
    async with connected(hosts) as (client, server):
        receiving = asyncio.create_task(sockops.sock_recv(loop(), server, 1000))
        # The data arrives in the middle of the turns at which the receive is cancelled.
        for turn in range(step):
            if turn == 5:
                client.send(b"precious")
            await asyncio.sleep(0)
        receiving.cancel()
        if step <= 5:
            client.send(b"precious")
        got = b"".join(
            item
            for item in await asyncio.gather(receiving, return_exceptions=True)
            if isinstance(item, bytes)
        )
        if not got:
            got = await sockops.sock_recv(loop(), server, 1000)
        assert got == b"precious"
        assert waiters(server) == 0


@pytest.mark.parametrize("step", range(10))
@on_every_loop
async def test_an_accept_cancelled_at_any_turn_loses_no_connection(hosts: Hosts, step: int) -> None:
    with listening(hosts) as listener, new_socket(hosts.client) as client:
        accepting = asyncio.create_task(sockops.sock_accept(loop(), listener))
        for turn in range(step):
            if turn == 4:
                await sockops.sock_connect(loop(), client, ("10.0.0.1", 80))
            await asyncio.sleep(0)
        accepting.cancel()
        if step <= 4:
            await sockops.sock_connect(loop(), client, ("10.0.0.1", 80))
        result: Any
        (result,) = await asyncio.gather(accepting, return_exceptions=True)
        if isinstance(result, BaseException):
            result = await sockops.sock_accept(loop(), listener)
        accepted, address = result
        assert address == client.getsockname()
        accepted.close()
        assert waiters(listener) == 0


@on_every_loop
async def test_a_cancelled_connect_leaves_no_waiter(hosts: Hosts) -> None:
    with listening(hosts, backlog=0) as listener, contextlib.ExitStack() as sockets:
        first = sockets.enter_context(new_socket(hosts.client))
        await sockops.sock_connect(loop(), first, ("10.0.0.1", 80))
        # The backlog is full: the second one goes on connecting.
        second = sockets.enter_context(new_socket(hosts.client))
        connecting = asyncio.create_task(sockops.sock_connect(loop(), second, ("10.0.0.1", 80)))
        await turns(5)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert waiters(second) == 0
        assert waiters(listener) == 0


Action = tuple[str, int]

actions = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(1, 8)),
        st.tuples(st.just("send"), st.integers(1, 8)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
    ),
    min_size=10,
    max_size=60,
)


async def interleave(hosts: Hosts, program: list[Action]) -> None:
    """Receives, sends and cancellations in the order of `program`; every byte arrives once."""
    async with connected(hosts) as (client, server):
        got = bytearray()
        sent = bytearray()
        tasks: list[asyncio.Task[None]] = []

        async def receive(size: int) -> None:
            data = await sockops.sock_recv(loop(), server, size)
            got.extend(data)

        for action, number in program:
            if action == "receive":
                tasks.append(asyncio.create_task(receive(number)))
            elif action == "send":
                data = bytes((len(sent) + index) % 251 for index in range(number))
                client.send(data)
                sent += data
            elif action == "cancel":
                pending = [task for task in tasks if not task.done()]
                if pending:
                    pending[number % len(pending)].cancel()
            else:
                await turns(number)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert waiters(server) == 0
        client.shutdown(socket.SHUT_WR)
        while data := await sockops.sock_recv(loop(), server, 1000):
            got += data
        assert got == sent


@pytest.mark.parametrize("loop_factory", LOOPS)
@given(program=actions)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_interleaving_of_receives_and_cancellations_loses_a_byte(
    loop_factory: LoopFactory, program: list[Action]
) -> None:
    hosts = Hosts()
    reports: list[dict[str, Any]] = []
    try:
        run_on(loop_factory, lambda: interleave(hosts, program), reports)
    finally:
        hosts.close()
    assert not reports


@on_every_loop
async def test_a_wait_that_only_its_task_knows_of_survives_collection(hosts: Hosts) -> None:
    async with connected(hosts) as (client, server):
        done = []

        async def receive() -> None:
            done.append(await sockops.sock_recv(loop(), server, 10))

        reference = asyncio.create_task(receive())
        await turns(3)
        del reference
        gc.collect()
        await sockops.sock_sendall(loop(), client, b"still here")
        await until(lambda: done)
        assert done == [b"still here"]


@pytest.mark.parametrize("loop_factory", LOOPS[2:])
def test_our_loops_have_the_datagram_methods(loop_factory: LoopFactory) -> None:
    hosts = Hosts()

    async def main() -> None:
        with (
            new_socket(hosts.server, socket.SOCK_DGRAM) as server,
            new_socket(hosts.client, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("10.0.0.1", 53))
            waiting = asyncio.ensure_future(loop().sock_recvfrom(server, 100))
            await turns(1)
            assert await loop().sock_sendto(client, b"query", ("10.0.0.1", 53)) == 5
            data, address = await waiting
            assert (data, address[0]) == (b"query", "10.0.0.2")
            await loop().sock_sendto(server, b"reply", address)
            buffer = bytearray(9)
            assert await loop().sock_recvfrom_into(client, buffer, 3) == (3, ("10.0.0.1", 53))
            assert buffer == b"rep" + bytes(6)

    try:
        run_on(loop_factory, main, [])
    finally:
        hosts.close()
