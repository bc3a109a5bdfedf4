"""An application for ``python -m aiohttp.web aiohttp_app:make``: tells who asked, and echoes."""

from __future__ import annotations

from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    assert request.transport is not None
    host, port = request.transport.get_extra_info("peername")[:2]
    return web.Response(body=await request.read(), headers={"x-peer": f"{host}:{port}"})


async def websocket(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data.upper())
    return ws


def make(argv: list[str]) -> web.Application:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/", echo)
    app.router.add_get("/websocket", websocket)
    return app
