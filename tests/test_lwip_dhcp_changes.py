"""What becomes of a DHCP lease on lwIP: somebody has its address, its interface is down, a fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from lwip_dhcp_lab import RANGE, Lab
from processes import Command
from vpoll_asyncio.stacks.draining import until
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_helpers import in_child

pytestmark = pytest.mark.needs("lwip", "dpkt", "dnsmasq", "vdestack")

MAC = "02:00:00:00:00:01"
ROUTER = "--dhcp-option=option:router,10.9.0.53"
# Which is not renewed by itself within a test.
LONG_RANGE = RANGE.replace(",120", ",43200")
OTHER_RANGE = LONG_RANGE.replace("10.9.0.100,10.9.0.150", "10.9.0.200,10.9.0.210")
FAR = ("192.0.2.1", 9)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as opened:
        yield opened


def log_until(server: Command, word: str) -> list[str]:
    """The messages that the server has told of, up to that with `word`."""
    lines: list[str] = []
    while not lines or word not in lines[-1]:
        line = server.wait_for("")
        if "(vde0)" in line:
            lines.append(line.partition(": ")[2])
    return lines


def reaches_far(stack: LwipStack) -> bool:
    """Whether there is a default route."""
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(FAR) == 0


# Somebody has the address.


def test_an_address_that_a_neighbour_has_is_declined_and_another_one_taken(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    with lab.serve() as server:
        with va.open_stack("lwip", vnl=lab.vnl, dhcp=True, mac=MAC, dhcp_release=True) as first:
            taken = first.addresses[0]
        neighbour = lab.open(dhcp=False, ip=taken, thread=True)
        # Nothing is used before the neighbour has had all the time to object.
        stack = lab.open(mac=MAC, dhcp_timeout=0, dhcp_probe=60)
        assert until(stack, 60, lambda: "is in use by" in caplog.text)
        assert neighbour.mac.hex(":") in caplog.text
        assert (stack.addresses, stack.lease) == ([], None)
        log_until(server, f"DHCPDECLINE(vde0) {taken.partition('/')[0]}")
        stack.skip_time(10)
        log_until(server, "DHCPDISCOVER")
        while not stack.addresses:
            until(stack, 0.1, lambda: bool(stack.addresses))
            stack.skip_time(10)
        assert len(stack.addresses) == 1
        assert stack.addresses != [taken]


def test_without_a_probe_an_address_is_used_at_once(lab: Lab) -> None:
    with lab.serve():
        with va.open_stack("lwip", vnl=lab.vnl, dhcp=True, mac=MAC, dhcp_release=True) as first:
            taken = first.addresses
        lab.open(dhcp=False, ip=taken, thread=True)
        assert lab.open(mac=MAC, dhcp_probe=0).addresses == taken


# What goes with a lease.


def test_the_mtu_of_a_lease_goes_with_it(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open(mtu=1450)
    assert stack.mtu == 1400
    stack.skip_time(121)
    assert (stack.lease, stack.mtu) == (None, 1450)


def test_an_mtu_that_was_set_meanwhile_stays(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open()
    stack.set_mtu(1300)
    stack.skip_time(121)
    assert (stack.lease, stack.mtu) == (None, 1300)


# An interface that goes down and up.


def test_an_interface_that_is_up_again_has_its_routes_and_asks_whether_its_lease_holds(
    lab: Lab,
) -> None:
    with lab.serve(ROUTER, LONG_RANGE) as server:
        stack = lab.open()
        lease = stack.lease
        assert lease is not None
        log_until(server, "DHCPACK")
        stack.set_down("vde0")
        assert not reaches_far(stack)
        stack.set_up("vde0")
        assert (reaches_far(stack), stack.lease) == (True, lease)
        assert until(stack, 60, lambda: stack.lease is not lease)
        assert stack.addresses == [str(lease.address)]
        asked = log_until(server, "DHCPACK")
        assert [line.partition("(")[0] for line in asked] == ["DHCPREQUEST", "DHCPACK"]


def test_on_another_network_the_lease_is_refused_and_another_one_had(lab: Lab) -> None:
    with lab.serve(LONG_RANGE):
        stack = lab.open()
        stack.set_down("vde0")
    before = stack.addresses
    with lab.serve(OTHER_RANGE):
        stack.set_up("vde0")
        assert until(stack, 60, lambda: stack.addresses not in (before, []))
        assert 200 <= int(stack.addresses[0].removesuffix("/24").rpartition(".")[2]) <= 210


def test_a_lease_that_ends_while_the_interface_is_down_is_asked_for_as_soon_as_it_is_up(
    lab: Lab,
) -> None:
    with lab.serve():
        stack = lab.open()
        stack.set_down("vde0")
        # Until the pauses between two questions are long.
        stack.skip_time(600)
        assert (stack.addresses, stack.lease) == ([], None)
        stack.set_up("vde0")
        assert until(stack, 60, lambda: len(stack.addresses) == 1)


# fork(2).


def test_a_child_leaves_the_lease_alone_and_the_parent_goes_on(lab: Lab) -> None:
    with lab.serve() as server:
        stack = lab.open(dhcp_release=True, dhcp=False, auto=True)
        first = stack.lease
        assert first is not None
        log_until(server, "DHCPACK")

        def child() -> None:
            assert (stack.closed, stack.lease, stack.routers) == (True, None, {})
            with pytest.raises(OSError, match="in process"):
                stack.set_up("vde0")
            stack.close()
            with va.open_stack("lwip", vnl="wire://child", ip="10.0.0.1/24"):
                assert os.getpid() != parent

        parent = os.getpid()
        in_child(child)
        stack.skip_time(61)
        assert until(stack, 60, lambda: stack.lease is not first)
        assert stack.addresses == [str(first.address)]
        asked = log_until(server, "DHCPACK")
        assert not any("DHCPRELEASE" in line for line in asked)
