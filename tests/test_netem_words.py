"""The words of netem: what they mean, which are refused, and how a locator has them."""

from __future__ import annotations

from typing import Any

import pytest

from link_helpers import (
    numbered,
    receive,
    send_all,
)
from vpoll_asyncio.links import Link, NetemLink, open_link, wire_pair
from vpoll_asyncio.links.netemspec import parse_settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"delay": "10"}, "delay='10': expected seconds"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": "10 parsecs"}, "expected seconds"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"jitter": "1ms 2% 3%"}, "a value and its correlation"),
        ({"loss": "2"}, "per cent"),
        ({"loss": "101%"}, "per cent"),
        ({"loss": (0.5, 2)}, "per cent"),
        ({"duplicate": "many"}, "per cent"),
        ({"rate": "10furlong"}, "10mbit"),
        ({"rate": -1}, "10mbit"),
        ({"limit": 0}, "1 or more"),
        ({"gap": -1}, "0 or more"),
        ({"reorder": "10%"}, "give a delay"),
        ({"distribution": "pareto"}, "uniform, normal"),
        ({"direction": "up"}, "in, out, both"),
    ],
)
def test_a_bad_word_says_what_was_expected(words: dict[str, Any], message: str) -> None:
    near, far = wire_pair()
    with near, far:
        with pytest.raises(ValueError, match=message):
            NetemLink(near, **words)
        assert not near.closed


@pytest.mark.parametrize(
    ("word", "bits"),
    [("10mbit", 1e7), ("1.5kbit", 1500), ("56000", 56000), ("1MBps", 8e6), ("1kibit", 1024)],
)
def test_rates_are_tcs(word: str, bits: float) -> None:
    assert parse_settings(rate=word).rate == bits


def test_netem_nests_in_a_locator() -> None:
    vnl = "netem://delay=1ms,jitter=100us 25%/loss=100%,direction=out,seed=7{wire://bad}"
    with open_link("wire://bad") as far, open_link(vnl) as link:
        assert isinstance(link, NetemLink)
        assert link.seed == "7"
        link.send_batch(numbered(100)[:3])
        send_all(far, numbered(100)[:3])
        assert receive(link, 3) == numbered(100)[:3]
        assert far.recv_batch() == []
        assert link.counters("out").lost == 3


def test_the_seed_of_a_locator_is_that_of_the_constructor() -> None:
    def losses(link: Link) -> list[int]:
        with link, open_link("wire://seeded") as far:
            link.send_batch(numbered(100))
            return [int.from_bytes(frame[14:18], "big") for frame in far.recv_batch(100)]

    one = losses(open_link("netem://loss=50%,seed=7{wire://seeded}"))
    assert one == losses(NetemLink(open_link("wire://seeded"), loss=0.5, seed=7))


@pytest.mark.parametrize(
    ("vnl", "message"),
    [
        ("netem://", "expected another locator in braces"),
        ("netem://loss=2%", "expected another locator in braces"),
        ("netem://loss{wire://a}", "expected NAME=VALUE"),
        ("netem://colour=red{wire://a}", "netem:// has each once: delay, jitter"),
        ("netem://loss=1%,loss=2%{wire://a}", "each once"),
        ("netem://loss=200%{bogus://}", "per cent"),
        ("netem://direction=up{bogus://}", "in, out or both"),
        ("netem://loss=1%{bogus://}", "no link serves bogus"),
    ],
)
def test_a_malformed_locator_is_a_value_error(vnl: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_link(vnl)
