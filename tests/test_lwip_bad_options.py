"""Options of a wrong type or form are ValueErrors that name the option, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lwip_helpers import Peer, lwip_on_wire
from vpoll_asyncio.links import wire_pair
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")


@pytest.mark.parametrize(
    "options",
    [
        {"ip": 5},
        {"ip": [None]},
        {"ip": b"10.0.0.1/24"},
        {"gw": 7},
        {"route": 3.5},
        {"mac": 5},
        {"mac": [1, 2, 3, 4, 5, 6]},
        {"iface": "\0"},
        {"iface": 5},
        {"iface": b"vde0"},
        {"interfaces": [None]},
        {"interfaces": [5]},
        {"dns": 5},
        {"dns": [None]},
        {"domain": "\0"},
        {"domain": "10.0.0.9/24"},
        {"domain": [None]},
        {"domain": b"lab"},
        {"dns_options": 5},
    ],
    ids=str,
)
def test_an_option_that_means_nothing_opens_nothing(
    options: dict[str, Any], no_fd_leak: None
) -> None:
    near, far = wire_pair()
    with near, far, pytest.raises(ValueError, match=f"{next(iter(options))}"):
        open_stack("lwip", link=near, **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda stack: stack.add_address(5),
        lambda stack: stack.add_address(None),
        lambda stack: stack.del_address(5),
        lambda stack: stack.add_route(5),
        lambda stack: stack.add_route("10.0.0.0/8", 5),
        lambda stack: stack.del_interface(None),
        lambda stack: stack.set_down(None),
        lambda stack: stack.set_up(5),
        lambda stack: stack.set_dns(5),
    ],
)
def test_a_change_that_means_nothing_changes_nothing(call: Callable[[Any], object]) -> None:
    with lwip_on_wire() as peer:
        before = state(peer)
        with pytest.raises(ValueError, match=r"expected"):
            call(peer.stack)
        assert state(peer) == before


def state(peer: Peer) -> object:
    assert isinstance(peer.stack, LwipStack)
    return [(one.name, one.up, one.addresses) for one in peer.stack.interfaces]
