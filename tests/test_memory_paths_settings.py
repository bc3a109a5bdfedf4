"""What paths and their clock are told, what is refused, and stacks that close."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from memory_helpers import ERR, failure
from path_helpers import Ends, ends, hosts
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
