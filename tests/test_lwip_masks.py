"""The event mask of an lwIP socket after every step.

The tests are those of the memory stack and the kernel; what lwIP does not have is
listed here, and what needs its timers is tested here.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator

import pytest

import test_memory_masks
from lwip_helpers import HOST4, HOST6, lwip_on_wire
from memory_helpers import DEAD, ERR, Lab, R, W, error_of, fill, mask_of
from vpoll_asyncio import EventMask, UserSocket
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")

NO_URGENT_DATA = {name for name in vars(test_memory_masks) if name.startswith("test_urgent")}
NEEDS_TIMERS = {
    "test_backlog_of_zero_takes_one_connection",
    "test_who_waits_for_a_full_backlog_gets_in_after_an_accept",
    "test_shutting_both_directions_resets_a_sender_with_data_left",
}
NO_LOW_WATER_MARK = {"test_low_water_mark_keeps_data_unreadable"}

for _name, _test in vars(test_memory_masks).items():
    if _name.startswith("test_") and _name not in (
        NO_URGENT_DATA | NEEDS_TIMERS | NO_LOW_WATER_MARK
    ):
        globals()[_name] = _test


@pytest.fixture(params=["127.0.0.1", "::1", HOST4, HOST6])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lwip_on_wire() as peer:
        lab = Lab(peer.stack, request.param)
        yield lab
        lab.close()


def skip_time(lab: Lab, seconds: float) -> None:
    assert isinstance(lab.stack, LwipStack)
    lab.stack.skip_time(seconds)


def test_backlog_of_zero_takes_one_connection(lab: Lab) -> None:
    listener = lab.listener(0)
    first = lab.connecting(listener)
    assert mask_of(first) == W
    others = [lab.connecting(listener) for _ in range(2)]
    assert [mask_of(other) for other in others] == [0, 0]
    listener.close()
    assert mask_of(first) == DEAD | ERR
    assert error_of(first) == errno.ECONNRESET
    skip_time(lab, 4)
    for other in others:
        assert mask_of(other) == DEAD | ERR
        assert error_of(other) == errno.ECONNREFUSED


def test_who_waits_for_a_full_backlog_gets_in_after_an_accept(lab: Lab) -> None:
    listener = lab.listener(0)
    assert mask_of(lab.connecting(listener)) == W
    second = lab.connecting(listener)
    assert mask_of(second) == 0
    lab.keep(listener.accept()[0])
    skip_time(lab, 4)
    assert mask_of(second) == W
    assert mask_of(listener) == R


@pytest.mark.parametrize("ways", [[socket.SHUT_RDWR], [socket.SHUT_RD, socket.SHUT_WR]])
def test_shutting_both_directions_resets_a_sender_when_it_probes(lab: Lab, ways: list[int]) -> None:
    client, server = lab.pair()
    fill(client)
    for how in ways:
        server.shutdown(how)
    skip_time(lab, 4)
    assert mask_of(client) == mask_of(server) == DEAD | ERR
    assert error_of(client) == errno.EPIPE
    assert error_of(server) == errno.ECONNRESET


def test_urgent_data_are_refused(lab: Lab) -> None:
    client, server = lab.pair()
    for call, number in (
        (lambda: client.send(b"!", socket.MSG_OOB), errno.EOPNOTSUPP),
        (lambda: server.recv(1, socket.MSG_OOB), errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_a_transport_reads_is_gone_from_the_mask_at_once(lab: Lab, mirrored: bool) -> None:
    client, server = lab.pair()
    assert isinstance(server, UserSocket)
    poll = select.poll()
    if mirrored:
        poll.register(server.fileno(), select.POLLIN)
    client.send(b"0123456789")
    assert server.do_recv_some(4) == b"0123"
    assert mask_of(server) == R | W
    assert [events for _, events in poll.poll(0)] == [select.POLLIN] * mirrored
    assert server.do_recv_some(65536) == b"456789"
    assert mask_of(server) == W
    assert not poll.poll(0)
    with pytest.raises(BlockingIOError):
        server.do_recv_some(65536)
    client.shutdown(socket.SHUT_WR)
    assert mask_of(server) == R | W | EventMask.RDHUP
    assert server.do_recv_some(65536) == b""


def test_a_waiter_that_reads_leaves_the_mask_right(lab: Lab) -> None:
    client, server = lab.pair()
    assert isinstance(server, UserSocket)
    got = []

    def read(mask: int) -> None:
        if mask & EventMask.IN:
            got.append(server.do_recv_some(4))

    server.vpoll.add_waiter(read)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(b"012345")
    assert got == [b"0123"]
    assert mask_of(server) == R | W
    assert server.do_recv_some(4) == b"45"
    assert mask_of(server) == W
    client.send(b"6789")
    assert got == [b"0123", b"6789"]
    assert mask_of(server) == W
    server.vpoll.remove_waiter(read)


def test_an_interrupted_waiter_hides_no_event(lab: Lab) -> None:
    listener = lab.listener(5)
    client, server = lab.pair()
    assert isinstance(server, UserSocket)

    def interrupt(mask: int) -> None:
        server.vpoll.remove_waiter(interrupt)
        raise KeyboardInterrupt

    server.vpoll.add_waiter(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.send(b"!")
    told: list[int] = []
    server.vpoll.add_waiter(told.append)
    lab.connecting(listener)
    assert mask_of(server) == told[-1] == R | W
    assert mask_of(listener) == R
