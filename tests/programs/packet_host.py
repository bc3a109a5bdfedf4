"""One of two lwIP hosts joined by packet links over a socketpair.

``packet_host.py LOOP FD ADDRESS PEER BYTES``: listens on port 7 and sends BYTES to the
peer's port 7, both at once, and prints the SHA-256 of what it sent and of what it got.
The host whose address is the smaller one connects, the other accepts.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import sys
import time

import vpoll_asyncio as va

PIECE = 65536


def make_link(tunnel: socket.socket) -> va.PacketLink:
    """Return a link whose packets go through `tunnel`, once a loop runs."""
    tunnel.setblocking(False)
    return va.PacketLink(tunnel.send, mtu=1500)


def feed(loop: asyncio.AbstractEventLoop, tunnel: socket.socket, link: va.PacketLink) -> None:
    def readable() -> None:
        packets = []
        for _ in range(64):
            try:
                packet = tunnel.recv(65536)
            except BlockingIOError:
                break
            if not packet:
                loop.remove_reader(tunnel.fileno())
                break
            packets.append(packet)
        link.receive_batch(packets)

    loop.add_reader(tunnel.fileno(), readable)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int, seed: bytes
) -> None:
    async def send() -> str:
        sha256 = hashlib.sha256()
        block = hashlib.shake_128(seed).digest(PIECE + 4096)
        for start in range(0, size, PIECE):
            # Each piece differs from its neighbours, so that none can take another's place.
            offset = (start // PIECE) % 4096
            piece = block[offset : offset + min(PIECE, size - start)]
            sha256.update(piece)
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        return sha256.hexdigest()

    async def receive() -> tuple[int, str]:
        sha256 = hashlib.sha256()
        count = 0
        while data := await reader.read(PIECE):
            sha256.update(data)
            count += len(data)
        return count, sha256.hexdigest()

    start = time.monotonic()
    sent, (count, received) = await asyncio.gather(send(), receive())
    seconds = time.monotonic() - start
    print(f"sent {sent}")
    print(f"received {count} {received}")
    print(f"rate {count / seconds / 1e6:.1f} MB/s each way", flush=True)
    writer.close()
    await writer.wait_closed()


async def main(tunnel: socket.socket, link: va.PacketLink, own: str, peer: str, size: int) -> None:
    asyncio.get_running_loop().slow_callback_duration = 60
    feed(asyncio.get_running_loop(), tunnel, link)
    if own < peer:
        reader, writer = await asyncio.open_connection(peer, 7)
    else:
        accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        accepted = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result((reader, writer))

        server = await asyncio.start_server(take, None, 7)
        print("listening", flush=True)
        reader, writer = await accepted
        server.close()
    await exchange(reader, writer, size, own.encode())
    # The other host may still need our acknowledgements: it says when it is done.
    print("exchanged", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    asyncio.get_running_loop().remove_reader(tunnel.fileno())


if __name__ == "__main__":
    loop, fd, own, peer, size = sys.argv[1:]
    with socket.socket(fileno=int(fd)) as tunnel, make_link(tunnel) as link:
        prefix = "64" if ":" in own else "24"
        with va.open_stack("lwip", link=link, ip=f"{own}/{prefix}") as stack:
            va.run(main(tunnel, link, own, peer, int(size)), loop=loop, stack=stack)
    print("done", flush=True)
