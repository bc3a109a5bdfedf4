"""A program that uses each public name as users do, and says which type it has for them.

mypy reads it in the tree and, in `.ci/package`, beside the installed wheel; it runs on the
standard library alone.  `Mailbox` is a user socket of the least kind.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import tempfile
from collections import deque
from typing import assert_type

import vpoll_asyncio as va

IN, OUT = va.EventMask.IN, va.EventMask.OUT


class Mailbox(va.UserSocket):
    """A datagram socket that receives what it sends."""

    __slots__ = ("_waiting",)

    def __init__(self, stack: va.Stack) -> None:
        super().__init__(stack, socket.AF_INET, socket.SOCK_DGRAM, events=OUT)
        self._waiting: deque[bytes] = deque()

    def do_send(self, data: bytes | memoryview, flags: int, address: object) -> int:
        self._waiting.append(bytes(data))
        assert_type(self.vpoll, va.VPoll)
        self.vpoll.add_events(IN)
        return len(data)

    def do_recv(self, bufsize: int, flags: int) -> bytes:
        if not self._waiting:
            raise va.would_block()
        data = self._waiting.popleft()
        if not self._waiting:
            self.vpoll.del_events(IN)
        return data[:bufsize]


class Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Once(asyncio.Protocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(data)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.answer.set_result(data)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    writer.close()


def backends() -> None:
    for info in va.backends():
        assert_type(info, va.BackendInfo)
        assert_type(info.available, bool)
        assert_type(info.exact, va.EventMask)
    assert_type([info.name for info in va.backends()], list[str])


def vpolls() -> None:
    with va.VPoll(IN, backend="virtual", need=IN | OUT) as vpoll:
        assert_type(vpoll, va.VPoll)
        assert_type(vpoll.events, va.EventMask)
        assert_type(vpoll.set_events(OUT), int)
        assert_type(vpoll.closed, bool)
        with va.VPollSelector() as selector:
            selector.register(vpoll, 2, data="writable")
            assert [key.data for key, _ in selector.select(0)] == ["writable"]


def links() -> None:
    out: list[bytes] = []
    packet = assert_type(va.PacketLink(send=out.append, mtu=1400), va.PacketLink)
    with tempfile.TemporaryDirectory() as folder:
        recorded = assert_type(va.PcapLink(packet, f"{folder}/net.pcap"), va.PcapLink)
        with va.NetemLink(recorded, delay="1ms", loss=0.5, seed=1) as slow:
            assert_type(slow, va.NetemLink)
            assert_type(slow.mtu, int)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with right, va.FdLink(left.detach(), medium="ip") as link:
        assert_type(link.recv_batch(), list[bytes])
    with va.open_link("wire://typed") as wire:
        assert_type(wire, va.Link)


def loops(stack: va.Stack) -> None:
    loop = va.new_event_loop(loop="asyncio", stack=stack)
    assert_type(loop, asyncio.AbstractEventLoop)
    loop.close()
    factory = functools.partial(va.EventLoop, stack)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(streams(stack)) == b"HELLO\n"


def on_uvloop(stack: va.Stack) -> bytes:
    """What a program with uvloop installed does."""
    with asyncio.Runner(loop_factory=lambda: va.UvloopEventLoop(stack)) as runner:
        return assert_type(runner.run(streams(stack)), bytes)


async def streams(stack: va.Stack) -> bytes:
    server = await va.start_server(shout, "10.0.0.1", 7, stack=stack)
    assert_type(server, asyncio.AbstractServer)
    async with server:
        reader, writer = await va.open_connection("10.0.0.1", 7, stack=stack)
        assert_type(reader, asyncio.StreamReader)
        assert_type(writer, asyncio.StreamWriter)
        writer.write(b"hello\n")
        answer = assert_type(await reader.read(), bytes)
        writer.close()
        return answer


async def protocols(stack: va.Stack) -> None:
    async with await va.create_server(Echo, "10.0.0.1", 9, stack=stack):
        transport, once = await va.create_connection(Once, "10.0.0.1", 9, stack=stack)
        assert_type(transport, asyncio.Transport)
        assert_type(once, Once)
        transport.write(b"ping")
        assert await once.answer == b"ping"
        transport.close()
    endpoint, datagrams = await va.create_datagram_endpoint(
        Datagrams, local_addr=("10.0.0.1", 53), stack=stack
    )
    assert_type(endpoint, asyncio.DatagramTransport)
    endpoint.sendto(b"question", ("10.0.0.1", 53))
    assert await assert_type(datagrams, Datagrams).answer == b"question"
    endpoint.close()


async def forwarding(stack: va.Stack) -> None:
    async with await va.start_server(shout, "10.0.0.1", 7, stack=stack):
        forward = await va.forward("127.0.0.1:0", stack, "10.0.0.1:7")
        assert_type(forward, va.Forward)
        host, port = forward.sockname
        reader, writer = await va.open_connection(host, port, stack=va.open_stack("host"))
        writer.write(b"from the host\n")
        assert await reader.read() == b"FROM THE HOST\n"
        writer.close()
        forward.close()
        await forward.wait_closed()


async def any_event(stack: va.Stack) -> None:
    with Mailbox(stack) as box:
        box.setblocking(False)
        box.send(b"letter")
        assert_type(await va.wait_events(box, IN), va.EventMask)
        assert box.recv(100) == b"letter"


async def unmodified() -> bytes:
    """What a program that knows nothing of stacks does."""
    assert_type(va.current_stack(), va.Stack)
    server = await asyncio.start_server(shout, "10.0.0.1", 7)
    async with server:
        reader, writer = await asyncio.open_connection("10.0.0.1", 7)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        return answer


def main() -> None:
    backends()
    vpolls()
    links()
    with va.open_stack("memory", ip="10.0.0.1/24") as stack:
        assert_type(stack, va.Stack)
        loops(stack)
        for asynchronous in (protocols, forwarding, any_event):
            asyncio.run(asynchronous(stack))
        assert assert_type(va.run(unmodified(), stack=stack), bytes) == b"HELLO\n"
        with va.install(), stack.activate(), socket.socket() as sock:
            assert isinstance(sock, va.UserSocket)
    try:
        assert_type(va.stack_named("lab"), va.Stack)
    except LookupError as error:
        print(error)
    print(va.__version__, os.path.dirname(va.__file__))


if __name__ == "__main__":
    main()
