"""lwIP configured by real DHCP servers: slirp's, and dnsmasq on a wire with Linux's TCP/IP."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from lwip_dhcp_lab import Lab
from run_helpers import run
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.stacks.draining import until
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip", "dpkt")

SERVED = pytest.mark.needs("dnsmasq", "vdestack")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as opened:
        yield opened


def routes(stack: LwipStack) -> list[str]:
    lease = stack.lease
    assert lease is not None
    return [f"{route.network}>{route.via}" for route in lease.routes]


# Behind slirp.


@pytest.mark.needs("slirp")
def test_slirp_tells_the_stack_its_address_router_and_name_server() -> None:
    with va.open_stack("stack=lwip,vnl=slirp://,dhcp") as stack:
        assert isinstance(stack, LwipStack)
        assert stack.addresses == ["10.0.2.15/24"]
        assert routes(stack) == ["0.0.0.0/0>10.0.2.2"]
        assert stack.resolver is not None
        assert stack.resolver.conf.servers == ("10.0.2.3",)


@pytest.mark.needs("slirp")
def test_a_connection_goes_through_what_slirp_has_told() -> None:
    async def main() -> bytes:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with va.open_stack("lwip", vnl="slirp://", dhcp=True) as stack:
                assert isinstance(stack, LwipStack)
                await stack.wait_configured(60)
                reader, writer = await va.open_connection("10.0.2.2", port, stack=stack)
                try:
                    return await reader.read()
                finally:
                    writer.close()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    assert asyncio.run(main()) == b"hello"


@pytest.mark.needs("slirp")
def test_a_program_runs_once_the_stack_is_configured() -> None:
    code = "import socket\nwith socket.socket() as s:\n    print(s.bind(('10.0.2.15', 80)))\n"
    done = run("-", stack="stack=lwip,vnl=slirp://,dhcp", stdin=code)
    assert (done.status, done.out, done.err) == (0, "None\n", "")


# What a server tells.


@SERVED
def test_everything_that_a_server_tells_is_set(lab: Lab) -> None:
    with lab.serve("--dhcp-option=option:router,10.9.0.53"):
        stack = lab.open(mac="02:00:00:00:00:01", hostname="here")
        lease = stack.lease
        assert lease is not None
        assert stack.addresses == [str(lease.address)]
        assert (str(lease.server), lease.lifetime, lease.renew) == ("10.9.0.53", 120, 60)
        assert routes(stack) == ["0.0.0.0/0>10.9.0.53"]
        assert stack.mtu == 1400
        assert stack.resolver is not None
        assert stack.resolver.conf.servers == ("10.9.0.53",)
        assert stack.resolver.conf.search == ("lab.example", "more.lab.example")


@SERVED
def test_the_server_hears_the_host_name(lab: Lab) -> None:
    with lab.serve() as server:
        lab.open(hostname="here")
        while "DHCPACK" not in (line := server.wait_for("")):
            pass
        assert line.endswith(" here")


@SERVED
def test_routes_of_option_121_take_the_place_of_the_router(lab: Lab) -> None:
    ways = "0.0.0.0/0,10.9.0.53,10.20.0.0/16,10.9.0.54"
    with lab.serve(
        "--dhcp-option=option:router,10.9.0.99",
        f"--dhcp-option=option:classless-static-route,{ways}",
    ):
        stack = lab.open()
        assert routes(stack) == ["0.0.0.0/0>10.9.0.53", "10.20.0.0/16>10.9.0.54"]
        with pytest.raises(OSError, match=r"10\.20\.0\.0/16") as caught:
            stack.add_route("10.20.0.0/16", "10.9.0.60")
        assert caught.value.errno == errno.EEXIST


@SERVED
def test_name_servers_and_domains_that_were_given_win(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open(dns="10.9.0.54")
        assert stack.resolver is not None
        assert stack.resolver.conf.servers == ("10.9.0.54",)
        assert stack.resolver.conf.search == ("lab.example", "more.lab.example")


@SERVED
def test_two_stacks_get_two_addresses(lab: Lab) -> None:
    with lab.serve():
        assert lab.open().addresses != lab.open().addresses


@SERVED
def test_each_interface_has_a_lease_of_its_own(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open(interfaces=[{"vnl": lab.vnl, "dhcp": "1"}])
        stack.add_interface(vnl=lab.vnl, dhcp=True)
        assert list(stack.leases) == ["vde0", "vde1", "vde2"]
        assert len({lease.address for lease in stack.leases.values()}) == 3
        stack.del_interface("vde1")
        assert list(stack.leases) == ["vde0", "vde2"]


# Who drives.


@SERVED
@pytest.mark.parametrize("factory", LOOPS)
async def test_a_loop_drives_the_client(factory: LoopFactory, lab: Lab) -> None:
    def in_loop() -> list[str]:
        async def main() -> list[str]:
            stack = lab.open()
            assert stack.lease is None
            await stack.wait_configured(60)
            return stack.addresses

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    with lab.serve():
        assert len(await asyncio.to_thread(in_loop)) == 1


@SERVED
def test_a_thread_of_the_stack_drives_the_client(lab: Lab) -> None:
    with lab.serve():
        assert len(lab.open(thread=True).addresses) == 1


# How a lease goes on and ends.


@SERVED
def test_a_lease_is_renewed_when_half_of_it_is_over(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open()
        first = stack.lease
        assert first is not None
        stack.skip_time(61)
        assert until(stack, 60, lambda: stack.lease is not first)
        assert stack.addresses == [str(first.address)]


@SERVED
def test_without_its_server_a_lease_expires_and_another_begins_when_it_is_back(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    with lab.serve():
        stack = lab.open()
    with caplog.at_level(logging.WARNING):
        stack.skip_time(121)
    assert (stack.addresses, stack.lease) == ([], None)
    assert "is expired" in caplog.text
    with lab.serve():
        # However long the client has been told to wait by now.
        stack.skip_time(70)
        assert until(stack, 60, lambda: stack.lease is not None)
        assert len(stack.addresses) == 1


@SERVED
def test_a_server_that_refuses_makes_the_client_ask_for_another_address(lab: Lab) -> None:
    with lab.serve():
        stack = lab.open()
    before = stack.addresses
    with lab.serve("--dhcp-range=10.9.0.200,10.9.0.210,255.255.255.0,120"):
        stack.skip_time(61)
        assert until(stack, 60, lambda: stack.addresses not in (before, []))
        assert 200 <= int(stack.addresses[0].removesuffix("/24").rpartition(".")[2]) <= 210


@SERVED
def test_a_lease_is_given_back_when_that_is_asked_for(lab: Lab) -> None:
    with lab.serve() as server:
        lab.open(dhcp_release=True).close()
        while "DHCPRELEASE" not in server.wait_for(""):
            pass


@SERVED
@pytest.mark.parametrize("seed", range(2))
def test_lost_frames_are_made_up_for(lab: Lab, seed: int) -> None:
    with lab.serve():
        stack = va.open_stack(
            "lwip",
            vnl=f"netem://loss=30%,seed={seed}{{{lab.vnl}}}",
            dhcp=True,
            dhcp_timeout=0,
        )
        assert isinstance(stack, LwipStack)
        with stack:

            async def main() -> None:
                waiting = asyncio.ensure_future(stack.wait_configured(60))
                while not waiting.done():
                    # A retransmission that is due in seconds.
                    await asyncio.wait([waiting], timeout=0.1)
                    stack.skip_time(5)
                await waiting

            asyncio.run(main())
            assert len(stack.addresses) == 1


# Without a server.


def test_without_a_server_opening_fails_and_says_what_was_tried() -> None:
    with pytest.raises(TimeoutError, match=r"vde0 \(1 DISCOVER\)") as caught:
        va.open_stack("lwip", vnl="wire://nobody", dhcp=True, dhcp_timeout="0.1")
    assert caught.value.errno == errno.ETIMEDOUT


async def test_without_a_server_waiting_fails_and_the_stack_stays_open() -> None:
    with va.open_stack("lwip", vnl="wire://nobody", dhcp=True) as stack:
        assert isinstance(stack, LwipStack)
        with pytest.raises(TimeoutError, match="no lease"):
            await stack.wait_configured(0.01)
        assert not stack.closed


def test_an_interface_that_gets_no_lease_is_gone_again() -> None:
    with va.open_stack("lwip", vnl="wire://one", ip="10.0.0.1/24", dhcp_timeout=0.1) as stack:
        assert isinstance(stack, LwipStack)
        with pytest.raises(TimeoutError):
            stack.add_interface(vnl="wire://nobody", dhcp=True)
        assert [port.name for port in stack.interfaces] == ["vde0"]


async def test_closing_the_stack_ends_the_wait_for_a_lease() -> None:
    stack = va.open_stack("lwip", vnl="wire://nobody", dhcp=True)
    assert isinstance(stack, LwipStack)
    waiting = asyncio.ensure_future(stack.wait_configured())
    await asyncio.sleep(0)
    stack.close()
    with pytest.raises(OSError, match="closed") as caught:
        await waiting
    assert caught.value.errno == errno.ENETDOWN


async def test_without_the_option_there_is_nothing_to_wait_for() -> None:
    with va.open_stack("lwip", vnl="wire://nobody", ip="10.0.0.1/24") as stack:
        assert isinstance(stack, LwipStack)
        await stack.wait_configured()
        assert stack.lease is None


@pytest.mark.parametrize(
    "options",
    [{"dhcp": "maybe"}, {"dhcp_timeout": "soon"}, {"dhcp_timeout": -1}, {"hostname": "not a name"}],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        va.open_stack("lwip", vnl="wire://nobody", **options)


def test_a_link_of_bare_packets_has_no_dhcp() -> None:
    link = va.PacketLink(send=lambda packet: None)
    with pytest.raises(ValueError, match="bare packets"):
        va.open_stack("lwip", link=link, dhcp=True)
