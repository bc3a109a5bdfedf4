"""A server by websockets that answers in capitals: ``websockets_server.py HOST PORT``."""

from __future__ import annotations

import asyncio
import signal
import sys

from websockets.asyncio.server import ServerConnection, serve


async def answer(connection: ServerConnection) -> None:
    async for message in connection:
        assert isinstance(message, str)
        await connection.send(message.upper())


async def main(host: str, port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    async with serve(answer, host, port):
        print(f"Serving on {host}:{port}", flush=True)
        await stopped.wait()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
