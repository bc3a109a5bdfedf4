"""iothconf's words for how an interface is configured: what each asks for, and waits for."""

from __future__ import annotations

from typing import Any

import pytest

import vpoll_asyncio as va
from advertisements import ROUTER, ROUTER_MAC, advertised, prefix, source_address
from lwip_helpers import lwip_on_wire
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip", "dpkt")

SILENT = {"dhcp_timeout": 0.1}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("dhcp", ["1 DISCOVER"]),
        ("auto4", ["1 DISCOVER"]),
        ("rd", ["routers were solicited"]),
        ("slaac", ["routers were solicited"]),
        ("auto6", ["routers were solicited"]),
        ("rd,slaac", ["routers were solicited"]),
        ("auto4,auto6", ["1 DISCOVER", "routers were solicited"]),
        ("eth,dhcp,rd", ["1 DISCOVER", "routers were solicited"]),
        ("eth,auto", ["1 DISCOVER", "routers were solicited"]),
        ("auto,rd", ["routers were solicited"]),
    ],
)
def test_a_word_says_whom_opening_waits_for(words: str, asked: list[str]) -> None:
    with pytest.raises(TimeoutError) as caught:
        va.open_stack(f"stack=lwip,vnl=wire://nobody,{words}", **SILENT)
    assert [
        text for text in ("1 DISCOVER", "routers were solicited") if text in str(caught.value)
    ] == asked


@pytest.mark.parametrize("words", ["eth", "dhcp=0", "rd=0,auto=off,slaac=no", "dhcpv6=0"])
def test_words_that_ask_nobody_wait_for_nobody(words: str) -> None:
    with va.open_stack(f"stack=lwip,vnl=wire://nobody,{words},ip=10.0.0.1/24") as stack:
        assert stack.addresses == ["10.0.0.1/24"]


@pytest.mark.needs("slirp")
def test_with_auto_dhcp_is_enough() -> None:
    with va.open_stack("stack=lwip,vnl=slirp://,auto") as stack:
        assert "10.0.2.15/24" in stack.addresses


def test_with_auto_a_router_is_enough() -> None:
    with lwip_on_wire(ip=(), auto=True, dhcp_timeout=0) as peer:
        stack = peer.stack
        stack.skip_time(3)
        frame = advertised(source_address(), prefix("fd00:9::"), source=ROUTER, mac=ROUTER_MAC)
        peer.send(frame)
        stack.skip_time(3)
        stack.wait_for_leases()
        stack.autoconf.wait(60)
        assert (stack.addresses, stack.lease) == (["fd00:9::ff:fe00:1/64"], None)


def test_a_further_interface_has_words_of_its_own() -> None:
    config = "stack=lwip,vnl=wire://one,ip=10.0.0.1/24,iface=vde1,vnl=wire://two,auto6"
    with pytest.raises(TimeoutError, match=r"on vde1 \(routers were solicited\)"):
        va.open_stack(config, **SILENT)
    with va.open_stack("lwip", vnl="wire://one", ip="10.0.0.1/24", **SILENT) as stack:
        assert isinstance(stack, LwipStack)
        with pytest.raises(TimeoutError, match=r"vde1 \(1 DISCOVER\), vde1 \(routers"):
            stack.add_interface(vnl="wire://two", auto=True)


@pytest.mark.parametrize("options", [{"dhcpv6": True}, {"dhcpv6": "1", "dhcp": True}], ids=str)
def test_dhcpv6_is_refused_and_told_what_there_is(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"dhcpv6: there is no client.*expected rd"):
        va.open_stack("lwip", vnl="wire://nobody", **options)


@pytest.mark.parametrize("word", ["eth", "slaac", "auto", "auto4", "auto6", "dhcpv6"])
def test_a_word_is_on_or_off(word: str) -> None:
    with pytest.raises(ValueError, match=f"{word}='maybe': expected True or False"):
        va.open_stack("lwip", vnl="wire://nobody", **{word: "maybe"})


def test_an_interface_takes_no_other_words() -> None:
    with va.open_stack("lwip", vnl="wire://one", ip="10.0.0.1/24") as stack:
        assert isinstance(stack, LwipStack)
        with pytest.raises(TypeError, match="'autov4'; expected one of eth, dhcp"):
            stack.add_interface(vnl="wire://two", autov4=True)
        assert len(stack.interfaces) == 1


@pytest.mark.parametrize("word", ["auto", "auto4", "auto6", "slaac"])
def test_a_link_of_bare_packets_has_nobody_to_ask(word: str) -> None:
    link = va.PacketLink(send=lambda packet: None)
    with pytest.raises(ValueError, match="bare packets"):
        va.open_stack("lwip", link=link, **{word: True})
