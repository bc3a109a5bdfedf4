"""Delay, rate, loss and partition between hosts of a memory network, under a clock of the test's.

Streams over them behave as TCP does, and the times are exact.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_helpers import DEAD, ERR, FIONREAD, HUP, PRI, RDHUP, R, W, ask, failure, mask_of
from path_helpers import Ends, ends, transfer
from vpoll_asyncio.events import EventMask

OUT = EventMask.OUT
IN = EventMask.IN
TIOCOUTQ = 0x5411


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def slow(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A delay of 10 ms each way."""
    with ends(request.param, delay="10ms") as made:
        yield made


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
