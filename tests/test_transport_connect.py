"""create_connection over a stack: names, addresses, errors, happy eyeballs."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport_helpers import Hosts, Recorder, on_every_loop, turns, until
from vpoll_asyncio import transports
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.transports import connect as connecting


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def dial(hosts: Hosts, host: Any = "10.0.0.1", port: Any = 80, **options: Any) -> Recorder:
    options = {"stack": hosts.client, **options}
    _, protocol = await transports.create_connection(loop(), Recorder, host, port, **options)
    return protocol


async def serve(hosts: Hosts, host: Any = "10.0.0.1") -> transports.Server:
    return await transports.create_server(loop(), Recorder, host, 80, stack=hosts.server)


async def end(*protocols: Recorder) -> None:
    for protocol in protocols:
        protocol.transport.abort()
    await asyncio.gather(*(protocol.lost for protocol in protocols))


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "fd00::1", "server.test", b"server.test", "::ffff:10.0.0.1"]
)
@on_every_loop
async def test_a_host_is_found_by_address_or_name(hosts: Hosts, host: str | bytes) -> None:
    server = await serve(hosts, None)
    await end(await dial(hosts, host))
    server.close()


class Greeter(Recorder):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(b"hello")


@on_every_loop
async def test_it_returns_after_connection_made_and_before_data(hosts: Hosts) -> None:
    server = await transports.create_server(loop(), Greeter, "10.0.0.1", 80, stack=hosts.server)
    client = await dial(hosts)
    assert client.events == ["made"]
    await until(lambda: client.data == b"hello")
    await end(client)
    server.close()


@on_every_loop
async def test_an_unknown_name_is_a_gaierror(hosts: Hosts) -> None:
    with pytest.raises(socket.gaierror):
        await dial(hosts, "nowhere.test")


@on_every_loop
async def test_the_local_address_is_chosen(hosts: Hosts) -> None:
    server = await serve(hosts)
    client = await dial(hosts, local_addr=("10.0.0.2", 4321))
    assert client.transport.get_extra_info("sockname") == ("10.0.0.2", 4321)
    with pytest.raises(OSError, match="bind on address") as caught:
        await dial(hosts, local_addr=("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError, match="no matching local address"):
        await dial(hosts, local_addr=("fd00::2", 0))
    await end(client)
    server.close()


@on_every_loop
async def test_a_refused_connection_is_raised_as_it_is(hosts: Hosts) -> None:
    with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
        await dial(hosts)


@on_every_loop
async def test_the_next_address_is_tried(hosts: Hosts) -> None:
    server = await serve(hosts, "10.0.0.1")
    client = await dial(hosts, "server.test")
    assert client.transport.get_extra_info("peername")[0] == "10.0.0.1"
    await end(client)
    server.close()


@on_every_loop
async def test_the_errors_of_all_addresses_are_told(hosts: Hosts) -> None:
    with pytest.raises(OSError, match=r"Multiple exceptions: .*10\.0\.0\.1.*fd00::1"):
        await dial(hosts, "server.test")
    with pytest.raises(ExceptionGroup) as group:
        await dial(hosts, "server.test", all_errors=True)
    assert [type(error) for error in group.value.exceptions] == [ConnectionRefusedError] * 2


@on_every_loop
async def test_happy_eyeballs_pass_over_an_address_that_does_not_answer(hosts: Hosts) -> None:
    # A listener without room does not answer to a second connection.
    listener = hosts.server.socket(socket.AF_INET6)
    listener.bind(("fd00::1", 80))
    listener.listen(0)
    filler = hosts.client.socket(socket.AF_INET6)
    filler.connect(("fd00::1", 80))
    server = await serve(hosts, "10.0.0.1")
    infos = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 80, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80)),
    ]
    with mock.patch.object(hosts.client, "getaddrinfo", return_value=infos):
        client = await dial(hosts, "server.test", happy_eyeballs_delay=0.01)
    assert client.transport.get_extra_info("peername") == ("10.0.0.1", 80)
    await end(client)
    server.close()
    filler.close()
    listener.close()


@on_every_loop
async def test_happy_eyeballs_take_the_other_family_after_a_refusal(hosts: Hosts) -> None:
    server = await serve(hosts, "10.0.0.1")
    client = await dial(hosts, "server.test", happy_eyeballs_delay=3600)
    assert client.transport.get_extra_info("peername") == ("10.0.0.1", 80)
    await end(client)
    server.close()


@on_every_loop
async def test_happy_eyeballs_tell_the_errors_of_both_families(hosts: Hosts) -> None:
    with pytest.raises(ExceptionGroup) as group:
        await dial(hosts, "server.test", happy_eyeballs_delay=0.01, all_errors=True)
    texts = sorted(map(str, group.value.exceptions))
    assert len(texts) == 2
    assert "10.0.0.1" in texts[0]
    assert "fd00::1" in texts[1]


@on_every_loop
async def test_a_link_local_address_is_reached_with_its_scope(hosts: Hosts) -> None:
    with open_stack("memory", ip="fe80::1/64") as stack:
        server = await transports.create_server(loop(), Recorder, "fe80::1%2", 80, stack=stack)
        assert server.sockets[0].getsockname() == ("fe80::1", 80, 0, 2)
        client = await dial(hosts, "fe80::1%2", stack=stack, local_addr=("fe80::1", 4000, 0, 2))
        assert client.transport.get_extra_info("sockname") == ("fe80::1", 4000, 0, 2)
        assert client.transport.get_extra_info("peername") == ("fe80::1", 80, 0, 2)
        with pytest.raises(OSError, match="Invalid argument"):
            await dial(hosts, "fe80::1", stack=stack)
        await end(client)
        server.close()


@on_every_loop
async def test_cancelling_closes_the_connecting_socket(hosts: Hosts) -> None:
    made: list[Any] = []
    real = hosts.client.socket

    def watched(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    with hosts.server.socket() as listener, hosts.client.socket() as filler:
        listener.bind(("10.0.0.1", 80))
        listener.listen(0)
        filler.connect(("10.0.0.1", 80))
        with mock.patch.object(hosts.client, "socket", watched):
            dialling = asyncio.create_task(dial(hosts))
            await until(lambda: made)
            await turns(3)
            assert not dialling.done()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
    assert made[0].vpoll.closed


@pytest.mark.parametrize("step", range(8))
@on_every_loop
async def test_cancelling_at_any_turn_leaves_nothing_open(hosts: Hosts, step: int) -> None:
    made: list[Any] = []
    real = hosts.client.socket

    def watched(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    server = await serve(hosts)
    with mock.patch.object(hosts.client, "socket", watched):
        dialling = asyncio.create_task(dial(hosts))
        await turns(step)
        dialling.cancel()
        (result,) = await asyncio.gather(dialling, return_exceptions=True)
        if isinstance(result, Recorder):
            await end(result)
    await until(lambda: all(sock.vpoll.closed for sock in made))
    server.close()


@on_every_loop
async def test_a_factory_that_fails_leaves_no_socket(hosts: Hosts) -> None:
    server = await serve(hosts)
    factory = mock.Mock(side_effect=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        await transports.create_connection(loop(), factory, "10.0.0.1", 80, stack=hosts.client)
    await turns(5)
    server.close()


@on_every_loop
async def test_arguments_that_exclude_each_other_are_refused(hosts: Hosts) -> None:
    with hosts.client.socket() as sock:
        with pytest.raises(ValueError, match="host/port and sock"):
            await dial(hosts, sock=sock)
    with pytest.raises(ValueError, match="no sock specified"):
        await dial(hosts, None, None)
    with pytest.raises(ValueError, match="server_hostname"):
        await dial(hosts, server_hostname="x")
    with pytest.raises(ValueError, match="without a host"):
        await dial(hosts, None, 80, ssl=True)
    with pytest.raises(ValueError, match="needs a stack"):
        await dial(hosts, stack=None)
    with socket.socket() as kernel:
        with pytest.raises(TypeError, match="UserSocket"):
            await dial(hosts, None, None, sock=kernel)


@on_every_loop
async def test_a_closed_stack_is_refused(hosts: Hosts) -> None:
    hosts.client.close()
    with pytest.raises(OSError) as caught:
        await dial(hosts)
    assert caught.value.errno == errno.ENETDOWN


@on_every_loop
async def test_debug_mode_logs_and_works(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    loop().set_debug(True)
    try:
        with caplog.at_level("DEBUG", "asyncio"):
            server = await serve(hosts)
            client = await dial(hosts)
            client.transport.pause_reading()
            client.transport.resume_reading()
            await end(client)
            server.close()
    finally:
        loop().set_debug(False)
    assert "is serving" in caplog.text
    assert "connected to 10.0.0.1:80" in caplog.text
    assert "pauses reading" in caplog.text


@given(st.lists(st.sampled_from([socket.AF_INET, socket.AF_INET6]), min_size=1), st.integers(1, 4))
def test_interleaving_keeps_every_address_and_alternates(families: list[int], first: int) -> None:
    infos: list[Any] = [(family, 1, 6, "", (str(i), 0)) for i, family in enumerate(families)]
    mixed = connecting._interleave(infos, first)
    assert sorted(mixed) == sorted(infos)
    for family in set(families):
        mine = [info for info in mixed if info[0] == family]
        assert mine == [info for info in infos if info[0] == family]
    rest = [info[0] for info in mixed]
    preferred = families[0]
    head = min(first, families.count(preferred))
    assert rest[:head] == [preferred] * head
    assert list(alternation(rest[head - 1 :])) == []


def alternation(families: Sequence[int]) -> Iterator[int]:
    """Places where a family follows itself although the other one is still to come."""
    for index in range(1, len(families)):
        if families[index] == families[index - 1] and len(set(families[index:])) > 1:
            yield index
