"""Ten requests each by httpx's two clients: ``httpx_client.py URL``.

The server tells the client's address of each connection in ``x-peer``.
"""

from __future__ import annotations

import asyncio
import sys

import httpx

BODY = bytes(range(256)) * 4096


async def ask(url: str) -> set[str]:
    peers = set()
    async with httpx.AsyncClient(timeout=100) as client:
        for number in range(10):
            response = await client.post(url, content=b"%d" % number)
            assert response.content == b"%d" % number
            peers.add(response.headers["x-peer"])
        response = await client.post(url, content=BODY)
        assert response.content == BODY
    return peers


def ask_blocking(url: str) -> set[str]:
    peers = set()
    with httpx.Client(timeout=100) as client:
        for number in range(10):
            response = client.post(url, content=b"%d" % number)
            assert response.content == b"%d" % number
            peers.add(response.headers["x-peer"])
        response = client.post(url, content=BODY)
        assert response.content == BODY
    return peers


def tell(name: str, peers: set[str]) -> None:
    hosts = {peer.rpartition(":")[0] for peer in peers}
    print(f"{name}: 10 answers over {len(peers)} connection from {hosts.pop()}")


tell("AsyncClient", asyncio.run(ask(sys.argv[1])))
tell("Client", ask_blocking(sys.argv[1]))
