"""Whether somebody has an address already: ARP's probes (RFC 5227) on lwIP, frame by frame."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from lwip_frames import BROADCAST, MAC, PEER_MAC, arp, ethernet
from lwip_helpers import PEER4, Peer, lwip_on_wire

pytestmark = pytest.mark.needs("lwip")

WANTED, OTHER = "10.0.0.9", "10.0.0.8"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as opened:
        yield opened


def probe(peer: Peer, address: str | None = WANTED) -> list[bytes]:
    """Ask, and return the frames that the stack has sent; nobody answers."""
    wanted = None if address is None else ipaddress.IPv4Address(address)
    peer.stack.core.probe(peer.stack.core.ports[0], wanted)
    return peer.link.recv_batch(16)


def owner(peer: Peer) -> bytes | None:
    return peer.stack.core.probed(peer.stack.core.ports[0])


def heard(packet: bytes) -> bytes:
    return ethernet(packet, 0x0806, dst=BROADCAST)


def test_a_probe_is_a_question_without_an_address_of_ones_own(peer: Peer) -> None:
    question = arp(1, "0.0.0.0", WANTED, src_mac=MAC)
    assert probe(peer) == [ethernet(question, 0x0806, dst=BROADCAST, src=MAC)]
    assert owner(peer) is None


@pytest.mark.parametrize(
    "packet",
    [arp(2, WANTED, "0.0.0.0"), arp(1, WANTED, WANTED), arp(1, WANTED, OTHER)],
    ids=["answer", "announcement", "question to another"],
)
def test_whoever_sends_from_the_address_has_it(peer: Peer, packet: bytes) -> None:
    probe(peer)
    peer.send(heard(packet))
    assert owner(peer) == PEER_MAC


def test_whoever_else_probes_for_it_is_about_to_have_it(peer: Peer) -> None:
    probe(peer)
    peer.send(heard(arp(1, "0.0.0.0", WANTED)))
    assert owner(peer) == PEER_MAC


@pytest.mark.parametrize(
    "packet",
    [
        arp(1, PEER4, WANTED),
        arp(2, OTHER, "0.0.0.0"),
        arp(1, "0.0.0.0", OTHER),
        arp(1, "0.0.0.0", WANTED, src_mac=MAC),
        arp(2, WANTED, "0.0.0.0")[:20],
    ],
    ids=["a question", "another's answer", "another's probe", "an echo of ours", "cut off"],
)
def test_other_packets_say_nothing(peer: Peer, packet: bytes) -> None:
    probe(peer)
    peer.send(heard(packet))
    assert owner(peer) is None


def test_what_was_heard_is_of_one_address_and_ends_with_the_probing(peer: Peer) -> None:
    probe(peer)
    peer.send(heard(arp(2, WANTED, "0.0.0.0")))
    probe(peer)
    assert owner(peer) == PEER_MAC
    probe(peer, OTHER)
    assert owner(peer) is None
    assert probe(peer, None) == []
    peer.send(heard(arp(2, OTHER, "0.0.0.0")))
    assert owner(peer) is None


def test_an_interface_that_is_gone_cannot_be_asked(peer: Peer) -> None:
    port = peer.stack.core.ports[0]
    peer.stack.del_interface("vde0")
    with pytest.raises(OSError, match="No such device"):
        peer.stack.core.probe(port, ipaddress.IPv4Address(WANTED))
