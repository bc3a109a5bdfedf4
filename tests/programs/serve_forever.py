"""A server that runs until Ctrl-C with a client connected: ``serve_forever.py LOOP CONFIG``."""

from __future__ import annotations

import asyncio
import sys

import vpoll_asyncio as va

HOST = "10.1.1.1"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except asyncio.CancelledError:
        pass  # Python 3.11 logs a handler that ends cancelled
    finally:
        writer.close()


async def talk() -> None:
    reader, writer = await asyncio.open_connection(HOST, 80)
    try:
        writer.write(b"hello")
        await reader.readexactly(5)
        print("connected", flush=True)
        await reader.read()
    finally:
        writer.close()


async def main() -> None:
    asyncio.get_running_loop().slow_callback_duration = 60
    server = await asyncio.start_server(echo, HOST, 80)
    client = asyncio.create_task(talk())
    async with server:
        await server.serve_forever()
    await client


if __name__ == "__main__":
    loop, config = sys.argv[1:]
    with va.open_stack(config) as stack:
        try:
            va.run(main(), loop=loop, stack=stack)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
