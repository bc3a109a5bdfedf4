"""Paths of a memory network that are cut, mended and changed while streams go over them."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from memory_helpers import DEAD, ERR, RDHUP, R, W, failure, mask_of
from path_helpers import Ends, ends, hosts
from vpoll_asyncio.events import EventMask
from vpoll_asyncio.stacks.memory import MemoryStack

OUT = EventMask.OUT
IN = EventMask.IN
TIOCOUTQ = 0x5411


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def slow(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A delay of 10 ms each way."""
    with ends(request.param, delay="10ms") as made:
        yield made


# Partition.


def test_nothing_passes_a_partition_and_everything_comes_after_it(slow: Ends) -> None:
    client, server = slow.pair()
    slow.network.partition([slow.server], [slow.client])
    client.send(b"from the client")
    client.shutdown(socket.SHUT_WR)
    server.send(b"from the server")
    slow.clock.advance(100)
    assert mask_of(server) == W
    assert mask_of(client) == W
    slow.network.heal()
    slow.settle()
    assert server.recv(100) == b"from the client"
    assert client.recv(100) == b"from the server"
    assert server.recv(100) == b""


def test_what_is_under_way_when_the_partition_comes_is_sent_again(slow: Ends) -> None:
    client, server = slow.pair()
    client.send(b"x")
    slow.clock.advance(0.005)
    slow.network.partition([slow.server])
    slow.clock.advance(0.1)
    slow.network.heal()
    assert slow.after(server, R) > 0.1


def test_a_stream_gives_up_after_fifteen_retransmissions(slow: Ends) -> None:
    client, server = slow.pair()
    slow.network.partition([slow.server])
    client.send(b"x")
    assert 924 < slow.after(client, ERR) < 1000
    assert mask_of(client) == DEAD | ERR
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
    assert mask_of(server) == W


def test_tcp_user_timeout_counts_from_the_first_retransmission(slow: Ends) -> None:
    client, _ = slow.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
    slow.network.partition([slow.server])
    client.send(b"x")
    assert slow.after(client, ERR) == pytest.approx(5.22, abs=0.02)
    assert failure(client.send, b"x") == errno.ETIMEDOUT


def test_tcp_user_timeout_ends_connecting_when_a_syn_has_been_sent_again(slow: Ends) -> None:
    slow.network.partition([slow.server])
    for milliseconds, seconds in (100, 1.0), (2500, 2.5):
        client = slow.stream()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        client.connect_ex(slow.address)
        assert slow.after(client, ERR) == seconds


def test_the_network_says_when_streams_give_up(slow: Ends) -> None:
    client, _ = slow.pair()
    slow.network.tcp_user_timeout = 3
    slow.network.partition([slow.server])
    client.send(b"x")
    assert slow.after(client, ERR) == pytest.approx(3.22, abs=0.02)


def test_the_network_says_how_often_data_are_sent_again(slow: Ends) -> None:
    client, _ = slow.pair()
    slow.network.tcp_retries2 = 2
    slow.network.partition([slow.server])
    client.send(b"x")
    assert 1.4 < slow.after(client, ERR) < 1.6


def test_a_stream_that_only_waits_does_not_give_up(slow: Ends) -> None:
    client, server = slow.pair()
    slow.network.partition([slow.server])
    slow.clock.advance(10_000)
    slow.network.heal()
    client.send(b"still here")
    slow.settle()
    assert server.recv(100) == b"still here"


def test_a_receiver_without_room_keeps_its_sender_waiting_for_ever(slow: Ends) -> None:
    client, server = slow.pair()
    while True:
        try:
            client.send(bytes(10_000))
        except BlockingIOError:
            slow.clock.advance(1)
            if not mask_of(client) & OUT:
                break
    slow.clock.advance(10_000)
    assert mask_of(client) == 0
    while True:
        try:
            server.recv(1 << 20)
        except BlockingIOError:
            break
    slow.clock.advance(1)
    assert mask_of(client) == W


def test_who_is_reset_behind_a_partition_hears_of_it_when_it_sends(slow: Ends) -> None:
    client, server = slow.pair()
    slow.network.partition([slow.server])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    slow.clock.advance(1)
    slow.network.heal()
    slow.settle()
    assert mask_of(client) == W
    client.send(b"x")
    assert slow.after(client, ERR) == 0.020
    assert failure(client.send, b"x") == errno.ECONNRESET


def test_a_partition_has_as_many_sides_as_groups_and_one_for_the_rest() -> None:
    with hosts() as (one, two), MemoryStack(vnl=one.network.name, ip="10.0.0.3/24") as three:
        network = one.network
        network.partition([one, three])
        assert network.connected(one, three)
        assert not network.connected(one, two)
        with MemoryStack(vnl=network.name, ip="10.0.0.4/24") as four:
            assert network.connected(two, four)
            network.partition([one], [two], [three])
            pairs = [(one, two), (two, three), (three, four), (four, one)]
            assert not any(network.connected(*pair) for pair in pairs)
            network.heal()
            assert all(network.connected(*pair) for pair in pairs)


def test_an_acknowledgement_that_the_partition_has_lost_comes_with_the_next_segment(
    slow: Ends,
) -> None:
    client, server = slow.pair()
    client.shutdown(socket.SHUT_WR)
    slow.after(server, RDHUP)
    slow.network.partition([slow.server])
    slow.clock.advance(1)
    slow.network.heal()
    server.shutdown(socket.SHUT_WR)
    slow.settle()
    assert [mask_of(sock) for sock in (client, server)] == [DEAD, DEAD]


# Conditions that change.


def test_a_connection_goes_on_when_its_path_gets_conditions_and_loses_them() -> None:
    data = random.Random(5).randbytes(300_000)
    with ends() as made:
        network = made.network
        client, server = made.pair()
        sent, got = 0, b""
        changes: list[dict[str, Any]] = [{"delay": 1}, {}, {"loss": "10%"}, {"rate": "10mbit"}, {}]
        while len(got) < len(data):
            if len(got) * 6 >= len(data) * (6 - len(changes)) and changes:
                network.set_path(made.client, made.server, **changes.pop(0))
            try:
                sent += client.send(data[sent : sent + 20_000])
            except BlockingIOError:
                pass
            try:
                got += server.recv(15_000)
            except BlockingIOError:
                made.clock.step()
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        made.settle()
        # Without conditions data are with the receiver when `send` returns again.
        client.send(b"at once")
        assert server.recv(100) == b"at once"


@pytest.mark.parametrize("unread", [0, 1000, 200_000])
def test_what_was_sent_before_the_path_got_conditions_comes_before_what_follows(
    unread: int,
) -> None:
    with ends() as made:
        client, server = made.pair()
        before = bytes(random.Random(6).randbytes(unread))
        assert not unread or client.send(before) == unread
        made.network.set_path(delay="10ms")
        client.shutdown(socket.SHUT_WR) if unread == 1000 else client.send(b"behind")
        got = b""
        while len(got) < unread:
            got += server.recv(1 << 20)
        assert got == before
        made.settle()
        assert server.recv(100) == (b"" if unread == 1000 else b"behind")


def test_a_fin_behind_data_without_room_survives_the_change() -> None:
    with ends() as made:
        client, server = made.pair()
        sent = client.send(bytes(250_000))
        client.shutdown(socket.SHUT_WR)
        made.network.set_path(delay="10ms")
        made.clock.advance(1)
        assert not mask_of(server) & RDHUP
        assert len(server.recv(1 << 20)) == sent
        made.settle()
        assert server.recv(100) == b""
        server.close()
        made.settle()
        assert mask_of(client) == DEAD


def test_a_client_that_waits_for_room_with_a_listener_knocks_over_the_new_path() -> None:
    with ends() as made:
        made.listener.listen(0)
        made.knocking()
        client = made.knocking()
        assert mask_of(client) == 0
        made.network.set_path(delay="10ms")
        made.accept()
        assert made.after(client, W) == 0.020


def test_what_is_under_way_keeps_the_time_that_it_set_out_with(slow: Ends) -> None:
    receiver, sender = slow.receiver(), slow.datagram()
    sender.sendto(b"slow", slow.address)
    slow.network.set_path(delay="1ms")
    sender.sendto(b"fast", slow.address)
    assert slow.after(receiver, R) == 0.001
    assert receiver.recv(100) == b"fast"
    slow.settle()
    assert receiver.recv(100) == b"slow"


def test_the_last_call_that_fits_a_path_counts() -> None:
    with hosts() as (one, two), MemoryStack(vnl=one.network.name, ip="10.0.0.3/24") as three:
        network = one.network
        network.set_path(one, two, delay="1ms")
        network.set_path(None, two, delay="2ms", both=False)
        network.set_path(three, one, delay="3ms")
        found = [network.path(*pair).delay for pair in ((one, two), (two, one), (three, two))]
        assert found == [0.002, 0.001, 0.002]
        network.set_path(one, two)
        assert network.path(one, two).delay == 0
        assert network.path(three, two).delay == 0.002
        network.set_path()
        assert [network.path(a, b).delay for a, b in ((one, three), (three, two))] == [0, 0]
