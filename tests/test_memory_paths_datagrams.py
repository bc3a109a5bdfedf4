"""Datagrams over paths with conditions, and the seed that says what becomes of which."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator

import pytest

from memory_helpers import ERR, R, failure, mask_of
from path_helpers import PORT, Ends, ends, hosts, transfer
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
