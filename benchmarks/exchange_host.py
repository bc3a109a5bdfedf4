"""One of the two processes of ``two_hosts.py``: sends and receives at once, prints the rate.

``exchange_host.py LOOP TRANSPORT ROLE FD BYTES``, with LOOP asyncio or uvloop, TRANSPORT
kernel, packetlink or fdlink, ROLE server or client.  FD is one end of a socketpair that
carries the packets; for the kernel's TCP it carries the port number.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import vpoll_asyncio as va

PIECE = bytes(65536)
ADDRESSES = {"server": "10.2.0.2", "client": "10.2.0.1"}


def packet_link(tunnel: socket.socket) -> va.PacketLink:
    """Return a link that hands its packets to `tunnel` one by one, in Python."""
    tunnel.setblocking(False)
    return va.PacketLink(tunnel.send)


def feed(tunnel: socket.socket, link: va.PacketLink) -> None:
    loop = asyncio.get_running_loop()

    def readable() -> None:
        packets = []
        try:
            for _ in range(64):
                packets.append(tunnel.recv(65536))
        except BlockingIOError:
            pass
        link.receive_batch([packet for packet in packets if packet])
        if b"" in packets:
            loop.remove_reader(tunnel.fileno())

    loop.add_reader(tunnel.fileno(), readable)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> float:
    """Send and receive `size` bytes at once; return the seconds from the first to the last."""
    start = time.perf_counter()

    async def send() -> None:
        for _ in range(size // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        writer.write_eof()

    async def receive() -> int:
        count = 0
        while data := await reader.read(len(PIECE)):
            count += len(data)
        return count

    _, count = await asyncio.gather(send(), receive())
    assert count == size // len(PIECE) * len(PIECE), count
    return time.perf_counter() - start


async def connection(
    role: str, host: str, port: int, listening: socket.socket | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if role == "client":
        if listening is not None:
            port = int(await asyncio.to_thread(listening.recv, 16))
        return await asyncio.open_connection(host, port)
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *pair: accepted.put_nowait(pair), host, port)
    if listening is not None:
        listening.send(b"%d" % server.sockets[0].getsockname()[1])
    pair = await accepted.get()
    server.close()
    return pair


async def main(
    role: str, tunnel: socket.socket, link: va.PacketLink | None, user: bool, size: int
) -> None:
    if link is not None:
        feed(tunnel, link)
    host = ADDRESSES["server"] if user else "127.0.0.1"
    reader, writer = await connection(role, host, 7 if user else 0, None if user else tunnel)
    seconds = await exchange(reader, writer, size)
    print(size / seconds / 1e6, flush=True)
    # The peer may still want our acknowledgements.
    await asyncio.to_thread(sys.stdin.readline)
    writer.close()
    if link is not None:
        asyncio.get_running_loop().remove_reader(tunnel.fileno())


def run(loop: str, transport: str, role: str, tunnel: socket.socket, size: int) -> None:
    if transport == "kernel":
        factory = asyncio.SelectorEventLoop
        if loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(role, tunnel, None, False, size))
        return
    link: va.Link
    if transport == "packetlink":
        link = packet_link(tunnel)
    else:
        link = va.FdLink(tunnel, medium="ip", closefd=False)
    fed = link if isinstance(link, va.PacketLink) else None
    with link, va.open_stack("lwip", link=link, ip=f"{ADDRESSES[role]}/24") as stack:
        va.run(main(role, tunnel, fed, True, size), loop=loop, stack=stack)


if __name__ == "__main__":
    loop, transport, role, fd, size = sys.argv[1:]
    with socket.socket(fileno=int(fd)) as tunnel:
        run(loop, transport, role, tunnel, int(size))
