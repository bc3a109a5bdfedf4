"""Opens one thing of each kind that is named, and ends without closing it.

left_open.py HOW FOLDER KIND…   HOW is "end", "exception", "ctrl-c" or "threads"
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import vpoll_asyncio as va
from vpoll_asyncio.links import FdLink, PacketLink, open_link, wire_pair

how, folder, *kinds = sys.argv[1:]
left: list[Any] = []


def on_a_wire(name: str, **options: Any) -> None:
    near, far = wire_pair()
    left.extend((far, va.open_stack(name, link=near, ip="10.0.0.1/24", **options)))


def memory() -> va.Stack:
    stack = va.open_stack("memory", ip="10.0.0.1/24")
    left.append(stack)
    return stack


def fd_link() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        left.append(FdLink(end))


def vpoll(backend: str | None = None) -> None:
    left.append(va.VPoll(backend=backend))
    left[-1].fileno()


def selector() -> None:
    left.append(va.VPollSelector())
    left[-1].register(va.VPoll(), 1)
    left.extend(left[-1].get_map().values())


def link(locator: str) -> None:
    left.append(open_link(locator.replace("FOLDER", folder)))


class Kept(asyncio.Protocol):
    """Is not collected before the end, when an unclosed socket would be told of as ever."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        left.append(transport)


def transports() -> None:
    stack = memory()

    async def main() -> None:
        server = await va.create_server(Kept, "10.0.0.1", 7, stack=stack)
        stream = await va.create_connection(asyncio.Protocol, "10.0.0.1", 7, stack=stack)
        endpoint = await va.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("10.0.0.1", 7), stack=stack
        )
        left.extend((server, stream, endpoint))

    va.run(main())


OPEN: dict[str, Callable[[], object]] = {
    "memory": memory,
    "lwip": lambda: on_a_wire("lwip"),
    "lwip-thread": lambda: on_a_wire("lwip", thread=True),
    "vdestack": lambda: on_a_wire("vdestack"),
    "vdestack-switch": lambda: left.append(
        va.open_stack("vdestack", vnl=f"vde://{folder}/switch", ip="10.0.0.1/24")
    ),
    "socket": lambda: left.append(memory().socket()),
    "transports": transports,
    "vpoll": lambda: left.append(va.VPoll()),
    "unixpair": lambda: vpoll("unixpair"),
    "tcppair": lambda: vpoll("tcppair"),
    "fuse": lambda: vpoll("fuse"),
    "selector": selector,
    "fd": fd_link,
    "packet": lambda: left.append(PacketLink(print)),
    "wire": lambda: link("wire://w"),
    "netem": lambda: link("netem://delay=10ms{ptp://FOLDER/netem}"),
    "pcap": lambda: link("pcap://FOLDER/frames.pcap{wire://p}"),
    "ptp": lambda: link("ptp://FOLDER/ptp"),
    "hub": lambda: link("hub://FOLDER/hub"),
    "switch": lambda: link("vde://FOLDER/switch"),
    "slirp": lambda: link("slirp://"),
}


def keep_busy(stack: va.Stack) -> None:
    """Use the stack in a daemon thread for as long as there is an interpreter."""

    def work() -> None:
        while True:
            with stack.socket(type=socket.SOCK_DGRAM) as sock:
                sock.bind(("10.0.0.1", 0))
                sock.sendto(b"data", sock.getsockname())
                sock.recv(100)
            worked.set()

    worked = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    worked.wait()


for kind in kinds:
    OPEN[kind]()
if how == "threads":
    for thing in left:
        if isinstance(thing, va.Stack):
            keep_busy(thing)
print("open", flush=True)
if how == "exception":
    raise LookupError("nobody catches it")
if how == "ctrl-c":
    os.kill(os.getpid(), signal.SIGINT)
