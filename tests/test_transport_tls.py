"""TLS over our transports, by asyncio's own protocol, on every loop."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any

import pytest

from transport_helpers import Hosts, Recorder, connect, on_every_loop, until
from vpoll_asyncio import streams, transports

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@on_every_loop
async def test_data_is_encrypted_both_ways(hosts: Hosts) -> None:
    server = await streams.start_server(
        echo, "10.0.0.1", 443, stack=hosts.server, ssl=server_context()
    )
    reader, writer = await streams.open_connection(
        "10.0.0.1", 443, stack=hosts.client, ssl=client_context()
    )
    assert writer.get_extra_info("peercert")
    assert writer.get_extra_info("peername") == ("10.0.0.1", 443)
    data = random.Random(9).randbytes(2 << 20)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_a_wrong_name_fails_the_handshake(hosts: Hosts) -> None:
    server = await streams.start_server(
        echo, "10.0.0.1", 443, stack=hosts.server, ssl=server_context()
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        await streams.open_connection(
            "10.0.0.1", 443, stack=hosts.client, ssl=client_context(), server_hostname="other"
        )
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_a_client_that_speaks_no_tls_is_dropped(hosts: Hosts) -> None:
    server = await streams.start_server(
        echo, "10.0.0.1", 443, stack=hosts.server, ssl=server_context()
    )
    _, client = await transports.create_connection(
        asyncio.get_running_loop(), Recorder, "10.0.0.1", 443, stack=hosts.client
    )
    client.transport.write(b"GET / HTTP/1.0\r\n\r\n")
    await client.lost
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_a_connection_is_upgraded(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    pair = await connect(hosts)
    server, client = pair.accepted, pair.connected
    upgraded: Any = await asyncio.gather(
        transports.start_tls(loop, server.transport, server, server_context(), server_side=True),
        transports.start_tls(
            loop, client.transport, client, client_context(), server_hostname="localhost"
        ),
    )
    server.transport, client.transport = upgraded
    client.transport.write(b"secret")
    await until(lambda: server.data == b"secret")
    assert client.transport.get_extra_info("cipher")
    for end in (server, client):
        end.transport.close()
    await asyncio.gather(server.lost, client.lost)
    await pair.finish()


@on_every_loop
async def test_upgrading_refuses_what_cannot_be_upgraded(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    pair = await connect(hosts)
    with pytest.raises(TypeError, match="SSLContext"):
        await transports.start_tls(loop, pair.connected.transport, pair.connected, True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not supported"):
        await transports.start_tls(loop, asyncio.WriteTransport(), pair.connected, client_context())
    await pair.finish()


@on_every_loop
async def test_a_handshake_that_takes_too_long_is_given_up(hosts: Hosts) -> None:
    server = await transports.create_server(
        asyncio.get_running_loop(), Recorder, "10.0.0.1", 443, stack=hosts.server
    )
    with pytest.raises(ConnectionAbortedError, match="handshake"):
        await streams.open_connection(
            "10.0.0.1",
            443,
            stack=hosts.client,
            ssl=client_context(),
            ssl_handshake_timeout=0.05,
        )
    server.close()
    await server.wait_closed()
