"""TLS over our transports, by asyncio's own protocol, on every loop."""

from __future__ import annotations

import asyncio
import random
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest

from transport_helpers import Hosts, Recorder, connect, on_every_loop, until
from vpoll_asyncio import streams, transports
from vpoll_asyncio.transports import alive

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


@on_every_loop
async def test_a_server_gives_a_slow_handshake_up(hosts: Hosts) -> None:
    server = await transports.create_server(
        asyncio.get_running_loop(),
        Recorder,
        "10.0.0.1",
        443,
        stack=hosts.server,
        ssl=server_context(),
        ssl_handshake_timeout=0.05,
    )
    _, client = await transports.create_connection(
        asyncio.get_running_loop(), Recorder, "10.0.0.1", 443, stack=hosts.client
    )
    await client.lost
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_upgrading_a_silent_peer_is_given_up(hosts: Hosts) -> None:
    pair = await connect(hosts)
    with pytest.raises(ConnectionAbortedError, match="handshake"):
        await transports.start_tls(
            asyncio.get_running_loop(),
            pair.connected.transport,
            pair.connected,
            client_context(),
            server_hostname="localhost",
            ssl_handshake_timeout=0.05,
        )
    assert pair.connected.transport.is_closing()
    pair.accepted.transport.abort()
    await pair.accepted.lost
    pair.server.close()
    await pair.server.wait_closed()


class Secured:
    """A TLS connection: the protocols of both ends."""

    def __init__(self, accepted: Any, connected: Any) -> None:
        self.accepted = accepted
        self.connected = connected

    async def finish(self) -> None:
        for end in (self.accepted, self.connected):
            end.transport.abort()
        await asyncio.gather(self.accepted.lost, self.connected.lost)


async def secured(hosts: Hosts, client: Any = Recorder, **options: Any) -> Secured:
    """Return a TLS connection whose listener is gone."""
    loop = asyncio.get_running_loop()
    accepted: list[Recorder] = []

    def factory() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    server = await transports.create_server(
        loop, factory, "10.0.0.1", 443, stack=hosts.server, ssl=server_context()
    )
    _, connected = await transports.create_connection(
        loop, client, "10.0.0.1", 443, stack=hosts.client, ssl=client_context(), **options
    )
    await until(lambda: accepted and accepted[0].transport)
    server.close()
    return Secured(accepted[0], connected)


@on_every_loop
async def test_extra_info_tells_of_tls_and_of_the_socket(hosts: Hosts) -> None:
    pair = await secured(hosts)
    tell = pair.connected.transport.get_extra_info
    assert tell("ssl_object").version().startswith("TLS")
    assert isinstance(tell("sslcontext"), ssl.SSLContext)
    assert tell("peercert")["subject"]
    assert len(tell("cipher")) == 3
    assert tell("compression") is None
    assert tell("peername") == ("10.0.0.1", 443)
    assert tell("sockname")[0] == "10.0.0.2"
    assert isinstance(tell("socket"), transports.SocketView)
    assert tell("something else", 7) == 7
    assert pair.accepted.transport.get_extra_info("peercert") is None
    await pair.finish()


@on_every_loop
async def test_tls_has_no_half_close(hosts: Hosts) -> None:
    pair = await secured(hosts)
    assert not pair.connected.transport.can_write_eof()
    with pytest.raises(NotImplementedError):
        pair.connected.transport.write_eof()
    await pair.finish()


@on_every_loop
async def test_closing_tells_the_peer_and_ends_both(hosts: Hosts) -> None:
    pair = await secured(hosts)
    data = bytes(300_000)
    pair.connected.transport.write(data)
    pair.connected.transport.close()
    assert await pair.connected.lost is None
    assert await pair.accepted.lost is None
    assert pair.accepted.data == data
    assert pair.accepted.events == ["made", "data", "eof", "lost"]


@on_every_loop
async def test_a_peer_that_does_not_answer_the_close_is_given_up(hosts: Hosts) -> None:
    pair = await secured(hosts, ssl_shutdown_timeout=0.05)
    # Deaf: it takes no close_notify, and neither answers nor hangs up.
    pair.accepted.transport.pause_reading()
    raw = [
        thing
        for thing in alive.held(asyncio.get_running_loop())
        if isinstance(thing, transports.StreamTransport)
        and thing.get_extra_info("sockname") == ("10.0.0.1", 443)
    ]
    raw[0].pause_reading()
    pair.connected.transport.close()
    assert isinstance(await pair.connected.lost, TimeoutError)
    pair.accepted.transport.abort()
    await pair.accepted.lost


class Buffered(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.transport: Any = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        # A view, as asyncio's protocol slices what it gets and reads into the slice.
        self._buffer = memoryview(bytearray(1000))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


@on_every_loop
async def test_a_buffered_protocol_is_behind_tls(hosts: Hosts) -> None:
    pair = await secured(hosts, Buffered)
    data = random.Random(3).randbytes(100_000)
    pair.accepted.transport.write(data)
    await until(lambda: pair.connected.data == data)
    await pair.finish()


@on_every_loop
async def test_flow_control_reaches_through_tls(hosts: Hosts) -> None:
    pair = await secured(hosts)
    pair.accepted.transport.pause_reading()
    written = 0
    while not pair.connected.paused:
        pair.connected.transport.write(bytes(65536))
        written += 65536
        await asyncio.sleep(0)
    pair.accepted.transport.resume_reading()
    await until(lambda: len(pair.accepted.data) == written)
    assert not pair.connected.paused
    await pair.finish()


@on_every_loop
async def test_a_file_is_sent_through_tls(hosts: Hosts) -> None:
    pair = await secured(hosts)
    data = random.Random(4).randbytes(400_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        sent = await transports.sendfile(
            asyncio.get_running_loop(), pair.connected.transport, file, 1000, 300_000
        )
    assert sent == 300_000
    await until(lambda: pair.accepted.data == data[1000:301_000])
    await pair.finish()


@on_every_loop
async def test_sockets_made_elsewhere_are_secured(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    with hosts.server.socket() as listener:
        listener.bind(("10.0.0.1", 443))
        listener.listen()
        client = hosts.client.socket()
        client.connect(("10.0.0.1", 443))
        server, _ = listener.accept()
    with pytest.raises(ValueError, match="server_hostname"):
        await transports.create_connection(loop, Recorder, sock=client, ssl=client_context())
    (_, accepted), (_, connected) = await asyncio.gather(
        transports.connect_accepted_socket(loop, Recorder, server, ssl=server_context()),
        transports.create_connection(
            loop, Recorder, sock=client, ssl=client_context(), server_hostname="localhost"
        ),
    )
    connected.transport.write(b"hello")
    await until(lambda: accepted.data == b"hello")
    await Secured(accepted, connected).finish()


@on_every_loop
async def test_a_stream_writer_starts_tls_on_either_side(hosts: Hosts) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go on\n")
        await writer.start_tls(server_context())
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await streams.start_server(serve, "10.0.0.1", 25, stack=hosts.server)
    reader, writer = await streams.open_connection("10.0.0.1", 25, stack=hosts.client)
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go on\n"
    await writer.start_tls(client_context(), server_hostname="localhost")
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    assert writer.get_extra_info("cipher")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_tls_is_laid_over_tls(hosts: Hosts) -> None:
    loop = asyncio.get_running_loop()
    pair = await secured(hosts)
    server, client = pair.accepted, pair.connected
    server.transport, client.transport = await asyncio.gather(
        transports.start_tls(loop, server.transport, server, server_context(), server_side=True),
        transports.start_tls(
            loop, client.transport, client, client_context(), server_hostname="localhost"
        ),
    )
    client.transport.write(b"secret")
    await until(lambda: server.data == b"secret")
    await pair.finish()
