"""Names that a stack looks up by DNS, through its own sockets: from threads and on every loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import dns.message
import pytest

import vpoll_asyncio as va
from dns_helpers import (
    BACKUP,
    CLIENT,
    SERVER,
    NameServer,
    Net,
    read_zone,
    served,
    silent,
    with_rcode,
)
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio import transports
from vpoll_asyncio.sockets import observe_sockets
from vpoll_asyncio.stacks import Stack, open_stack

pytestmark = pytest.mark.needs("dnspython")

Call = Callable[..., Any]


def in_thread(stack: Stack, method: str, *arguments: Any) -> Any:
    return getattr(stack, method)(*arguments)


def on_loop(factory: LoopFactory) -> Call:
    def call(stack: Stack, method: str, *arguments: Any) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(getattr(stack, f"a{method}")(*arguments))

    return call


WAYS = [
    pytest.param(in_thread, id="thread"),
    *(pytest.param(on_loop(p.values[0]), id=str(p.id), marks=p.marks) for p in LOOPS),  # type: ignore[arg-type]
]


@pytest.fixture(params=WAYS)
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a stack: blocking, or its twin on one of the loops."""
    way: Call = request.param
    return way


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as net:
        yield net


def addresses(infos: list[Any]) -> list[str]:
    return [info[4][0] for info in infos]


def lookup(call: Call, stack: Stack, host: str, family: int = 0, flags: int = 0) -> list[str]:
    return addresses(call(stack, "getaddrinfo", host, 80, family, socket.SOCK_STREAM, 0, flags))


def failure(call: Call, stack: Stack, *arguments: Any) -> int | None:
    """The EAI_* code that a look-up ends with."""
    with pytest.raises(socket.gaierror) as caught:
        lookup(call, stack, *arguments)
    return caught.value.errno


# What is found.


def test_a_name_has_the_addresses_that_dns_says(call: Call, net: Net) -> None:
    net.serve()
    infos = call(net.client(), "getaddrinfo", "www.lab.example", "http", 0, socket.SOCK_STREAM)
    assert infos == [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.80", 80)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::80", 80, 0, 0)),
    ]


@pytest.mark.parametrize(
    ("host", "family", "found"),
    [
        ("www.lab.example", socket.AF_INET6, ["fd00::80"]),
        ("www.lab.example.", socket.AF_INET, ["10.0.0.80"]),
        ("WWW.Lab.Example", socket.AF_INET, ["10.0.0.80"]),
        ("six.lab.example", 0, ["fd00::6"]),
        ("many.lab.example", 0, ["10.0.0.101", "10.0.0.102", "10.0.0.103"]),
        ("bücher.lab.example", 0, ["10.0.0.44"]),
        ("localhost", socket.AF_INET, ["127.0.0.1"]),
        ("10.0.0.9", 0, ["10.0.0.9"]),
    ],
)
def test_families_and_forms_of_names(
    call: Call, net: Net, host: str, family: int, found: list[str]
) -> None:
    net.serve()
    # A server gives the addresses in turn.
    assert sorted(lookup(call, net.client(), host, family)) == found


def test_a_family_that_is_not_wanted_is_not_asked_for(net: Net) -> None:
    server, client = net.serve(), net.client(ip=f"{CLIENT}/24")
    lookup(in_thread, client, "www.lab.example", socket.AF_INET)
    lookup(in_thread, client, "www.lab.example", 0, socket.AI_ADDRCONFIG)
    assert server.asked == [("www.lab.example", "A", "udp")] * 2


def test_aliases_are_followed_to_the_canonical_name(call: Call, net: Net) -> None:
    net.serve()
    infos = call(
        net.client(),
        "getaddrinfo",
        "alias.lab.example",
        80,
        0,
        socket.SOCK_STREAM,
        0,
        socket.AI_CANONNAME,
    )
    assert addresses(infos) == ["10.0.0.80", "fd00::80"]
    assert [info[3] for info in infos] == ["www.lab.example", ""]


def test_mapped_addresses_stand_in_where_a_name_has_none_of_ipv6(call: Call, net: Net) -> None:
    net.serve()
    client = net.client()
    six, mapped = socket.AF_INET6, socket.AI_V4MAPPED
    assert lookup(call, client, "four.lab.example", six, mapped) == ["::ffff:10.0.0.4"]
    assert lookup(call, client, "www.lab.example", six, mapped) == ["fd00::80"]
    assert len(lookup(call, client, "www.lab.example", six, mapped | socket.AI_ALL)) == 2


def test_a_server_is_asked_over_ipv6(call: Call, net: Net) -> None:
    net.serve("fd00::53")
    assert lookup(call, net.client(dns="fd00::53"), "four.lab.example") == ["10.0.0.4"]


@pytest.mark.parametrize("dns", [f"{SERVER}:5353", "[fd00::53]:5353"])
def test_a_server_may_have_another_port(call: Call, net: Net, dns: str) -> None:
    net.serve(dns.rpartition(":")[0].strip("[]"), port=5353)
    client = net.client(dns=dns)
    assert lookup(call, client, "four.lab.example") == ["10.0.0.4"]
    assert len(lookup(call, client, "big.lab.example", socket.AF_INET)) == 100


def test_an_answer_that_is_too_long_is_had_by_tcp(call: Call, net: Net) -> None:
    server = net.serve()
    found = lookup(call, net.client(), "big.lab.example", socket.AF_INET)
    assert sorted(found) == sorted(f"10.1.0.{last}" for last in range(1, 101))
    assert [way for _, _, way in server.asked] == ["udp", "tcp"]


def test_an_answer_that_tcp_does_not_complete_leaves_the_other_familys(net: Net) -> None:
    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes] | None:
        if tcp:
            return []
        if query.question[0].rdtype == dns.rdatatype.AAAA:
            return [answer[:2] + bytes([answer[2] | 0x02]) + answer[3:]]
        return None

    net.serve(hook=hook)
    client = net.client(dns_options="timeout:1 attempts:1")
    found = client.getaddrinfo("www.lab.example", 80, type=socket.SOCK_STREAM)
    assert [answer[0] for answer in found] == [socket.AF_INET]


def test_use_vc_asks_by_tcp_only(net: Net) -> None:
    server = net.serve()
    client = net.client(dns_options="use-vc timeout:10")
    assert len(lookup(in_thread, client, "www.lab.example")) == 2
    assert {way for _, _, way in server.asked} == {"tcp"}


# What is not found.


@pytest.mark.parametrize(
    ("host", "family", "code"),
    [
        ("nowhere.lab.example", 0, socket.EAI_NONAME),
        ("empty.lab.example", 0, socket.EAI_NODATA),
        ("four.lab.example", socket.AF_INET6, socket.EAI_NODATA),
        ("dangling.lab.example", 0, socket.EAI_NONAME),
        (f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}", 0, socket.EAI_NONAME),
    ],
)
def test_what_is_not_there(call: Call, net: Net, host: str, family: int, code: int) -> None:
    net.serve()
    assert failure(call, net.client(), host, family) == code


def test_a_numeric_question_asks_nobody(call: Call, net: Net) -> None:
    server = net.serve()
    assert (
        failure(call, net.client(), "www.lab.example", 0, socket.AI_NUMERICHOST)
        == socket.EAI_NONAME
    )
    assert server.asked == []


@pytest.mark.parametrize("code", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
def test_servers_that_fail_are_a_temporary_failure(call: Call, net: Net, code: str) -> None:
    server = net.serve(hook=with_rcode(code))
    assert failure(call, net.client(), "www.lab.example", socket.AF_INET) == socket.EAI_AGAIN
    assert len(server.asked) == 2


def test_servers_that_are_silent_are_a_temporary_failure(call: Call, net: Net) -> None:
    server = net.serve(hook=silent)
    client = net.client(dns_options="timeout:0.05 attempts:3")
    assert failure(call, client, "www.lab.example", socket.AF_INET) == socket.EAI_AGAIN
    assert len(server.asked) == 3


@pytest.mark.parametrize("call", WAYS[:1] + WAYS[3:4], indirect=True)
def test_a_question_that_is_lost_is_sent_again_after_a_second(call: Call, net: Net) -> None:
    lost: set[int] = set()

    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes] | None:
        if query.id in lost:
            return None
        lost.add(query.id)
        return []

    server = net.serve(hook=hook)
    client = net.client(dns_options="timeout:30 attempts:1")
    assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.0.0.4"]
    assert len(server.asked) == 2


def test_no_server_at_all_is_a_temporary_failure(call: Call, net: Net) -> None:
    assert failure(call, net.client(dns=(), domain="lab.example"), "www") == socket.EAI_AGAIN


@pytest.mark.parametrize("hook", [silent, with_rcode("SERVFAIL"), None])
def test_the_next_server_is_asked(call: Call, net: Net, hook: Any) -> None:
    if hook is not None:
        net.serve(hook=hook)
    backup = net.serve(BACKUP)
    client = net.client(dns=[SERVER, BACKUP], dns_options="timeout:0.2")
    assert len(lookup(call, client, "www.lab.example")) == 2
    assert len(backup.asked) == 2


def test_half_an_answer_is_better_than_none(call: Call, net: Net) -> None:
    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes] | None:
        return None if query.question[0].rdtype == 1 else []

    net.serve(hook=hook)
    client = net.client(dns_options="timeout:0.05")
    assert lookup(call, client, "www.lab.example") == ["10.0.0.80"]
    assert failure(call, client, "six.lab.example") == socket.EAI_AGAIN


# The search list.


@pytest.mark.parametrize(
    ("host", "options", "asked"),
    [
        ("www", "", ["www.one.example", "www.lab.example"]),
        ("www.", "", ["www"]),
        ("a.b", "", ["a.b", "a.b.one.example", "a.b.lab.example"]),
        ("a.b", "ndots:2", ["a.b.one.example", "a.b.lab.example", "a.b"]),
        ("www.lab.example", "", ["www.lab.example"]),
    ],
)
def test_names_are_searched_in_domains(
    call: Call, net: Net, host: str, options: str, asked: list[str]
) -> None:
    server = net.serve()
    client = net.client(domain=["one.example", "lab.example"], dns_options=f"timeout:10 {options}")
    if asked[-1] == "www.lab.example":
        assert lookup(call, client, host, socket.AF_INET) == ["10.0.0.80"]
    else:
        assert failure(call, client, host, socket.AF_INET) == socket.EAI_NONAME
    assert [name for name, _, _ in server.asked] == asked


def test_an_empty_name_on_the_way_is_what_is_told(call: Call, net: Net) -> None:
    net.serve()
    client = net.client(domain=["lab.example", "one.example"])
    assert failure(call, client, "empty") == socket.EAI_NODATA


def test_the_canonical_name_has_the_domain_in_it(net: Net) -> None:
    net.serve()
    infos = net.client(domain="lab.example").getaddrinfo("www", 80, flags=socket.AI_CANONNAME)
    assert infos[0][3] == "www.lab.example"


# Who may answer.


def test_answers_to_other_questions_are_not_believed(call: Call, net: Net) -> None:
    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes]:
        other = dns.message.make_query("evil.example", "A", id=query.id)
        lie = dns.message.make_response(other)
        for record in read_zone("evil.example A 6.6.6.6").values():
            lie.answer.append(record)
        wrong_id = bytes([answer[0] ^ 1]) + answer[1:]
        return [b"", b"junk", answer[:11], query.to_wire(), wrong_id, lie.to_wire(), answer]

    net.serve(hook=hook)
    assert lookup(call, net.client(), "four.lab.example", socket.AF_INET) == ["10.0.0.4"]


def test_answers_from_another_address_are_not_heard(call: Call, net: Net) -> None:
    net.serve(BACKUP)

    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes]:
        lie = answer[:-4] + bytes([6, 6, 6, 6])
        for source in ((BACKUP, 0), (SERVER, 5353)):
            with net.infrastructure.socket(type=socket.SOCK_DGRAM) as liar:
                liar.bind(source)
                liar.sendto(lie, (CLIENT, server.ports[-1]))
        return [answer]

    server = net.serve(hook=hook)
    assert lookup(call, net.client(), "four.lab.example", socket.AF_INET) == ["10.0.0.4"]


def test_identifiers_and_ports_are_by_chance(net: Net) -> None:
    server, client = net.serve(), net.client()
    for _ in range(20):
        lookup(in_thread, client, "four.lab.example")
    assert len(set(server.ids)) > 30
    assert len(set(server.ports)) > 15
    steps = {after - before for before, after in zip(server.ports, server.ports[2:], strict=False)}
    assert len(steps) > 10


def test_a_malformed_answer_is_the_servers_failure(call: Call, net: Net) -> None:
    net.serve(hook=lambda query, answer, tcp: [answer[:-2]])
    net.serve(BACKUP)
    client = net.client(dns=[SERVER, BACKUP])
    assert lookup(call, client, "four.lab.example", socket.AF_INET) == ["10.0.0.4"]


def test_names_that_no_host_can_have_are_not_told(call: Call, net: Net) -> None:
    net.serve()
    assert call(net.client(), "getnameinfo", ("10.0.0.9", 80), 0) == ("10.0.0.9", "http")


# Back from addresses.


@pytest.mark.parametrize(
    ("sockaddr", "flags", "found"),
    [
        (("10.0.0.80", 80), 0, ("www.lab.example", "http")),
        (("fd00::6", 80, 0, 0), socket.NI_NUMERICSERV, ("six.lab.example", "80")),
        (("::ffff:10.0.0.80", 80, 0, 0), socket.NI_NUMERICSERV, ("www.lab.example", "80")),
        (("10.0.0.80", 80), socket.NI_NUMERICHOST, ("10.0.0.80", "http")),
        (("10.0.0.77", 80), 0, ("10.0.0.77", "http")),
        (("10.0.0.80", 80), socket.NI_NOFQDN, ("www", "http")),
    ],
)
def test_an_address_has_the_name_that_dns_says(
    call: Call, net: Net, sockaddr: Any, flags: int, found: tuple[str, str]
) -> None:
    net.serve()
    assert call(net.client(domain="lab.example"), "getnameinfo", sockaddr, flags) == found


def test_a_name_that_is_required_must_be_there(call: Call, net: Net) -> None:
    net.serve()
    client = net.client()
    for flags in (socket.NI_NAMEREQD, socket.NI_NAMEREQD | socket.NI_NUMERICHOST):
        with pytest.raises(socket.gaierror) as caught:
            call(client, "getnameinfo", ("10.0.0.77", 80), flags)
        assert caught.value.errno == socket.EAI_NONAME


def test_hosts_by_name_and_by_address(net: Net) -> None:
    net.serve()
    client = net.client()
    assert client.gethostbyname_ex("alias.lab.example") == (
        "www.lab.example",
        ["alias.lab.example", "hop.lab.example"],
        ["10.0.0.80"],
    )
    for host in ("10.0.0.80", "www.lab.example"):
        assert client.gethostbyaddr(host) == ("www.lab.example", [], ["10.0.0.80"])
    name, aliases, _ = client.gethostbyaddr("10.0.0.81")
    # A server gives the names in turn.
    assert {name, *aliases} == {"one.lab.example", "two.lab.example"}
    with pytest.raises(socket.herror, match="Unknown host"):
        client.gethostbyaddr("10.0.0.77")


# Programs.


@pytest.mark.parametrize("factory", LOOPS)
def test_transports_take_names(factory: LoopFactory, net: Net) -> None:
    net.serve()
    web = net.client(ip="10.0.0.80/24")
    client = net.client()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with await va.start_server(answer, "www.lab.example", 80, family=2, stack=web):
            reader, writer = await va.open_connection("alias.lab.example", 80, stack=client)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
            writer.close()
        transport, _ = await va.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("www.lab.example", 80), family=2, stack=client
        )
        assert transport.get_extra_info("peername") == ("10.0.0.80", 80)
        transport.close()
        with client.socket(type=socket.SOCK_DGRAM) as sender, web.socket(type=2) as receiver:
            receiver.bind(("10.0.0.80", 80))
            receiver.setblocking(False)
            sender.setblocking(False)
            assert isinstance(sender, va.UserSocket)
            await transports.sockops.sock_sendto(loop, sender, b"one", ("www.lab.example", 80))
            await transports.sockops.sock_connect(loop, sender, ("www.lab.example", 80))
            assert receiver.recv(10) == b"one"
            assert sender.getpeername() == ("10.0.0.80", 80)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_a_datagram_transport_waits_for_names(factory: LoopFactory, net: Net) -> None:
    server, client = net.serve(), net.client()
    errors: list[Exception] = []

    class Sender(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            errors.append(exc)

    async def main(receiver: socket.socket) -> None:
        transport, _ = await va.create_datagram_endpoint(Sender, (CLIENT, 0), stack=client)
        for name in ("www.lab.example", "nowhere.lab.example"):
            transport.sendto(b"hello", (name, 80))
            assert (name, "A", "udp") in server.asked
        assert receiver.recv(10) == b"hello"
        [error] = errors
        assert isinstance(error, socket.gaierror)
        assert error.errno == socket.EAI_NONAME
        transport.close()

    with net.client(ip="10.0.0.80/24").socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.0.0.80", 80))
        receiver.setblocking(False)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(receiver))


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_an_ordinary_program_resolves_through_its_stack(loop: Any, net: Net) -> None:
    net.serve()

    async def main() -> list[Any]:
        own = asyncio.get_running_loop()
        return [
            addresses(await own.getaddrinfo("six.lab.example", 80, type=socket.SOCK_STREAM)),
            await own.getnameinfo(("10.0.0.80", 80)),
            socket.gethostbyname("four.lab.example"),
            await asyncio.to_thread(socket.gethostbyname, "four.lab.example"),
            socket.gethostbyaddr("10.0.0.80")[0],
        ]

    assert va.run(main(), loop=loop, stack=net.client()) == [
        ["fd00::6"],
        ("www.lab.example", "http"),
        "10.0.0.4",
        "10.0.0.4",
        "www.lab.example",
    ]


@pytest.mark.parametrize("factory", LOOPS)
def test_a_loop_goes_on_while_a_name_is_looked_up(factory: LoopFactory, net: Net) -> None:
    """The server is on the very loop, which would wait for itself."""
    client = net.client(dns_options="timeout:20 attempts:1")
    zone = read_zone("here.example A 10.0.0.5")

    class Server(asyncio.DatagramProtocol):
        transport: Any

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            answer = dns.message.make_response(dns.message.from_wire(data))
            answer.answer.extend(zone.values())
            self.transport.sendto(answer.to_wire(), addr)

    async def main() -> None:
        transport, _ = await va.create_datagram_endpoint(
            Server, (SERVER, 53), stack=net.infrastructure
        )
        found = await client.agetaddrinfo("here.example", 80, socket.AF_INET, socket.SOCK_STREAM)
        assert addresses(found) == ["10.0.0.5"]
        transport.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_a_look_up_that_is_cancelled_leaves_no_socket(factory: LoopFactory, net: Net) -> None:
    server, client = net.serve(hook=silent), net.client(dns_options="timeout:30")
    made: list[va.UserSocket] = []

    async def main() -> None:
        task = asyncio.create_task(client.agetaddrinfo("www.lab.example", 80))
        while len(server.asked) < 2:  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with observe_sockets(made.append), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert [sock.vpoll.closed for sock in made if sock.stack is client] == [True]


def test_closing_the_stack_ends_a_look_up(call: Call, net: Net) -> None:
    client = net.client(dns_options="timeout:30")

    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes]:
        client.close()
        return []

    net.serve(hook=hook)
    with pytest.raises(OSError) as caught:
        lookup(call, client, "www.lab.example")
    assert caught.value.errno == errno.ENETDOWN


def test_a_flood_of_junk_ends_at_the_timeout(call: Call, net: Net) -> None:
    net.serve(hook=lambda query, answer, tcp: [b"junk"] * 200)
    client = net.client(dns_options="timeout:0.05 attempts:1")
    before = time.monotonic()
    assert failure(call, client, "www.lab.example") == socket.EAI_AGAIN
    assert time.monotonic() - before < 20


# The options, and the author's side.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dns": "nameserver"}, "dns='nameserver': expected the address"),
        ({"dns": "10.0.0.53:dns"}, "expected the address"),
        ({"dns": "10.0.0.53:0"}, "expected the address"),
        ({"dns": "10.0.0.53:65536"}, "expected the address"),
        ({"dns": "[10.0.0.53]:53"}, "expected the address"),
        ({"dns": "[fd00::53]"}, "expected the address"),
        ({"dns": "[::]:53"}, "expected the address of a host"),
        ({"dns": "224.0.0.1"}, "expected the address of a host"),
        ({"domain": "a..b"}, "expected the name of a domain"),
        ({"dns_options": "rotate"}, "expected ndots:n, timeout:n"),
        ({"dns_options": "timeout:soon"}, "expected seconds, 0.01 to 30"),
        ({"dns_options": "attempts:0"}, "expected a whole number, 1 to 5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        open_stack("memory", **options)


def test_the_configurations_string_names_servers_and_domains() -> None:
    config = "stack=memory,dns=10.0.0.53,dns=fd00::53,domain=lab.example,dns_options=ndots:2"
    with open_stack(config) as stack:
        assert stack.resolver is not None
        conf = stack.resolver.conf
        assert conf.servers == ("10.0.0.53", "fd00::53")
        assert conf.search == ("lab.example",)
        assert (conf.ndots, conf.timeout, conf.attempts) == (2, 5.0, 2)


def test_without_dnspython_the_option_says_what_to_install() -> None:
    with mock.patch.dict(sys.modules, {"dns.message": None}):
        with pytest.raises(OSError, match="pip install") as caught:
            open_stack("memory", dns="10.0.0.53")
    assert caught.value.errno == errno.ENOPKG


def test_hosts_of_a_memory_network_are_known_without_asking(call: Call, net: Net) -> None:
    server = net.serve()
    net.client(ip="10.0.0.7/24", hostname="neighbour")
    assert lookup(call, net.client(), "neighbour") == ["10.0.0.7"]
    assert server.asked == []


def test_a_resolve_of_ones_own_does_not_hold_up_a_loop(call: Call, net: Net) -> None:
    """What an author wrote may wait, so it has a thread of its own."""
    with served() as (_, client):

        def resolve(host: str, family: int) -> list[str]:
            assert asyncio._get_running_loop() is None
            return ["10.0.0.9"]

        with mock.patch.object(client, "resolve", resolve):
            assert lookup(call, client, "anything") == ["10.0.0.9"]


def test_a_stack_may_be_told_other_servers(call: Call, net: Net) -> None:
    net.serve(BACKUP)
    client = net.client(dns=(), dns_options=())
    assert failure(call, client, "four.lab.example") == socket.EAI_NONAME
    client.set_dns([SERVER, BACKUP], "lab.example")
    client.set_dns(BACKUP, ["one.example", "lab.example"])
    assert lookup(call, client, "four") == ["10.0.0.4"]
    with pytest.raises(ValueError, match="expected the address"):
        client.set_dns([SERVER, "nobody"], "other.example")
    assert lookup(call, client, "four") == ["10.0.0.4"]
    client.set_dns(())
    assert failure(call, client, "four.lab.example") == socket.EAI_AGAIN


def test_other_servers_are_asked_as_the_options_say(net: Net) -> None:
    server, client = net.serve(), net.client(dns=BACKUP, dns_options="use-vc")
    client.set_dns(SERVER)
    lookup(in_thread, client, "four.lab.example", socket.AF_INET)
    assert server.asked == [("four.lab.example", "A", "tcp")]


@pytest.mark.parametrize("name", ["host", "null"])
def test_stacks_without_servers_of_their_own_take_none(name: str) -> None:
    with open_stack(name) as stack, pytest.raises(OSError) as caught:
        stack.set_dns(SERVER)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_a_server_is_a_program_like_any_other(net: Net) -> None:
    with NameServer(net.infrastructure, "fd00::53") as server:
        assert lookup(in_thread, net.client(dns="fd00::53"), "six.lab.example") == ["fd00::6"]
    assert server.asked == [("six.lab.example", kind, "udp") for kind in ("A", "AAAA")]
