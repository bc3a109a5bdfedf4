"""lwIP configured by the advertisements of a real router: dnsmasq on Linux's TCP/IP."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from dnsmasq import RECORDS, dnsmasq
from link_helpers import PATIENCE
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.vdestack import VdeStack

pytestmark = pytest.mark.needs("lwip", "dpkt")

SERVED = pytest.mark.needs("dnsmasq", "vdestack")
NUMBERS = itertools.count()
MAC = "02:00:00:00:00:01"
ADDRESS = "fd00:9::ff:fe00:1/64"
RANGES = (
    *("--enable-ra", "--dhcp-range=fd00:9::,ra-only,64,600", "--ra-param=vde0,mtu:1400,high,5,600"),
    *("--dhcp-option=option6:dns-server,[fd00:9::53]",),
    "--dhcp-option=option6:domain-search,lab.example,more.lab.example",
)


def _wait_for_link_local(host: VdeStack) -> None:
    """A router's address is its kernel's once the detection of duplicates is over."""
    enter = ["nsenter", "-t", str(host.helper), "-n"]
    if os.geteuid():
        enter += ["-U", "--preserve-credentials"]
    tentative = [*enter, "ip", "-6", "-o", "address", "show", "tentative"]
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(tentative, capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def router() -> Iterator[tuple[str, VdeStack]]:
    """A wire, and a host on it that advertises a prefix."""
    vnl = f"wire://rd{next(NUMBERS)}"
    with va.open_stack("vdestack", vnl=vnl, ip=["10.9.0.53/24", "fd00:9::53/64"]) as host:
        assert isinstance(host, VdeStack)
        _wait_for_link_local(host)
        with dnsmasq(
            host, *RECORDS, *RANGES, "--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,120"
        ):
            yield vnl, host


@SERVED
def test_a_prefix_gives_an_address_that_connections_come_from(
    router: tuple[str, VdeStack],
) -> None:
    vnl, host = router
    with va.open_stack(f"stack=lwip,vnl={vnl},mac={MAC},rd") as stack:
        assert stack.addresses == [ADDRESS]
        with host.socket(socket.AF_INET6) as listener, stack.socket(socket.AF_INET6) as client:
            listener.bind(("fd00:9::53", 80))
            listener.listen()
            client.settimeout(60)
            client.connect(("fd00:9::53", 80))
            assert client.getsockname()[0] == ADDRESS.partition("/")[0]


@pytest.mark.needs("slirp")
def test_slirp_is_a_router_that_connections_go_through() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        va.open_stack(f"stack=lwip,vnl=slirp://,mac={MAC},rd") as stack,
        stack.socket(socket.AF_INET6) as client,
    ):
        assert stack.addresses == ["fd00::ff:fe00:1/64"]
        client.settimeout(60)
        # slirp's fd00::2 is the host's loopback, ::1.
        with pytest.raises(ConnectionRefusedError):
            client.connect(("fd00::2", listener.getsockname()[1]))


@SERVED
async def test_a_loop_waits_for_routers_and_dhcp_at_once(router: tuple[str, VdeStack]) -> None:
    with va.open_stack("lwip", vnl=router[0], mac=MAC, rd=True, dhcp=True) as stack:
        assert isinstance(stack, LwipStack)
        await stack.wait_configured(60)
        assert stack.lease is not None
        assert stack.addresses == [str(stack.lease.address), ADDRESS]


@SERVED
@pytest.mark.needs("dnspython")
def test_names_are_looked_up_with_what_a_router_advertises(router: tuple[str, VdeStack]) -> None:
    vnl, _ = router
    with va.open_stack("lwip", vnl=vnl, mac=MAC, rd=True) as stack:
        assert isinstance(stack, LwipStack)
        assert stack.resolver is not None
        assert stack.resolver.conf.servers == ("fd00:9::53",)
        assert stack.resolver.conf.search == ("lab.example", "more.lab.example")
        infos = stack.getaddrinfo("six", 80, socket.AF_INET6, socket.SOCK_STREAM)
        assert [info[4][0] for info in infos] == ["fd00::6"]
        (one,) = stack.routers["vde0"]
        assert (one.advertisement.mtu, one.advertisement.preference) == (1400, "high")


@SERVED
@pytest.mark.needs("dnspython")
def test_name_servers_of_dhcp_come_before_those_of_routers(router: tuple[str, VdeStack]) -> None:
    with va.open_stack("lwip", vnl=router[0], mac=MAC, rd=True, dhcp=True) as stack:
        assert stack.resolver is not None
        assert stack.resolver.conf.servers == ("10.9.0.53", "fd00:9::53")
        assert stack.resolver.conf.search == ("lab.example", "more.lab.example")


def test_without_a_router_opening_fails_and_says_what_was_tried() -> None:
    with pytest.raises(TimeoutError, match="routers were solicited") as caught:
        va.open_stack("lwip", vnl="wire://nobody", rd=True, dhcp_timeout=0.1)
    assert caught.value.errno == errno.ETIMEDOUT


async def test_closing_the_stack_ends_the_wait_for_a_router() -> None:
    stack = va.open_stack("lwip", vnl="wire://nobody", rd=True)
    assert isinstance(stack, LwipStack)
    waiting = asyncio.ensure_future(stack.wait_configured())
    await asyncio.sleep(0)
    stack.close()
    with pytest.raises(OSError, match="closed"):
        await waiting
