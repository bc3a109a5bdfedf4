"""The conformance suite on every stack of this package."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from typing import cast

import pytest

import stack_differences
from lwip_helpers import HOST4, HOST6, lwip_on_wire
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import WireLink, wire_pair
from vpoll_asyncio.stacks import Stack, open_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.testing.stack_suite import Hosts, StackSuite
from vpoll_asyncio.testing.stack_suite.loops import LoopTests
from vpoll_asyncio.testing.stack_suite.masks import MaskTests
from vpoll_asyncio.testing.stack_suite.transfers import TransferTests
from vpoll_asyncio.testing.stack_suite.urgent import UrgentTests

_networks = itertools.count()


class Suite(StackSuite):
    """``VPOLL_TEST_EXAMPLES=5000`` runs so many random programs of each kind.

    With ``VPOLL_TEST_PATIENT=1`` they go where the kernel needs seconds.
    """

    examples = int(os.environ.get("VPOLL_TEST_EXAMPLES") or 30)
    patient = bool(os.environ.get("VPOLL_TEST_PATIENT"))


class TestHost(Suite):
    differences = stack_differences.HOST

    @pytest.fixture(params=["127.0.0.1", "::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Hosts:
        host = host_stack()
        other = {"127.0.0.1": "127.0.0.2"}.get(request.param, request.param)
        return Hosts(host, host, request.param, other)


@contextlib.contextmanager
def memory_hosts(address: str) -> Iterator[Hosts]:
    network = f"mem://suite-{next(_networks)}"
    with (
        open_stack("memory", vnl=network, ip=["10.0.0.1/24", "fd00::1/64"]) as server,
        open_stack("memory", vnl=network, ip=["10.0.0.2/24", "fd00::2/64"]) as client,
    ):
        if address in ("127.0.0.1", "::1"):
            yield Hosts(server, server, address, address)
        else:
            yield Hosts(server, client, address, f"{address[:-1]}2")


class TestMemory(Suite):
    differences = stack_differences.MEMORY

    @pytest.fixture(params=["10.0.0.1", "fd00::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        with memory_hosts(request.param) as hosts:
            yield hosts


class TestMemoryOnLoopback(MaskTests, UrgentTests):
    @pytest.fixture(params=["127.0.0.1", "::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        with memory_hosts(request.param) as hosts:
            yield hosts


@contextlib.contextmanager
def lwip_host(address: str) -> Iterator[Hosts]:
    with lwip_on_wire() as peer:
        yield Hosts(peer.stack, peer.stack, address, address, peer.drive, peer.stack.skip_time)


@pytest.mark.needs("lwip")
class TestLwip(Suite):
    differences = stack_differences.LWIP

    @pytest.fixture(params=[HOST4, HOST6])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        with lwip_host(request.param) as hosts:
            yield hosts


@pytest.mark.needs("lwip")
class TestLwipOnLoopback(MaskTests, UrgentTests):
    differences = {
        name: difference
        for name, difference in stack_differences.LWIP.items()
        if hasattr(MaskTests, name) or hasattr(UrgentTests, name)
    }

    @pytest.fixture(params=["127.0.0.1", "::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        with lwip_host(request.param) as hosts:
            yield hosts


@pytest.fixture(scope="module")
def lwips() -> Iterator[tuple[LwipStack, LwipStack]]:
    near, far = wire_pair()
    with (
        open_stack("lwip", link=near, ip=["10.0.0.1/24", "fd00::1/64"], thread=True) as server,
        open_stack("lwip", link=far, ip=["10.0.0.2/24", "fd00::2/64"], thread=True) as client,
    ):
        assert isinstance(server, LwipStack)
        assert isinstance(client, LwipStack)
        yield server, client


@pytest.mark.needs("lwip")
class TestLwipOnAWire(Suite):
    """Two lwIP hosts on a wire."""

    differences = stack_differences.LWIP

    @pytest.fixture(params=["10.0.0.1", "fd00::1"])
    def hosts(self, request: pytest.FixtureRequest, lwips: tuple[LwipStack, LwipStack]) -> Hosts:
        server, client = lwips

        def drive() -> None:
            busy = True
            while busy:
                server.core.turn(True)
                client.core.turn(True)
                links = (server.link, client.link)
                busy = any(cast(WireLink, link).pollable.peek() & EventMask.IN for link in links)

        def skip_time(seconds: float) -> None:
            for _ in range(math.ceil(seconds / 0.5)):
                server.skip_time(0.5)
                client.skip_time(0.5)
                drive()

        address = request.param
        return Hosts(server, client, address, f"{address[:-1]}2", drive, skip_time)


@pytest.fixture(scope="module")
def vdestacks() -> Iterator[tuple[Stack, Stack]]:
    near, far = wire_pair()
    with (
        open_stack("vdestack", link=near, ip=["10.0.0.1/24", "fd00::1/64"]) as server,
        open_stack("vdestack", link=far, ip=["10.0.0.2/24", "fd00::2/64"]) as client,
    ):
        yield server, client


@pytest.mark.needs("vdestack")
class TestVdestack(Suite):
    """Two Linux hosts on a wire: what arrives arrives later."""

    differences = stack_differences.VDESTACK

    @pytest.fixture(params=["10.0.0.1", "fd00::1"])
    def hosts(self, request: pytest.FixtureRequest, vdestacks: tuple[Stack, Stack]) -> Hosts:
        server, client = vdestacks
        return Hosts(server, client, request.param, f"{request.param[:-1]}2")


@pytest.mark.needs("lwip", "vdestack")
class TestLwipServesLinux(TransferTests, LoopTests):
    """Two different implementations on a wire, lwIP driven by the suite or by the loop."""

    @pytest.fixture(params=["10.0.0.1", "fd00::1"])
    def hosts(self, request: pytest.FixtureRequest) -> Iterator[Hosts]:
        near, far = wire_pair()
        with (
            open_stack("lwip", link=near, ip=["10.0.0.1/24", "fd00::1/64"]) as server,
            open_stack("vdestack", link=far, ip=["10.0.0.2/24", "fd00::2/64"]) as client,
        ):
            yield Hosts(server, client, request.param, f"{request.param[:-1]}2")


def test_the_page_of_differences_is_the_one_in_force() -> None:
    assert stack_differences.PAGE.read_text() == stack_differences.render()
