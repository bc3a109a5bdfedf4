"""Server: listening, accepting in bounded turns, stopping."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any, cast
from unittest import mock

import pytest

from transport_helpers import Hosts, Recorder, Reports, connect, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks.base import activated
from vpoll_asyncio.stacks.memory.stream import StreamSocket
from vpoll_asyncio.transports import sockops


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def serve(hosts: Hosts, factory: Any = Recorder, **options: Any) -> transports.Server:
    options = {"host": "10.0.0.1", "port": 80, "stack": hosts.server, **options}
    return await transports.create_server(loop(), factory, **options)


async def dial(hosts: Hosts, host: str = "10.0.0.1", port: int = 80) -> Recorder:
    _, protocol = await transports.create_connection(
        loop(), Recorder, host, port, stack=hosts.client
    )
    return protocol


@on_every_loop
async def test_more_connections_than_the_backlog_are_all_served(hosts: Hosts) -> None:
    made = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await serve(hosts, factory, backlog=3)
    clients = await asyncio.gather(*(dial(hosts) for _ in range(200)))
    await until(lambda: len(made) == 200)
    for client in clients:
        client.transport.abort()
    await asyncio.gather(*(end.lost for end in [*clients, *made]))
    server.close()
    await server.wait_closed()


@on_every_loop
async def test_one_turn_accepts_a_bounded_number(hosts: Hosts) -> None:
    counts = []
    server = await serve(hosts, backlog=1000)
    with mock.patch.object(server, "_serve", autospec=True) as served:
        served.side_effect = lambda sock, *_: sock.close()
        sockets = [cast(UserSocket, hosts.client.socket()) for _ in range(400)]
        for sock in sockets:
            sock.setblocking(False)
            assert sock.connect_ex(("10.0.0.1", 80)) == errno.EINPROGRESS
        while served.call_count < 400:
            before = served.call_count
            await asyncio.sleep(0)
            counts.append(served.call_count - before)
    assert max(counts) <= 64
    for sock in sockets:
        sock.close()
    server.close()


@on_every_loop
async def test_sockets_tell_the_addresses_until_closed(hosts: Hosts) -> None:
    server = await serve(hosts, port=0)
    (sock,) = server.sockets
    host, port = sock.getsockname()
    assert host == "10.0.0.1"
    assert port > 0
    assert server.get_loop() is loop()
    assert server.is_serving()
    assert str(port) in repr(server)
    server.close()
    assert server.sockets == ()
    assert not server.is_serving()


@on_every_loop
async def test_no_host_means_every_family(hosts: Hosts) -> None:
    server = await serve(hosts, host=None)
    names = {sock.getsockname()[0] for sock in server.sockets}
    assert names == {"0.0.0.0", "::"}
    for host in ("10.0.0.1", "fd00::1"):
        client = await dial(hosts, host)
        client.transport.abort()
        await client.lost
    server.close()


@on_every_loop
async def test_several_hosts_each_get_a_socket(hosts: Hosts) -> None:
    server = await serve(hosts, host=["10.0.0.1", "127.0.0.1", "10.0.0.1"])
    assert [sock.getsockname()[0] for sock in server.sockets] == ["10.0.0.1", "127.0.0.1"]
    server.close()


@on_every_loop
async def test_an_address_in_use_is_named(hosts: Hosts) -> None:
    server = await serve(hosts)
    with pytest.raises(OSError, match=r"bind on address \('10.0.0.1', 80\).*in use") as caught:
        await serve(hosts, host=["127.0.0.1", "10.0.0.1"])
    assert caught.value.errno == errno.EADDRINUSE
    server.close()
    # Nothing of the failed attempt is left on the other address.
    (await serve(hosts, host="127.0.0.1")).close()


@on_every_loop
async def test_an_address_that_the_stack_has_not_is_refused(hosts: Hosts) -> None:
    with pytest.raises(OSError, match="could not bind on any address") as caught:
        await serve(hosts, host="192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@on_every_loop
async def test_arguments_that_exclude_each_other_are_refused(hosts: Hosts) -> None:
    sock = hosts.server.socket()
    with pytest.raises(ValueError, match="host/port and sock"):
        await serve(hosts, sock=sock)
    with pytest.raises(ValueError, match="Neither host/port nor sock"):
        await serve(hosts, host=None, port=None)
    with pytest.raises(TypeError, match="SSLContext"):
        await serve(hosts, ssl=True)
    with pytest.raises(ValueError, match="only meaningful with ssl"):
        await serve(hosts, ssl_handshake_timeout=1)
    with hosts.server.socket(type=socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(ValueError, match="Stream Socket"):
            await serve(hosts, host=None, port=None, sock=datagrams)
    sock.close()


@on_every_loop
async def test_a_kernel_socket_is_refused(hosts: Hosts) -> None:
    with socket.socket() as sock:
        with pytest.raises(TypeError, match="UserSocket"):
            await serve(hosts, host=None, port=None, sock=sock)


@on_every_loop
async def test_a_closed_stack_is_refused(hosts: Hosts) -> None:
    hosts.server.close()
    with pytest.raises(OSError) as caught:
        await serve(hosts)
    assert caught.value.errno == errno.ENETDOWN


@on_every_loop
async def test_a_bound_socket_is_served(hosts: Hosts) -> None:
    sock = hosts.server.socket()
    sock.bind(("10.0.0.1", 8080))
    server = await serve(hosts, host=None, port=None, stack=None, sock=sock)
    client = await dial(hosts, port=8080)
    client.transport.abort()
    await client.lost
    server.close()


@on_every_loop
async def test_serving_begins_when_asked(hosts: Hosts) -> None:
    server = await serve(hosts, start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await dial(hosts)
    await server.start_serving()
    await server.start_serving()
    client = await dial(hosts)
    client.transport.abort()
    await client.lost
    server.close()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.start_serving()


@on_every_loop
async def test_serve_forever_ends_by_cancelling_and_closes(hosts: Hosts) -> None:
    server = await serve(hosts, start_serving=False)
    serving = asyncio.create_task(server.serve_forever())
    await until(server.is_serving)
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


@on_every_loop
async def test_a_cancelled_server_does_not_wait_for_its_connections(hosts: Hosts) -> None:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await serve(hosts, factory)

    async def serve_until_cancelled() -> None:
        async with server:
            await server.serve_forever()

    serving = asyncio.create_task(serve_until_cancelled())
    client = await dial(hosts)
    await until(lambda: made)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    server.abort_clients()
    await asyncio.gather(client.lost, made[0].lost)


@on_every_loop
async def test_closing_the_stack_ends_serve_forever(hosts: Hosts) -> None:
    server = await serve(hosts)
    serving = asyncio.create_task(server.serve_forever())
    await turns(3)
    hosts.server.close()
    with pytest.raises(OSError) as caught:
        await serving
    assert caught.value.errno == errno.ENETDOWN
    assert not server.is_serving()


@on_every_loop
async def test_closing_the_stack_is_reported_when_nobody_waits(
    hosts: Hosts, reports: Reports
) -> None:
    server = await serve(hosts)
    hosts.server.close()
    await until(lambda: reports)
    assert reports.pop()["exception"].errno == errno.ENETDOWN
    assert not server.is_serving()


@on_every_loop
async def test_wait_closed_waits_for_connections_from_3_12_on(hosts: Hosts) -> None:
    pair = await connect(hosts)
    pair.server.close()
    waiting = asyncio.create_task(pair.server.wait_closed())
    await turns(5)
    assert waiting.done() == (sys.version_info < (3, 12))
    await pair.finish()
    await waiting


@on_every_loop
async def test_wait_closed_waits_until_the_server_is_closed(hosts: Hosts) -> None:
    server = await serve(hosts)
    waiting = asyncio.create_task(server.wait_closed())
    await turns(5)
    assert not waiting.done()
    server.close()
    await waiting


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
@on_every_loop
async def test_all_clients_can_be_ended(hosts: Hosts, method: str) -> None:
    pair = await connect(hosts)
    getattr(pair.server, method)()
    assert await pair.accepted.lost is None
    await pair.connected.lost
    await pair.finish()


@on_every_loop
async def test_running_out_of_descriptors_backs_off_and_goes_on(
    hosts: Hosts, reports: Reports
) -> None:
    server = await serve(hosts)
    listener = server._listeners[0].sock  # type: ignore[index]
    kind = type(listener)
    real = kind.do_accept
    failures = [OSError(errno.EMFILE, "Too many open files")]
    calls = 0

    def do_accept(self: Any) -> Any:
        nonlocal calls
        calls += 1
        if failures:
            raise failures.pop()
        return real(self)

    with (
        mock.patch.object(kind, "do_accept", do_accept),
        mock.patch("vpoll_asyncio.transports.server.constants.ACCEPT_RETRY_DELAY", 0.05),
    ):
        client = await dial(hosts)
        await until(lambda: reports)
        assert calls == 1
        assert "out of system resource" in reports.pop()["message"]
        # It tried again later, without being asked.
        await until(lambda: server._clients)
    client.transport.abort()
    await client.lost
    server.close()


@on_every_loop
async def test_a_factory_that_fails_costs_one_connection(hosts: Hosts, reports: Reports) -> None:
    factory = mock.Mock(side_effect=[ZeroDivisionError, asyncio.Protocol()])
    server = await serve(hosts, factory)
    client = await dial(hosts)
    await client.lost
    assert isinstance(reports.pop()["exception"], ZeroDivisionError)
    client = await dial(hosts)
    await until(lambda: factory.call_count == 2)
    client.transport.abort()
    await client.lost
    server.close()


@on_every_loop
async def test_each_connection_has_a_context_of_its_own(hosts: Hosts) -> None:
    seen = []

    def factory() -> Recorder:
        seen.append(activated.get())
        # Set for this connection, seen by no other.
        activated.set(hosts.client)
        return Recorder()

    server = await serve(hosts, factory)
    for _ in range(2):
        client = await dial(hosts)
        await until(lambda: server._clients)
        client.transport.abort()
        await client.lost
    assert seen == [hosts.server, hosts.server]
    server.close()


@on_every_loop
async def test_closing_the_listening_socket_is_reported(hosts: Hosts, reports: Reports) -> None:
    sock = hosts.server.socket()
    sock.bind(("10.0.0.1", 80))
    server = await serve(hosts, host=None, port=None, sock=sock)
    sock.close()
    await until(lambda: reports)
    assert reports.pop()["exception"].errno == errno.EBADF
    assert not server.is_serving()


@on_every_loop
async def test_an_accepted_socket_is_taken_over(hosts: Hosts) -> None:
    with cast(UserSocket, hosts.server.socket()) as listener:
        listener.setblocking(False)
        listener.bind(("10.0.0.1", 80))
        listener.listen()
        client = await dial(hosts)
        sock, _ = await sockops.sock_accept(loop(), listener)
        transport, protocol = await transports.connect_accepted_socket(loop(), Recorder, sock)
        client.transport.write(b"hello")
        client.transport.close()
        await protocol.lost
        assert protocol.data == b"hello"
        assert transport.is_closing()


@pytest.mark.parametrize("reuse_address", [None, True, False])
@on_every_loop
async def test_a_restart_needs_reuse_address(hosts: Hosts, reuse_address: bool | None) -> None:
    """The server closes first, so its port is kept a while, as in Linux."""
    accepted: list[Recorder] = []

    def factory() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    server = await serve(hosts, factory, reuse_address=reuse_address)
    client = await dial(hosts)
    await until(lambda: accepted and accepted[0].transport)
    server.close_clients()
    server.close()
    await client.lost
    await server.wait_closed()
    if reuse_address is False:
        with pytest.raises(OSError, match="address already in use") as caught:
            await serve(hosts, reuse_address=reuse_address)
        assert caught.value.errno == errno.EADDRINUSE
    else:
        again = await serve(hosts, reuse_address=reuse_address)
        again.close()
        await again.wait_closed()


@on_every_loop
async def test_two_servers_share_a_port_when_asked(hosts: Hosts) -> None:
    first = await serve(hosts, reuse_port=True)
    second = await serve(hosts, reuse_port=True)
    with pytest.raises(OSError, match="address already in use"):
        await serve(hosts)
    clients = [await dial(hosts) for _ in range(3)]
    for server in (first, second):
        server.close()
    for client in clients:
        client.transport.abort()
        await client.lost
    for server in (first, second):
        await server.wait_closed()


@on_every_loop
async def test_reuse_port_is_refused_where_there_is_none(hosts: Hosts) -> None:
    without = OSError(errno.ENOPROTOOPT, "Protocol not available")
    with (
        mock.patch.object(StreamSocket, "do_setsockopt", side_effect=without),
        pytest.raises(ValueError, match="reuse_port is not supported by the memory stack"),
    ):
        await serve(hosts, reuse_port=True)


@pytest.mark.parametrize("keep_alive", [None, False, True])
@on_every_loop
async def test_connections_are_kept_alive_when_asked(hosts: Hosts, keep_alive: bool | None) -> None:
    accepted: list[Recorder] = []

    def factory() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    server = await serve(hosts, factory, keep_alive=keep_alive)
    client = await dial(hosts)
    await until(lambda: accepted and accepted[0].transport)
    ends = [server.sockets[0], accepted[0].transport.get_extra_info("socket")]
    for sock in ends:
        kept = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert kept == bool(keep_alive)
    server.close()
    client.transport.abort()
    await client.lost
    await server.wait_closed()


@on_every_loop
async def test_the_backlog_is_the_listener_s(hosts: Hosts) -> None:
    server = await serve(hosts, backlog=0, start_serving=False)
    with mock.patch.object(
        UserSocket, "listen", autospec=True, side_effect=UserSocket.listen
    ) as listen:
        await server.start_serving()
    assert [call.args[1] for call in listen.call_args_list] == [0]
    server.close()
    await server.wait_closed()
