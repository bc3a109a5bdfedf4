"""Linux and lwIP ping each other over a TAP: with iputils' ping, with icmplib, with sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import vpoll_asyncio as va
from link_helpers import ip, run_in_namespace
from memory_helpers import failure
from processes import PROGRAMS, ROOT

pytestmark = pytest.mark.needs("lwip", "tap", "netns", "ip")

LINUX = {socket.AF_INET: "10.77.0.1", socket.AF_INET6: "fd77::1"}
LWIP = {socket.AF_INET: "10.77.0.2", socket.AF_INET6: "fd77::2"}
ADDRESSES = [f"{LWIP[socket.AF_INET]}/24", f"{LWIP[socket.AF_INET6]}/64"]
SIZES = (0, 56, 1472, 8000, 14_000)
"""Of payloads; the last two need fragments, of which lwIP puts ten together."""


def _tap() -> None:
    ip("tuntap", "add", "tap0", "mode", "tap")
    ip("addr", "add", f"{LINUX[socket.AF_INET]}/24", "dev", "tap0")
    ip("addr", "add", f"{LINUX[socket.AF_INET6]}/64", "dev", "tap0", "nodad")
    ip("link", "set", "tap0", "up")
    ip("link", "set", "lo", "up")


def _stack(**options: object) -> va.Stack:
    return va.open_stack("lwip", vnl="tap://tap0", ip=ADDRESSES, **options)


def linux_pings() -> None:
    _tap()
    with _stack(thread=True):
        for address in LWIP.values():
            for size in SIZES:
                command = ["ping", "-n", "-c", "2", "-i", "0.01", "-W", "20", "-s", str(size)]
                done = subprocess.run([*command, address], capture_output=True, text=True)
                assert " 2 received, 0% packet loss" in done.stdout, done.stdout + done.stderr


@pytest.mark.needs("ping")
def test_lwip_answers_ping() -> None:
    run_in_namespace(linux_pings)


def _request(family: int, payload: bytes) -> bytes:
    kind = 8 if family == socket.AF_INET else 128
    return struct.pack("!BBHHH", kind, 0, 0, 0, 1) + payload


def lwip_pings() -> None:
    _tap()
    with _stack() as stack:
        for family, address in LINUX.items():
            proto = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
            with stack.socket(family, socket.SOCK_DGRAM, proto) as sock:
                sock.settimeout(20)
                for size in SIZES:
                    payload = os.urandom(size)
                    assert sock.sendto(_request(family, payload), (address, 0)) == size + 8
                    reply, sender = sock.recvfrom(65535)
                    assert reply[8:] == payload
                    assert sender[0] == address
                    assert struct.unpack("!H", reply[4:6])[0] == sock.getsockname()[1]


def test_linux_answers_lwip() -> None:
    run_in_namespace(lwip_pings)


def loops_ping() -> None:
    _tap()

    async def main(loop: asyncio.AbstractEventLoop, stack: va.Stack) -> None:
        message = _request(socket.AF_INET, b"hello")
        address = LINUX[socket.AF_INET]
        received = loop.create_future()

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                received.set_result((data[8:], addr))

        def ping() -> socket.socket:
            sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
            sock.setblocking(False)
            return sock

        with ping() as sock:
            await loop.sock_sendto(sock, message, (address, 0))
            data, sender = await loop.sock_recvfrom(sock, 100)
            assert (data[8:], sender) == (b"hello", (address, 0))
        transport, _ = await loop.create_datagram_endpoint(Protocol, sock=ping())
        transport.sendto(message, (address, 0))
        assert await received == (b"hello", (address, 0))
        transport.close()

    with _stack() as stack:
        for name in ("asyncio", "uvloop"):
            with asyncio.Runner(loop_factory=partial(va.new_event_loop, loop=name)) as runner:
                runner.run(main(runner.get_loop(), stack))


@pytest.mark.needs("uvloop")
def test_loops_ping_by_their_socket_calls_and_by_an_endpoint() -> None:
    run_in_namespace(loops_ping)


def routers_refuse() -> None:
    _tap()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    ip("route", "add", "prohibit", "10.99.0.0/16")
    with _stack(gw=LINUX[socket.AF_INET]) as stack:
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(20)
            sock.connect(("10.99.0.1", 0))
            sock.send(_request(socket.AF_INET, b"hello"))
            assert failure(sock.recv, 100) == errno.EHOSTUNREACH
            sock.connect((LINUX[socket.AF_INET], 0))
            sock.send(_request(socket.AF_INET, b"hello"))
            assert sock.recv(100)[8:] == b"hello"


def test_a_router_s_refusal_is_the_connected_socket_s_error() -> None:
    run_in_namespace(routers_refuse)


def icmplib_pings() -> None:
    _tap()
    for family, address in LINUX.items():
        config = f"stack=lwip,vnl=tap://tap0,ip={LWIP[family]}/{64 if ':' in address else 24}"
        done = subprocess.run(
            [sys.executable, "-m", "vpoll_asyncio", "run", "--stack", config]
            + [str(PROGRAMS / "pings.py"), address],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        ways = [f"{how} {kind}" for kind in ("ping", "raw") for how in ("async", "plain")]
        assert done.stdout.splitlines() == [f"{way} {address} 2" for way in ways], done.stderr


@pytest.mark.needs("icmplib")
def test_icmplib_pings_as_it_is() -> None:
    run_in_namespace(icmplib_pings)
