"""Ten requests, a large body and a websocket by aiohttp: ``aiohttp_client.py URL``."""

from __future__ import annotations

import asyncio
import sys

import aiohttp

BODY = bytes(range(256)) * 4096


async def main(url: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=100)) as session:
        peers = set()
        for number in range(10):
            async with session.post(url, data=b"%d" % number) as response:
                assert await response.read() == b"%d" % number
                peers.add(response.headers["x-peer"])
        print(f"10 answers over {len(peers)} connection from {peers.pop().rpartition(':')[0]}")
        async with session.post(url, data=BODY) as response:
            assert await response.read() == BODY
        print(f"{len(BODY)} bytes came back")
        async with session.ws_connect(f"{url}/websocket") as ws:
            await ws.send_str("over a user-space stack")
            print(await ws.receive_str())


asyncio.run(main(sys.argv[1]))
