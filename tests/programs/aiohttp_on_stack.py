"""An aiohttp server and client without a line of ours: ``aiohttp_on_stack.py LOOP CONFIG HOST``."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys

import aiohttp
from aiohttp import web

import vpoll_asyncio as va

BODY = bytes(range(256)) * 8192


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {request.remote}")


async def digest(request: web.Request) -> web.Response:
    sha256 = hashlib.sha256()
    async for piece in request.content.iter_any():
        sha256.update(piece)
    return web.Response(text=sha256.hexdigest())


async def download(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for start in range(0, len(BODY), 65536):
        await response.write(BODY[start : start + 65536])
    await response.write_eof()
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data.upper())
    return ws


async def main(host: str) -> None:
    # Debug mode's remarks on slow callbacks depend on what else the machine does.
    asyncio.get_running_loop().slow_callback_duration = 60
    app = web.Application(client_max_size=0)
    app.router.add_get("/", hello)
    app.router.add_post("/digest", digest)
    app.router.add_get("/download", download)
    app.router.add_get("/websocket", websocket)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, 80).start()
    base = f"http://{host}"
    timeout = aiohttp.ClientTimeout(total=100)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for _ in range(10):
            async with session.get(f"{base}/") as response:
                assert response.status == 200
                text = await response.text()
        print(text)
        async with session.post(f"{base}/digest", data=io.BytesIO(BODY)) as response:
            assert await response.text() == hashlib.sha256(BODY).hexdigest()
        print("posted")
        async with session.get(f"{base}/download") as response:
            assert await response.read() == BODY
        print("downloaded")
        async with session.ws_connect(f"{base}/websocket") as ws:
            await ws.send_str("over a user-space stack")
            print(await ws.receive_str())

        async def fetch() -> int:
            async with session.get(f"{base}/") as response:
                await response.read()
                return response.status

        answers = await asyncio.gather(*(fetch() for _ in range(100)))
        print(f"at once {answers.count(200)}")
    await runner.cleanup()


if __name__ == "__main__":
    loop, config, host = sys.argv[1:]
    with va.open_stack(config) as stack:
        va.run(main(host), loop=loop, stack=stack)
    print("done")
