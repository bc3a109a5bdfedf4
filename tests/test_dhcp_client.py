"""The states of a DHCP client, with a clock and a server that the tests play."""

from __future__ import annotations

import ipaddress
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio.stacks.dhcp import Action, Bound, Client, Lost, Probe, Send, State

pytestmark = pytest.mark.needs("dpkt")

MAC = bytes.fromhex("020000000001")
SERVER = ipaddress.IPv4Address("10.0.0.1")
OFFER, ACK, NAK = 2, 5, 6
DISCOVER, REQUEST, DECLINE, RELEASE = 1, 3, 4, 7


def client() -> Client:
    return Client(MAC, "lab", random.Random(1))


def packed(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def parsed(wire: bytes) -> tuple[Any, dict[int, bytes]]:
    import dpkt.dhcp

    message = dpkt.dhcp.DHCP(wire)
    return message, dict(message.opts)


def answer(
    sent: bytes,
    kind: int,
    address: str = "10.0.0.9",
    options: dict[int, bytes | None] | None = None,
    **header: Any,
) -> bytes:
    """What a server says to the message `sent`; an option of None is left out."""
    import dpkt.dhcp

    asked = dpkt.dhcp.DHCP(sent)
    said = {
        53: bytes([kind]),
        54: SERVER.packed,
        51: (1000).to_bytes(4, "big"),
        1: packed("255.255.255.0"),
        **(options or {}),
    }
    fields = {
        "op": 2,
        "xid": asked.xid,
        "yiaddr": int(ipaddress.IPv4Address(address)),
        "chaddr": MAC.ljust(16, b"\0"),
        "opts": [(code, data) for code, data in said.items() if data is not None],
    }
    return bytes(dpkt.dhcp.DHCP(**{**fields, **header}))


def wire(actions: list[Action]) -> bytes:
    """The one message that is among `actions`."""
    (send,) = [action for action in actions if isinstance(action, Send)]
    return send.wire


def bound(**options: Any) -> tuple[Client, Bound]:
    """A client at time 0 with a lease."""
    it = client()
    request = wire(it.receive(answer(wire(it.start(0)), OFFER, **options), 0))
    (lease,) = it.receive(answer(request, ACK, **options), 0)
    assert isinstance(lease, Bound)
    return it, lease


def test_an_offer_is_requested_from_the_server_that_has_made_it() -> None:
    it = client()
    message, options = parsed(wire(it.start(0)))
    assert (options[53][0], message.flags, options[61]) == (DISCOVER, 0x8000, b"\1" + MAC)
    assert options[12] == b"lab"
    _, options = parsed(wire(it.receive(answer(wire(it.tick(5)), OFFER), 5)))
    assert (options[53][0], options[50], options[54]) == (
        REQUEST,
        packed("10.0.0.9"),
        SERVER.packed,
    )


def test_pauses_double_up_to_a_minute_give_or_take_a_second() -> None:
    it, now, pauses = client(), 0.0, []
    it.start(0)
    for _ in range(7):
        pauses.append(it.deadline - now)
        now = it.deadline
        it.tick(now)
    expected = [4, 8, 16, 32, 64, 64, 64]
    assert all(abs(pause - want) <= 1 for pause, want in zip(pauses, expected, strict=True))
    assert len({pause - want for pause, want in zip(pauses, expected, strict=True)}) > 1


def test_a_client_that_nobody_answers_for_days_goes_on_asking() -> None:
    it = client()
    it.start(0)
    for _ in range(3000):
        now = it.deadline
        it.tick(now)
        assert 62 <= it.deadline - now <= 66 or now < 62


def test_a_server_that_offers_and_falls_silent_is_left_for_another() -> None:
    it = client()
    it.receive(answer(wire(it.start(0)), OFFER), 0)
    kinds = [parsed(wire(it.tick(it.deadline)))[1][53][0] for _ in range(4)]
    assert kinds == [REQUEST, REQUEST, REQUEST, DISCOVER]


def test_a_lease_is_renewed_with_its_server_then_with_any_and_then_lost() -> None:
    it, _ = bound()
    seen: list[tuple[float, State, ipaddress.IPv4Address | None]] = []
    ended: list[tuple[float, str]] = []
    while not ended:
        now = it.deadline
        actions = it.tick(now)
        ended += [(now, action.why) for action in actions if isinstance(action, Lost)]
        for action in actions:
            if isinstance(action, Send) and not ended:
                message, options = parsed(action.wire)
                assert message.ciaddr == int(ipaddress.IPv4Address("10.0.0.9"))
                assert not {50, 54} & options.keys()
                seen.append((now, it.state, action.to))
    assert ended == [(1000, "expired")]
    assert seen[:1] == [(500, State.RENEWING, SERVER)]
    assert (875, State.REBINDING, None) in seen
    assert it.state is State.SELECTING


@pytest.mark.parametrize("late", [500, 875])
def test_an_acknowledged_renewal_counts_from_when_it_was_asked_for(late: float) -> None:
    it, _ = bound()
    it.tick(late)
    it.receive(answer(wire(it.tick(it.deadline)), ACK), it.deadline)
    assert (it.state, it.deadline) == (State.BOUND, late + 500)


def test_a_refusal_takes_the_lease_away_and_begins_anew() -> None:
    it, _ = bound()
    lost, send = it.receive(answer(wire(it.tick(500)), NAK), 501)
    assert isinstance(lost, Lost)
    assert isinstance(send, Send)
    assert it.state is State.SELECTING


def test_servers_that_refuse_what_they_offer_are_asked_ever_less() -> None:
    it, now = client(), 0.0
    actions = it.start(0)
    begun = []
    for _ in range(5):
        begun.append(now)
        request = wire(it.receive(answer(wire(actions), OFFER), now))
        actions = it.receive(answer(request, NAK), now)
        if not actions:
            now = it.deadline
            actions = it.tick(now)
    assert begun == [0, 0, 1, 3, 7]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (OFFER, {"xid": 7}),
        (OFFER, {"chaddr": b"\2" * 16}),
        (OFFER, {"op": 1}),
        (OFFER, {"magic": 0}),
        (OFFER, {"hln": 5}),
        (ACK, {}),
        (NAK, {}),
        (OFFER, {"options": {54: None}}),
        (OFFER, {"options": {51: None}}),
        (OFFER, {"options": {51: bytes(4)}}),
        (OFFER, {"options": {1: packed("255.0.255.0")}}),
        (OFFER, {"options": {53: None}}),
        (OFFER, {"address": "0.0.0.0"}),
        (OFFER, {"address": "127.0.0.1"}),
        (OFFER, {"address": "224.0.0.1"}),
        (OFFER, {"address": "10.0.0.255"}),
        (OFFER, {"address": "10.0.0.0"}),
    ],
    ids=str,
)
def test_what_is_no_offer_to_this_client_is_ignored(kind: int, changes: dict[str, Any]) -> None:
    it = client()
    message = answer(wire(it.start(0)), kind, **changes)
    assert (it.receive(message, 1), it.state) == ([], State.SELECTING)


def test_only_the_chosen_server_may_acknowledge() -> None:
    it = client()
    request = wire(it.receive(answer(wire(it.start(0)), OFFER), 0))
    for kind in (ACK, NAK):
        assert it.receive(answer(request, kind, options={54: packed("10.0.0.2")}), 0) == []


@given(st.data())
def test_no_bytes_raise_or_give_an_address_that_no_host_can_have(data: st.DataObject) -> None:
    it = client()
    sent = wire(it.start(0))
    codes = st.sampled_from([1, 3, 6, 15, 26, 51, 52, 58, 59, 119, 121])
    options = data.draw(st.dictionaries(codes, st.binary(max_size=20)))
    message = answer(sent, OFFER, data.draw(st.ip_addresses(v=4).map(str)), {**options})
    cut = data.draw(st.integers(0, len(message)))
    tail = data.draw(st.binary(max_size=30))
    for made in (message, message[:cut], message[:cut] + tail):
        it = client()
        sent = wire(it.start(0))
        for action in it.receive(made, 1):
            assert isinstance(action, Send)
            asked = ipaddress.IPv4Address(parsed(action.wire)[1][50])
            assert not any((asked.is_multicast, asked.is_loopback, asked.is_unspecified))


# Whether somebody has the address already: RFC 2131, 3.1, step 5, and RFC 5227.


def checking() -> tuple[Client, list[Action]]:
    """A client with 0.3 seconds to check, and what it does when its server has granted."""
    it = Client(MAC, "lab", random.Random(1), probe=0.3)
    request = wire(it.receive(answer(wire(it.start(0)), OFFER), 0))
    return it, it.receive(answer(request, ACK), 1)


def test_an_address_is_asked_for_three_times_before_it_is_used() -> None:
    it, actions = checking()
    assert actions == [Probe(ipaddress.IPv4Address("10.0.0.9"))]
    assert (it.state, it.lease) == (State.CHECKING, None)
    asked = [it.tick(it.deadline) for _ in range(2)]
    assert asked == [actions, actions]
    assert it.deadline == pytest.approx(1.3)
    (got,) = it.tick(1.31)
    assert isinstance(got, Bound)
    # From when it was asked for.
    assert (it.state, it.deadline) == (State.BOUND, 500)


def test_an_address_that_somebody_has_is_declined_and_a_server_looked_for_later() -> None:
    it, _ = checking()
    message, options = parsed(wire(it.decline(2)))
    assert (options[53][0], message.ciaddr) == (DECLINE, 0)
    assert (options[50], options[54]) == (packed("10.0.0.9"), SERVER.packed)
    assert options[61] == b"\1" + MAC
    assert not {55, 57} & options.keys()
    assert (it.lease, it.tick(11.9), it.deadline) == (None, [], 12)
    assert parsed(wire(it.tick(12)))[1][53][0] == DISCOVER


def test_what_is_in_use_already_is_not_asked_for_again() -> None:
    it, _ = checking()
    for _ in range(3):
        it.tick(it.deadline)
    (got,) = it.receive(answer(wire(it.tick(500)), ACK), 501)
    assert isinstance(got, Bound)
    assert it.decline(502) == []


def test_a_server_says_nothing_more_while_an_address_is_checked() -> None:
    it, _ = checking()
    sent = wire(client().start(0))
    assert it.receive(answer(sent, NAK), 1) == []
    assert it.state is State.CHECKING


def test_stopping_ends_the_check() -> None:
    it, _ = checking()
    assert (it.release(), it.tick(1000), it.lease) == ([], [], None)


# An interface that was down: RFC 2131, 4.4.2.


def test_an_interface_that_is_up_again_asks_everybody_for_what_it_has() -> None:
    it, got = bound()
    (send,) = it.reboot(100)
    assert isinstance(send, Send)
    message, options = parsed(send.wire)
    assert (send.to, options[53][0], options[50]) == (None, REQUEST, packed("10.0.0.9"))
    assert (message.ciaddr, 54 in options) == (0, False)
    assert it.lease is got.lease
    (again,) = it.receive(answer(send.wire, ACK), 101)
    assert isinstance(again, Bound)
    assert (it.state, it.deadline) == (State.BOUND, 600)


def test_on_another_network_it_is_refused_and_begins_anew() -> None:
    it, _ = bound()
    lost, send = it.receive(answer(wire(it.reboot(100)), NAK), 101)
    assert isinstance(lost, Lost)
    assert isinstance(send, Send)
    assert parsed(send.wire)[1][53][0] == DISCOVER


def test_when_nobody_answers_the_lease_goes_on_as_before() -> None:
    it, got = bound()
    it.reboot(100)
    kinds = []
    while it.state is State.REBOOTING:
        sent = [action for action in it.tick(it.deadline) if isinstance(action, Send)]
        kinds += [parsed(send.wire)[1][53][0] for send in sent]
    assert kinds == [REQUEST, REQUEST, REQUEST]
    assert (it.state, it.lease, it.deadline) == (State.BOUND, got.lease, 500)


def test_when_nobody_answers_a_lease_that_is_due_is_renewed() -> None:
    it, _ = bound()
    it.reboot(490)
    while it.state is State.REBOOTING:
        actions = it.tick(it.deadline)
    (send,) = actions
    assert isinstance(send, Send)
    assert (it.state, send.to) == (State.RENEWING, SERVER)


def test_a_lease_that_ends_meanwhile_is_lost() -> None:
    it, _ = bound()
    it.reboot(995)
    actions: list[Action] = []
    while it.lease is not None:
        actions = it.tick(it.deadline)
    assert it.deadline > 1000
    assert any(isinstance(action, Lost) for action in actions)
    assert it.state is State.SELECTING


def test_one_that_was_over_before_is_lost_at_once() -> None:
    it, _ = bound()
    lost, send = it.reboot(1000)
    assert isinstance(lost, Lost)
    assert isinstance(send, Send)


def test_without_a_lease_a_server_is_looked_for_at_once() -> None:
    it = client()
    it.start(0)
    for _ in range(5):
        it.tick(it.deadline)
    (send,) = it.reboot(200)
    assert isinstance(send, Send)
    assert (it.state, it.deadline < 206) == (State.SELECTING, True)


# What options mean.


def test_a_lease_for_ever_is_never_renewed() -> None:
    it, got = bound(options={51: b"\xff" * 4})
    assert (got.lease.lifetime, it.deadline) == (math.inf, math.inf)


def test_times_that_contradict_each_other_are_the_usual_shares() -> None:
    later = (5000).to_bytes(4, "big")
    _, got = bound(options={58: later, 59: later})
    assert (got.lease.renew, got.lease.rebind) == (500, 875)


def test_without_a_mask_the_class_of_the_address_counts() -> None:
    _, got = bound(options={1: None})
    assert str(got.lease.address) == "10.0.0.9/8"


def test_a_router_that_is_no_neighbour_is_left_out() -> None:
    _, got = bound(options={3: packed("10.9.9.9") + packed("10.0.0.1")})
    assert [str(route.via) for route in got.lease.routes] == ["10.0.0.1"]


def test_options_in_the_fields_of_names_are_read() -> None:
    it = client()
    file = b"\x06\x04" + packed("10.0.0.3") + b"\xff"
    changes: dict[str, Any] = {"options": {52: b"\1"}, "file": file.ljust(128, b"\0")}
    request = wire(it.receive(answer(wire(it.start(0)), OFFER, **changes), 0))
    (got,) = it.receive(answer(request, ACK, **changes), 0)
    assert isinstance(got, Bound)
    assert got.lease.dns == ("10.0.0.3",)


def test_the_parts_of_a_long_option_are_joined() -> None:
    _, got = bound(options={15: b"x" * 200 + b"." + b"y" * 20})
    assert got.lease.domains == ()  # a label is too long
    search = b"\3lab\7example\0\4more\xc0\4"
    _, got = bound(options={119: search})
    assert got.lease.domains == ("lab.example", "more.example")


def test_a_malformed_list_of_routes_is_no_list_at_all() -> None:
    _, got = bound(options={121: b"\x08\x0a" + packed("10.0.0.1") + b"\x21" * 9})
    assert got.lease.routes == ()


def test_a_lease_that_is_given_back_names_its_server() -> None:
    it, _ = bound()
    send, lost = it.release()
    assert isinstance(send, Send)
    assert isinstance(lost, Lost)
    message, options = parsed(send.wire)
    assert (options[53][0], options[54], send.to) == (RELEASE, SERVER.packed, SERVER)
    assert message.ciaddr == int(ipaddress.IPv4Address("10.0.0.9"))
    assert it.release() == []
