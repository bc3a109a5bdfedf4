"""Several interfaces in one lwIP stack: they do as the kernel's, and they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from interface_hosts import (
    NEAR4,
    NEAR6,
    NEAR_LOCAL,
    NEAR_MACS,
    OWN4,
    OWN6,
    Host,
    kernel_host,
    lwip_host,
    source_of,
    udp_to,
)
from interface_scenarios import SCENARIOS
from link_helpers import ip, run_in_namespace
from lwip_frames import icmp, udp
from memory_helpers import failure
from vpoll_asyncio.stacks import open_stack, parse_config
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_lwip_does_as_the_kernel(scenario: Callable[[Host], None]) -> None:
    with lwip_host() as host:
        scenario(host)


def every_scenario_on_the_kernel() -> None:
    failed: list[Exception] = []
    for scenario in SCENARIOS:
        try:
            with kernel_host() as host:
                scenario(host)
        except Exception as exc:
            exc.add_note(f"in {scenario.__name__}")
            failed.append(exc)
    if failed:
        raise ExceptionGroup("scenarios that the kernel does not do", failed)


@pytest.mark.needs("tap", "netns", "ip")
def test_the_kernel_does_as_the_scenarios_say() -> None:
    run_in_namespace(every_scenario_on_the_kernel)


def two_networks_of_the_kernel() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(20_000))
        writer.close()

    async def ask(sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        data = os.urandom(20_000)
        writer.write(data)
        assert await reader.readexactly(20_000) == data
        writer.close()

    async def from_kernel(host: str, device: str) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        await asyncio.get_running_loop().sock_connect(sock, (host, 7))
        await ask(sock)

    async def from_lwip(stack: LwipStack, host: str) -> None:
        reader, writer = await va.open_connection(host, 7, stack=stack)
        data = os.urandom(20_000)
        writer.write(data)
        assert await reader.readexactly(20_000) == data
        writer.close()

    async def main(stack: LwipStack) -> None:
        near = await va.start_server(echo, "0.0.0.0", 7, stack=stack)
        far = await asyncio.start_server(echo, ["10.0.0.2", "10.1.0.2"], 7)
        async with asyncio.timeout(60), near, far:
            for side in (0, 1):
                await from_lwip(stack, f"10.{side}.0.2")
                await from_kernel(f"10.{side}.0.1", f"tap{side}")
                # By the other network: the kernel asks there, and is answered.
                await from_kernel(f"10.{side}.0.1", f"tap{1 - side}")
            ip("link", "del", "tap1")
            while stack.interfaces[1].link_error is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await from_lwip(stack, "10.0.0.2")
            await from_kernel("10.0.0.1", "tap0")

    config = "stack=lwip,vnl=tap://tap0,ip=10.0.0.1/24,iface=vde1,vnl=tap://tap1,ip=10.1.0.1/24"
    with open_stack(config) as stack:
        assert isinstance(stack, LwipStack)
        for side in (0, 1):
            ip("addr", "add", f"10.{side}.0.2/24", "dev", f"tap{side}")
            ip("link", "set", f"tap{side}", "up")
        asyncio.run(main(stack))


@pytest.mark.needs("tap", "netns", "ip")
def test_the_kernel_is_at_the_other_end_of_both() -> None:
    run_in_namespace(two_networks_of_the_kernel)


def test_a_scope_may_be_the_name_of_an_interface() -> None:
    with lwip_host() as host:
        for side, name in enumerate(("vde0", "vde1")):
            sender = host.datagrams(socket.AF_INET6)
            sender.connect((f"{NEAR_LOCAL}%{name}", 9))
            assert sender.getpeername() == (NEAR_LOCAL, 9, 0, host.host.index(name))
            sender.send(b"named")
            assert host.sent(side, udp_to(NEAR_LOCAL, b"named"))
        for unknown in (f"{NEAR_LOCAL}%vde7", "neighbour%vde0"):
            with pytest.raises(socket.gaierror):
                sender.connect((unknown, 9))


# Where lwIP does not do as the kernel: docs/reference/lwip.md.


def is_unreachable(one: bytes) -> bool:
    return one[12:14] == b"\x08\x00" and one[23:24] == b"\1" and one[34:35] == b"\3"


def test_a_closed_port_of_the_other_interfaces_address_is_silent() -> None:
    with lwip_host() as host:
        host.send(0, udp((NEAR4[0], 9), (OWN4[1], 900), b"closed"))
        assert host.never(0, is_unreachable)
        host.send(0, udp((NEAR4[0], 9), (OWN4[0], 900), b"closed"))
        assert host.sent(0, is_unreachable)


def test_the_host_itself_reaches_what_is_bound_to_the_device_of_its_address() -> None:
    with lwip_host() as host:
        listener, client = (host.open(socket.SOCK_STREAM) for _ in range(2))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"vde0")
        listener.bind(("0.0.0.0", 80))
        listener.listen()
        assert client.connect_ex((OWN4[0], 80)) == errno.EINPROGRESS
        host.settle()
        assert client.connect_ex((OWN4[0], 80)) == 0


def test_ipv6_addresses_stay_when_their_interface_goes_down() -> None:
    with lwip_host() as host:
        host.host.set_up("vde1", False)
        assert source_of(host.reply_to(0, NEAR6[0], OWN6[1])) == OWN6[1]


def test_an_ipv6_address_is_one_neighbour_whichever_the_network() -> None:
    with lwip_host() as host:
        host.host.add_address("vde1", "fd00::2/64")
        for side in (0, 1):
            sender = host.datagrams(socket.AF_INET6, f"vde{side}")
            sender.sendto(b"which", (NEAR6[0], 9))
            assert host.sent(side, udp_to(NEAR6[0], b"which"))[:6] == NEAR_MACS[0]


# Opening and closing.


@contextlib.contextmanager
def opened(**options: Any) -> Iterator[LwipStack]:
    with open_stack("lwip", **options) as stack:
        assert isinstance(stack, LwipStack)
        yield stack


def descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


def test_a_configuration_string_opens_them_all() -> None:
    config = (
        "stack=lwip,vnl=wire://one,ip=10.0.0.1/24,gw=10.0.0.254,thread=0,"
        "iface=inner,vnl=wire://two,ip=10.1.0.1/24,ip=fd01::1/64,mtu=1400,mac=2:0:0:0:0:1,"
        "iface=vde5,vnl=wire://three,route=10.9.0.0/16"
    )
    with open_stack(config) as stack:
        assert isinstance(stack, LwipStack)
        first, second, third = stack.interfaces
        assert stack.if_nameindex() == [(1, "lo"), (2, "vde0"), (3, "inner"), (4, "vde5")]
        assert (first.addresses, second.addresses) == (
            ("10.0.0.1/24",),
            ("10.1.0.1/24", "fd01::1/64"),
        )
        assert (second.mtu, second.mac, third.addresses) == (1400, b"\2\0\0\0\0\1", ())
        assert stack.addresses == ["10.0.0.1/24", "10.1.0.1/24", "fd01::1/64"]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("stack=lwip,iface=outer,vnl=wire://a", {"iface": "outer", "vnl": "wire://a"}),
        (
            "stack=lwip,vnl=wire://a,iface=b,vnl=wire://b,ip=10.0.0.1/8,ip=10.0.0.2/8,thread",
            {
                "vnl": "wire://a",
                "thread": "1",
                "interfaces": [
                    {"iface": "b", "vnl": "wire://b", "ip": ["10.0.0.1/8", "10.0.0.2/8"]}
                ],
            },
        ),
    ],
)
def test_keys_after_iface_are_that_interfaces(config: str, options: dict[str, Any]) -> None:
    assert parse_config(config) == {"stack": "lwip", **options}


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ({"iface": "vde0", "vnl": "wire://"}, "'vde0': two interfaces have this name"),
        ({"iface": "lo", "vnl": "wire://"}, "iface='lo'"),
        ({"iface": "a/b", "vnl": "wire://"}, "iface='a/b'"),
        ({"iface": "sixteenletters16", "vnl": "wire://"}, "15 characters"),
        ({"iface": "x"}, "either vnl=LOCATOR or link=LINK"),
        ({"vnl": ["wire://a", "wire://b"]}, "begin another with iface=NAME"),
        ({"vnl": "wire://", "ip": "10.0.0.1.1"}, "10.0.0.1.1"),
        ({"vnl": "wire://", "gw": "10.0.0.9"}, "gw='10.0.0.9'"),
        ({"vnl": "wire://b", "mtu": 99}, "mtu=99"),
        ({"vnl": "wire://", "threads": 1}, "threads"),
    ],
)
def test_a_bad_interface_opens_nothing(options: dict[str, Any], about: str) -> None:
    before = descriptors()
    with pytest.raises(ValueError, match=about):
        open_stack("lwip", vnl="wire://a", interfaces=[options])
    assert descriptors() == before
    with opened(vnl="wire://a") as stack:
        assert len(stack.interfaces) == 1


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"vnl": "fd:///99999"}, errno.EBADF),
        ({"vnl": "wire://b", "ip": "10.0.0.1/24"}, errno.EEXIST),
        ({"vnl": "wire://b", "ip": "10.1.0.1/24", "gw": "10.1.0.9"}, errno.EEXIST),
    ],
)
def test_an_interface_that_cannot_be_opened_leaves_nothing(
    options: dict[str, Any], number: int
) -> None:
    before = descriptors()
    with opened(vnl="wire://a", ip="10.0.0.1/24", gw="10.0.0.9") as stack:
        for _ in range(3):
            with pytest.raises((OSError, ValueError)) as caught:
                stack.add_interface(**options)
            assert not isinstance(caught.value, OSError) or caught.value.errno == number
        assert [one.name for one in stack.interfaces] == ["vde0"]
        assert stack.addresses == ["10.0.0.1/24"]
        stack.add_interface(vnl="wire://b", ip="10.1.0.1/24")
    with pytest.raises((OSError, ValueError)):
        open_stack("lwip", vnl="wire://a", ip="10.0.0.1/24", gw="10.0.0.9", interfaces=[options])
    assert descriptors() == before


def test_there_is_room_for_thirty_two() -> None:
    with opened(vnl="wire://a") as stack:
        for number in range(1, 32):
            stack.add_interface(vnl="wire://a", ip=f"10.{number}.0.1/24")
        with pytest.raises(ValueError, match="room for 32"):
            stack.add_interface(vnl="wire://a")
        assert [one.name for one in stack.interfaces] == [f"vde{number}" for number in range(32)]
        stack.del_interface("vde7")
        assert stack.add_interface(vnl="wire://a").name == "vde7"


def test_numbers_are_not_used_again_soon() -> None:
    """As a kernel's: what refers to one that is gone does not mean another."""
    with opened(vnl="wire://a") as stack:
        for index in (3, 4, 5):
            assert stack.add_interface(vnl="wire://b", iface="other").index == index
            assert stack.if_nametoindex("other") == index
            assert stack.if_indextoname(index) == "other"
            stack.del_interface("other")
            assert failure(stack.if_nametoindex, "other") == errno.ENODEV
            assert failure(stack.if_indextoname, index) == errno.ENXIO


def test_names_that_are_taken_or_unknown() -> None:
    with opened(vnl="wire://a", iface="outer") as stack:
        assert failure(lambda: stack.add_interface(vnl="wire://b", iface="outer")) == errno.EEXIST
        for call in (stack.del_interface, stack.set_up, stack.set_down):
            assert failure(call, "inner") == errno.ENODEV
        changes: list[Callable[[], object]] = [
            lambda: stack.add_address("10.0.0.1/8", "inner"),
            lambda: stack.del_address("10.0.0.1", "inner"),
            lambda: stack.add_route("10.0.0.0/8", None, "inner"),
            lambda: stack.set_mtu(1400, "inner"),
        ]
        for change in changes:
            assert failure(change) == errno.ENODEV
    closed: list[Callable[[], object]] = [
        lambda: stack.add_interface(vnl="wire://b"),
        lambda: stack.del_interface("outer"),
        lambda: stack.set_down("outer"),
    ]
    for change in closed:
        assert failure(change) == errno.ENETDOWN
    assert stack.interfaces == []


def test_the_last_one_may_go() -> None:
    """Then there is the loopback alone, until another comes."""
    with opened(vnl="wire://a", ip="10.0.0.1/24") as stack:
        stack.del_interface("vde0")
        with stack.socket() as client:
            assert failure(client.connect, ("10.0.0.2", 9)) == errno.ENETUNREACH
        assert failure(lambda: stack.mtu) == failure(lambda: stack.link) == errno.ENODEV
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"inside", sock.getsockname())
            assert sock.recv(100) == b"inside"
        stack.add_interface(vnl="wire://a", ip="10.0.0.1/24")
        assert stack.addresses == ["10.0.0.1/24"]


def test_each_counts_its_own_and_the_stack_all() -> None:
    with lwip_host() as host:
        stack: LwipStack = host.host.stack  # type: ignore[attr-defined]
        host.reply_to(0, "10.0.0.9", "10.0.0.1")
        first, second = stack.interfaces
        assert first.counters["rx_frames"] > 0
        assert second.counters["rx_frames"] == 0
        host.send(1, icmp(8, 0, bytes(4), "10.1.0.9", "10.7.7.7"))
        assert stack.interfaces[1].counters["rx_foreign"] == 1
        before = stack.counters
        host.remove(0)
        assert stack.counters == before


def test_its_own_mtu() -> None:
    with opened(vnl="wire://a", interfaces=[{"vnl": "wire://b"}]) as stack:
        stack.set_mtu(1280, "vde1")
        assert [one.mtu for one in stack.interfaces] == [1500, 1280]
        with pytest.raises(ValueError, match="1500"):
            stack.set_mtu(1501, "vde1")
