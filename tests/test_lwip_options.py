"""What an lwIP stack is opened with, and what is no option of it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lwip_frames import ACK, RST, SYN, frame, parse_tcp, tcp
from lwip_helpers import PEER4, PEER6, Peer, lwip_on_wire
from memory_helpers import failure
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ({}, "vnl"),
        ({"vnl": "wire://x", "link": object()}, "either"),
        ({"vnl": "wire://x", "ip": "10.0.0.1/99"}, "10.0.0.1/99"),
        ({"vnl": "wire://x", "ip": "localhost"}, "localhost"),
        ({"vnl": "wire://x", "ip": "127.0.0.1/8"}, "host"),
        ({"vnl": "wire://x", "ip6": "10.0.0.1/24"}, "IPv6"),
        ({"vnl": "wire://x", "ip": [f"10.0.{n}.1/24" for n in range(201)]}, "200"),
        ({"vnl": "wire://x", "ip": [f"fd00::{n}/64" for n in range(1, 7)]}, "5"),
        ({"vnl": "wire://x", "ip": "10.0.0.1/24", "gw": "192.168.0.1"}, "reaches"),
        ({"vnl": "wire://x", "ip": "10.0.0.1/24", "gw": "fd00::1"}, "no IPv6"),
        ({"vnl": "wire://x", "ip": "10.0.0.1/24", "gw": ["10.0.0.2", "10.0.0.3"]}, "one gateway"),
        ({"vnl": "wire://x", "mac": "01:00:00:00:00:00"}, "multicast"),
        ({"vnl": "wire://x", "mac": "02:00"}, "six bytes"),
        ({"vnl": "wire://x", "mtu": 100}, "576"),
        ({"vnl": "nonsense"}, "SCHEME"),
        ({"vnl": "wire://x", "colour": "red"}, "colour"),
    ],
)
def test_a_bad_option_is_a_value_error_that_says_why(options: dict[str, Any], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        open_stack("lwip", **options)
    # Nothing was left open.
    with lwip_on_wire():
        pass


def test_the_configuration_string(no_fd_leak: None) -> None:
    config = "stack=lwip,vnl=wire://lab,ip=10.0.0.1/24,ip=fd00::1/64,gw=10.0.0.2,mtu=1400"
    with open_stack(config) as stack:
        assert isinstance(stack, LwipStack)
        assert sorted(stack.addresses) == ["10.0.0.1/24", "fd00::1/64"]
        assert stack.mtu == 1400


@pytest.mark.parametrize(
    ("family", "kind", "proto", "number"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, errno.EAFNOSUPPORT),
        (socket.AF_INET, socket.SOCK_SEQPACKET, 0, errno.ESOCKTNOSUPPORT),
        (socket.AF_INET, 77, 0, errno.ESOCKTNOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, errno.EPROTONOSUPPORT),
    ],
)
def test_sockets_that_it_does_not_have(
    peer: Peer, family: int, kind: int, proto: int, number: int
) -> None:
    assert failure(peer.stack.socket, family, kind, proto) == number


def test_several_addresses_of_each_family() -> None:
    fours, sixes = ["10.0.0.1", "10.0.0.9", "192.168.7.1"], ["fd00::1", "fd00::9"]
    ip = [*(f"{address}/24" for address in fours), *(f"{address}/64" for address in sixes)]
    with lwip_on_wire(ip=ip) as peer:
        for address in (*fours, *sixes):
            six = ":" in address
            src = (PEER6 if six else "192.168.7.2" if "192" in address else PEER4, 4000)
            received = peer.send(frame(tcp(src, (address, 99), SYN, 1)))
            [answer] = [got for one in received if (got := parse_tcp(one))]
            assert answer["flags"] == RST | ACK
