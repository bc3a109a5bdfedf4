"""A name server with a link-local address, as routers advertise them (RFC 8106)."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from dns_helpers import NameServer
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = [pytest.mark.needs("lwip"), pytest.mark.needs("dnspython")]


def link_local(mac: bytes) -> str:
    """Return the address that RFC 4291, appendix A, makes of a hardware address."""
    identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


@pytest.mark.parametrize("scope", ["", "%2", "%vde0"])
@pytest.mark.parametrize("form", ["{}", "[{}]:53"])
def test_a_link_local_server_is_asked_whichever_way_its_scope_is_told(
    scope: str, form: str
) -> None:
    with LwipStack(vnl="wire://scoped", ip6="fd00::53/64", thread=True) as host:
        # The detection of duplicates is over.
        host.skip_time(5)
        dns = form.format(link_local(host.mac) + scope)
        with (
            NameServer(host, "::"),
            LwipStack(vnl="wire://scoped", ip6="fd00::1/64", dns=dns) as stack,
        ):
            stack.skip_time(5)
            infos = stack.getaddrinfo("six.lab.example", 80, type=socket.SOCK_STREAM)
            assert [info[4][0] for info in infos] == ["fd00::6"]
