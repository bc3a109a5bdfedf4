"""Delay, rate, loss and partition between hosts of a memory network, under a clock of the test's.

Streams over them behave as TCP does, and the times are exact.
"""

from __future__ import annotations

import errno
import hashlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_helpers import DEAD, ERR, FIONREAD, HUP, PRI, RDHUP, R, W, ask, failure, mask_of
from path_helpers import PORT, Ends, ends, hosts
from vpoll_asyncio.events import EventMask
from vpoll_asyncio.stacks.memory import ManualClock, MemoryStack

OUT = EventMask.OUT
IN = EventMask.IN
TIOCOUTQ = 0x5411


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def slow(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A delay of 10 ms each way."""
    with ends(request.param, delay="10ms") as made:
        yield made


def transfer(made: Ends, source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """Send `data`, close that direction, and return what came, whatever time it takes."""
    sent, got = 0, b""
    while True:
        if sent < len(data):
            try:
                sent += source.send(data[sent : sent + 50_000])
            except BlockingIOError:
                pass
            else:
                if sent == len(data):
                    source.shutdown(socket.SHUT_WR)
        try:
            chunk = sink.recv(65536)
        except BlockingIOError:
            assert made.clock.step(), f"{sent} sent, {len(got)} came, and nothing waits"
        else:
            if not chunk:
                return got
            got += chunk


# Connecting.


def test_a_connection_takes_a_round_trip_and_is_accepted_half_a_one_later(slow: Ends) -> None:
    client = slow.knocking()
    assert mask_of(client) == 0
    assert slow.after(client, W) == 0.020
    assert mask_of(slow.listener) == 0
    assert slow.after(slow.listener, R) == 0.010


def test_names_are_those_of_a_connection_without_conditions(slow: Ends) -> None:
    client, server = slow.pair()
    assert client.getpeername()[:2] == slow.address == server.getsockname()[:2]
    assert client.getsockname() == server.getpeername()


def test_a_refusal_takes_a_round_trip(slow: Ends) -> None:
    slow.listener.close()
    client = slow.knocking()
    assert slow.after(client, ERR | HUP) == 0.020
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_connection_to_oneself_takes_no_time(slow: Ends) -> None:
    client = slow.make(slow.server, socket.SOCK_STREAM)
    client.connect_ex(slow.address)
    assert mask_of(client) == W


def test_a_lost_syn_is_sent_again_after_1_2_4_seconds_and_given_up_after_127(slow: Ends) -> None:
    slow.network.partition([slow.server])
    client = slow.knocking()
    assert slow.after(client, ERR) == 127.0
    assert mask_of(client) == DEAD | ERR
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT


@pytest.mark.parametrize(("healed", "connected"), [(0.5, 1.02), (1.5, 3.02), (3.5, 7.02)])
def test_who_has_knocked_in_vain_gets_in_with_the_next_try(
    slow: Ends, healed: float, connected: float
) -> None:
    slow.network.partition([slow.server], [slow.client])
    client = slow.knocking()
    slow.clock.advance(healed)
    slow.network.heal()
    assert healed + slow.after(client, W) == pytest.approx(connected)


def test_tcp_syncnt_says_how_often_a_syn_is_sent_again(slow: Ends) -> None:
    slow.network.partition([slow.server])
    client = slow.stream()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 2)
    client.connect_ex(slow.address)
    assert slow.after(client, ERR) == 7.0


def test_the_network_says_how_often_a_syn_is_sent_again(slow: Ends) -> None:
    slow.network.partition([slow.server])
    slow.network.tcp_syn_retries = 1
    assert slow.after(slow.knocking(), ERR) == 3.0


def test_a_failed_socket_connects_when_it_is_tried_again(slow: Ends) -> None:
    slow.network.partition([slow.server])
    client = slow.knocking()
    slow.after(client, ERR)
    assert failure(client.connect, slow.address) == errno.ETIMEDOUT
    slow.network.heal()
    assert client.connect_ex(slow.address) == errno.EINPROGRESS
    assert slow.after(client, W) == 0.020


def test_closing_a_socket_that_connects_leaves_nothing_behind(slow: Ends) -> None:
    slow.knocking().close()
    slow.settle()
    assert mask_of(slow.listener) == 0


def test_who_finds_no_room_with_a_listener_tries_again_after_a_second(slow: Ends) -> None:
    slow.listener.listen(0)
    slow.knocking()
    slow.settle()
    client = slow.knocking()
    slow.clock.advance(0.5)
    assert mask_of(client) == 0
    slow.accept()
    assert slow.after(client, W) == 0.520


def test_a_listener_that_closes_resets_who_has_not_been_accepted(slow: Ends) -> None:
    client = slow.knocking()
    slow.after(client, W)
    slow.listener.close()
    slow.settle()
    assert mask_of(client) == DEAD | ERR
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


# Data.


def test_data_take_the_delay_of_one_way(slow: Ends) -> None:
    client, server = slow.pair()
    client.send(b"hello")
    assert slow.after(server, R) == 0.010
    assert server.recv(100) == b"hello"


def test_data_are_the_sender_s_until_they_are_acknowledged(slow: Ends) -> None:
    client, _ = slow.pair()
    client.send(b"x" * 1000)
    assert ask(client, TIOCOUTQ) == 1000
    slow.clock.advance(0.019)
    assert ask(client, TIOCOUTQ) == 1000
    slow.clock.advance(0.001)
    assert ask(client, TIOCOUTQ) == 0


def test_the_send_buffer_fills_and_is_emptied_by_acknowledgements(slow: Ends) -> None:
    client, server = slow.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    total = 0
    while mask_of(client) & OUT:
        total += client.send(b"x" * 1000)
    assert total > client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) * 2 // 3
    assert slow.after(client, OUT) == 0.020
    assert ask(server, FIONREAD) == total


def test_no_more_is_sent_than_the_receiver_has_room_for(slow: Ends) -> None:
    client, server = slow.pair()
    total = 0
    while True:
        try:
            total += client.send(b"x" * 10_000)
        except BlockingIOError:
            slow.clock.advance(0.05)
            if not mask_of(client) & OUT:
                break
    held = server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert 0 <= ask(server, FIONREAD) - held < 1460
    assert total - ask(server, FIONREAD) == ask(client, TIOCOUTQ)


def test_a_read_opens_the_window_again(slow: Ends) -> None:
    client, server = slow.pair()
    data = random.Random(3).randbytes(1 << 20)
    assert transfer(slow, client, server, data) == data


def test_a_fin_travels_behind_the_data(slow: Ends) -> None:
    client, server = slow.pair()
    client.send(b"last")
    client.shutdown(socket.SHUT_WR)
    assert mask_of(server) == W
    assert slow.after(server, RDHUP) == 0.010
    assert (server.recv(100), server.recv(100)) == (b"last", b"")


def test_a_half_closed_connection_carries_data_the_other_way(slow: Ends) -> None:
    client, server = slow.pair()
    client.shutdown(socket.SHUT_WR)
    slow.settle()
    server.send(b"answer")
    server.close()
    slow.settle()
    assert (client.recv(100), client.recv(100)) == (b"answer", b"")
    assert mask_of(client) == DEAD


def test_the_last_byte_of_out_of_band_data_is_urgent_when_it_arrives(slow: Ends) -> None:
    client, server = slow.pair()
    client.send(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"after")
    assert slow.after(server, PRI) == 0.010
    assert server.recv(1, socket.MSG_OOB) == b"!"
    slow.settle()
    assert (server.recv(100), server.recv(100)) == (b"before", b"after")


def test_a_reset_takes_the_delay_of_one_way(slow: Ends) -> None:
    client, server = slow.pair()
    server.send(b"unread")
    slow.settle()
    client.close()
    assert mask_of(server) == W
    assert slow.after(server, ERR) == 0.010
    assert failure(server.send, b"x") == errno.ECONNRESET


def test_writing_to_who_has_closed_is_answered_by_a_reset_in_a_round_trip(slow: Ends) -> None:
    client, server = slow.pair()
    server.close()
    slow.settle()
    assert client.send(b"x") == 1
    assert slow.after(client, ERR) == 0.020
    assert failure(client.send, b"x") == errno.EPIPE


def test_the_side_that_closes_first_keeps_its_port(slow: Ends) -> None:
    client, server = slow.pair()
    name = client.getsockname()
    client.close()
    slow.settle()
    server.close()
    slow.settle()
    again = slow.stream()
    assert failure(again.bind, name) == errno.EADDRINUSE
    slow.clock.advance(61)
    again.bind(name)


def test_small_segments_wait_for_the_acknowledgement_without_tcp_nodelay(slow: Ends) -> None:
    client, server = slow.pair()
    client.send(b"a")
    client.send(b"b")
    slow.after(server, R)
    assert server.recv(100) == b"a"
    assert slow.after(server, R) == 0.020
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    slow.settle()
    assert server.recv(100) == b"b"
    client.send(b"c")
    client.send(b"d")
    assert slow.after(server, R) == 0.010
    assert server.recv(100) == b"cd"


# Rate.


def test_a_rate_limits_what_gets_through() -> None:
    with ends(rate="10mbit") as made:
        client, server = made.pair()
        start = made.clock.time()
        data = bytes(1_250_000)
        assert len(transfer(made, client, server, data)) == len(data)
        # A second for the data, and 5 per cent for their headers.
        assert 1.0 < made.clock.time() - start < 1.1


def test_a_slow_line_blocks_the_sender_and_not_the_memory() -> None:
    with ends(rate="1mbit") as made:
        client, _ = made.pair()
        total = client.send(bytes(1 << 20))
        assert total == client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        # A third of the buffer has to be free, at 125,000 bytes a second.
        assert made.after(client, OUT) == pytest.approx(total / 3 / 125_000, rel=0.1)


# Loss.


@pytest.mark.parametrize("words", [{}, {"delay": "10ms"}, {"delay": "5ms", "jitter": "5ms"}])
@pytest.mark.parametrize("six", [False, True])
def test_every_byte_arrives_in_order_over_a_lossy_path(words: dict[str, str], six: bool) -> None:
    data = random.Random(4).randbytes(500_000)
    with ends(six, loss="5%", duplicate="2%", corrupt="1%", **words) as made:
        client, server = made.pair()
        assert transfer(made, client, server, data) == data
        assert transfer(made, server, client, data[::-1]) == data[::-1]
        assert made.network.counters(made.client, made.server).lost > 10


def lose(made: Ends, chance: float) -> None:
    """Of what the client sends from now on, so much is lost."""
    made.network.set_path(made.client, made.server, both=False, delay="10ms", loss=chance)


def test_a_lost_segment_is_sent_again_after_the_retransmission_timeout(slow: Ends) -> None:
    client, server = slow.pair()
    lose(slow, 1)
    client.send(b"x")
    lose(slow, 0)
    # 200 ms and the measured round trip, and the way again.
    assert slow.after(server, R) == pytest.approx(0.23, abs=0.02)


def test_the_timeout_doubles(slow: Ends) -> None:
    client, server = slow.pair()
    slow.network.partition([slow.server])
    client.send(b"x")
    slow.clock.advance(1)
    slow.network.heal()
    # After 0.2, 0.6 and 1.4 seconds, of round trips besides.
    assert 1.4 < 1 + slow.after(server, R) < 1.6


def test_a_lost_segment_with_others_behind_it_is_sent_again_at_once(slow: Ends) -> None:
    client, server = slow.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lose(slow, 1)
    client.send(b"1")
    lose(slow, 0)
    for each in b"234":
        client.send(bytes([each]))
    # Those behind it arrive, are acknowledged, and it comes again: a way and a round trip.
    assert slow.after(server, R) == 0.030
    assert server.recv(100) == b"1234"


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


# Datagrams.


def test_a_datagram_takes_the_delay_of_one_way(slow: Ends) -> None:
    receiver, sender = slow.receiver(), slow.datagram()
    sender.sendto(b"hello", slow.address)
    assert slow.after(receiver, R) == 0.010
    data, address = receiver.recvfrom(100)
    assert (data, address[1]) == (b"hello", sender.getsockname()[1])


def test_the_message_that_nobody_listens_comes_back_after_a_round_trip(slow: Ends) -> None:
    sender = slow.datagram()
    sender.connect(slow.address)
    sender.send(b"anybody?")
    assert slow.after(sender, ERR) == 0.020
    assert failure(sender.recv, 100) == errno.ECONNREFUSED


def received(made: Ends, count: int) -> list[int]:
    receiver, sender = made.receiver(), made.datagram()
    for number in range(count):
        sender.sendto(number.to_bytes(2, "big"), made.address)
    made.settle()
    got = []
    while mask_of(receiver) & IN:
        got.append(int.from_bytes(receiver.recv(100), "big"))
    return got


def test_datagrams_are_lost_and_nobody_is_told() -> None:
    with ends(loss="30%") as made:
        got = received(made, 100)
        assert 50 < len(got) < 90
        assert got == sorted(got)
        assert made.network.counters(made.client, made.server).lost == 100 - len(got)


def test_datagrams_come_twice() -> None:
    with ends(duplicate=1) as made:
        assert received(made, 3) == [0, 0, 1, 1, 2, 2]


def test_jitter_reorders_datagrams() -> None:
    with ends(delay="10ms", jitter="10ms") as made:
        got = received(made, 50)
        assert got != sorted(got)
        assert sorted(got) == list(range(50))


def test_of_too_many_datagrams_under_way_the_last_are_dropped() -> None:
    with ends(delay="10ms", limit=20) as made:
        assert received(made, 50) == list(range(20))
        assert made.network.counters(made.client, made.server).overlimit == 30


def test_corrupted_datagrams_do_not_arrive() -> None:
    with ends(corrupt=1) as made:
        assert received(made, 5) == []


def test_a_broadcast_takes_each_host_s_own_path() -> None:
    with (
        ends(delay="10ms") as made,
        MemoryStack(vnl=made.network.name, ip="10.0.0.3/24") as third,
    ):
        near = made.make(third, socket.SOCK_DGRAM)
        near.bind(("", PORT))
        far = made.make(made.server, socket.SOCK_DGRAM)
        far.bind(("", PORT))
        sender = made.datagram()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"all", ("255.255.255.255", PORT))
        assert near.recv(100) == b"all"
        assert made.after(far, R) == 0.010


# Fates.


def fates(seed: int, delay: float = 0.01) -> tuple[list[int], float, str]:
    with ends(delay=delay, jitter=delay / 2, loss="20%", duplicate="10%") as made:
        made.network.seed = seed
        got = received(made, 50)
        client, server = made.pair()
        data = transfer(made, client, server, bytes(100_000))
        return got, made.clock.time(), hashlib.sha256(data).hexdigest()


def test_the_same_seed_and_traffic_have_the_same_fates_and_times() -> None:
    assert fates(1) == fates(1)
    assert fates(1) != fates(2)


def test_a_seed_that_was_drawn_can_be_read_and_used_again() -> None:
    with hosts() as (server, _):
        with MemoryStack() as one, MemoryStack() as other:
            assert one.network.seed != other.network.seed
        server.network.seed = 123
        assert server.network.seed == 123
        assert "seed=123" in repr(server.network)


def test_the_traffic_of_one_pair_does_not_change_the_fates_of_another() -> None:
    def got(extra: bool) -> list[int]:
        with ends(loss="30%") as made:
            with MemoryStack(vnl=made.network.name, ip="10.0.0.3/24") as third:
                made.network.set_path(third, made.server, loss="30%")
                noise = made.make(third, socket.SOCK_DGRAM)
                if extra:
                    for _ in range(10):
                        noise.sendto(b"noise", ("10.0.0.1", 9))
                return received(made, 50)

    assert got(False) == got(True)


# The clock.


def test_a_clock_tells_when_the_next_thing_is_due(slow: Ends) -> None:
    assert slow.clock.next is None
    assert not slow.clock.step()
    slow.datagram().sendto(b"x", slow.address)
    assert slow.clock.next == pytest.approx(0.01)
    slow.clock.advance(0.004)
    assert slow.clock.next == pytest.approx(0.006)
    assert slow.clock.step()
    assert slow.clock.time() == pytest.approx(0.01)


def test_a_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        ManualClock().advance(-1)


def test_the_clock_is_not_changed_while_something_is_under_way(slow: Ends) -> None:
    slow.datagram().sendto(b"x", slow.address)
    with pytest.raises(ValueError, match="before the first"):
        slow.network.clock = None
    slow.settle()
    slow.network.clock = None
    assert slow.network.clock is None


def test_one_clock_moves_several_networks_in_the_order_of_their_times() -> None:
    clock, order = ManualClock(), list[str]()
    with ends(delay="10ms") as one, ends(delay="20ms") as two:
        for made, name in ((two, "two"), (one, "one")):
            made.network.clock = clock
            receiver = made.receiver()
            receiver.vpoll.add_waiter(  # type: ignore[attr-defined]
                lambda mask, name=name: order.append(name)
            )
            made.datagram().sendto(b"x", made.address)
        clock.advance(1)
    assert order[:2] == ["one", "two"]


# Bad input.


@pytest.mark.parametrize(
    "words",
    [{"delay": -1}, {"loss": 2}, {"rate": "fast"}, {"limit": 0}, {"reorder": 1}, {"jitter": "x"}],
)
def test_a_bad_condition_is_refused_and_changes_nothing(words: dict[str, Any]) -> None:
    with hosts(delay="5ms") as (server, client):
        with pytest.raises(ValueError, match=r"expected|give"):
            server.network.set_path(server, client, **words)
        assert server.network.path(server, client).delay == 0.005


def test_stacks_of_other_networks_and_closed_ones_are_refused() -> None:
    with hosts() as (server, client), MemoryStack(ip="10.0.0.1/24") as stranger:
        network = server.network
        with pytest.raises(ValueError, match="no stack on"):
            network.set_path(server, stranger)
        client.close()
        with pytest.raises(ValueError, match="closed"):
            network.partition([client])
        with pytest.raises(ValueError, match="no path to itself"):
            network.set_path(server, server)
        with pytest.raises(ValueError, match="'server' is a name: expected the stack"):
            network.counters("server", server)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="server is in two groups"):
            network.partition([server], [server])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tcp_user_timeout", -1),
        ("tcp_syn_retries", 0),
        ("tcp_retries2", 256),
        ("seed", "one"),
    ],
)
def test_a_bad_setting_is_refused(name: str, value: Any) -> None:
    with hosts() as (server, _), pytest.raises(ValueError, match="expected"):
        setattr(server.network, name, value)


def test_networks_of_the_same_name_are_equal() -> None:
    with hosts() as (server, client), MemoryStack(ip="10.0.0.1/24") as stranger:
        assert server.network == client.network
        assert hash(server.network) == hash(client.network)
        assert server.network != stranger.network


# Closing.


def test_a_stack_that_closes_resets_its_connections_over_the_path(slow: Ends) -> None:
    client, _ = slow.pair()
    slow.server.close()
    assert slow.after(client, ERR) == 0.010
    assert failure(client.send, b"x") == errno.ECONNRESET


def test_nothing_answers_for_a_stack_that_has_closed(slow: Ends) -> None:
    client = slow.knocking()
    slow.network.tcp_syn_retries = 1
    slow.server.close()
    assert slow.after(client, ERR) == 3.0


PATHS = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.sampled_from([0, 0.001, 0.2]),
        "loss": st.floats(0, 0.3),
        "duplicate": st.floats(0, 0.5),
        "corrupt": st.floats(0, 0.1),
        "jitter": st.sampled_from([0, 0.001, 0.3]),
        "rate": st.sampled_from([0, "1mbit"]),
        "limit": st.sampled_from([5, 1000]),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.binary(min_size=1, max_size=5000)),
        st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 5000)),
        st.tuples(st.just("wait"), st.floats(0, 3)),
        st.tuples(st.just("path"), PATHS),
        st.tuples(st.just("partition")),
        st.tuples(st.just("heal")),
        st.tuples(st.just("end"), st.integers(0, 1)),
    ),
    max_size=40,
)


@given(steps=STEPS, seed=st.integers(0, 1 << 32), path=PATHS)
@settings(deadline=None, max_examples=60)
def test_whatever_happens_to_the_path_the_bytes_are_the_same(
    steps: list[Any], seed: int, path: dict[str, Any]
) -> None:
    with ends() as made:
        made.network.seed = seed
        pair = made.pair()
        made.network.set_path(**path)
        sent, got, ended = [b"", b""], [b"", b""], [False, False]
        for what, *arguments in steps:
            match what:
                case "send" if not ended[arguments[0]]:
                    try:
                        count = pair[arguments[0]].send(arguments[1])
                    except BlockingIOError:
                        continue
                    sent[arguments[0]] += arguments[1][:count]
                case "read":
                    try:
                        got[arguments[0]] += pair[arguments[0]].recv(arguments[1])
                    except BlockingIOError:
                        pass
                case "wait":
                    made.clock.advance(arguments[0])
                case "path":
                    made.network.set_path(**arguments[0])
                case "partition":
                    made.network.partition([made.server])
                case "heal":
                    made.network.heal()
                case "end" if not ended[arguments[0]]:
                    pair[arguments[0]].shutdown(socket.SHUT_WR)
                    ended[arguments[0]] = True
        made.network.heal()
        made.network.set_path()
        for side in (0, 1):
            if not ended[side]:
                pair[side].shutdown(socket.SHUT_WR)
        for side in (0, 1):
            while True:
                try:
                    chunk = pair[side].recv(1 << 20)
                except BlockingIOError:
                    assert made.clock.step(), "the end never comes"
                    continue
                if not chunk:
                    break
                got[side] += chunk
        assert got == sent[::-1]
        made.settle()
        assert [mask_of(sock) for sock in pair] == [DEAD, DEAD]
