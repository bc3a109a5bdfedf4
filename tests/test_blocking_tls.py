"""`ssl.SSLContext.wrap_socket` over user sockets: as over the kernel's, call by call."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import select
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vpoll_asyncio as va
from blocking_helpers import (
    CERTIFICATE,
    Background,
    client_context,
    connected,
    network_of,
    on_every_network,
    server_context,
    under_tls,
)
from memory_helpers import BOUND, until
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.tlssockets import UserSSLSocket, wrap_user_socket

Pair = tuple[ssl.SSLSocket, ssl.SSLSocket]


@pytest.fixture
def network(request: pytest.FixtureRequest, no_fd_leak: None) -> Iterator[str]:
    with network_of(request.param) as name:
        yield name


@pytest.fixture
def pair(network: str) -> Iterator[Pair]:
    client, server = under_tls(connected())
    with client, server:
        yield client, server


# What it is.


@on_every_network
def test_the_result_is_an_ssl_socket_that_has_taken_the_sockets_place(network: str) -> None:
    client, server = connected()
    number = client.fileno()
    wrapped, other = under_tls((client, server))
    with wrapped, other:
        assert isinstance(wrapped, ssl.SSLSocket)
        assert isinstance(wrapped, va.UserSocket) is (network == "memory")
        assert (client.fileno(), wrapped.fileno()) == (-1, number)
        assert wrapped.gettimeout() == BOUND
        with pytest.raises(OSError, match="Bad file descriptor"):
            client.getpeername()
        assert wrapped.getpeername() == other.getsockname()


@on_every_network
def test_what_is_asked_of_the_connection(pair: Pair) -> None:
    client, server = pair
    assert client.version() == server.version() == "TLSv1.3"
    assert client.cipher() == server.cipher()
    certificate = client.getpeercert()
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", "localhost"),),)
    assert server.getpeercert() is None
    assert client.getpeercert(True) == ssl.PEM_cert_to_DER_cert(
        CERTIFICATE.read_text()[CERTIFICATE.read_text().index("-----BEGIN CERT") :]
    )
    assert (client.server_side, server.server_side) == (False, True)
    assert (client.server_hostname, server.server_hostname) == ("localhost", None)
    assert client.selected_alpn_protocol() is client.compression() is None
    assert client.get_channel_binding("tls-unique") == server.get_channel_binding("tls-unique")
    assert client.pending() == 0
    assert client.context.verify_mode is ssl.CERT_REQUIRED


@on_every_network
def test_alpn_and_a_name_that_needs_encoding(network: str) -> None:
    ours, theirs = client_context(), server_context()
    ours.set_alpn_protocols(["h2", "http/1.1"])
    theirs.set_alpn_protocols(["http/1.1"])
    ours.check_hostname = False
    ours.verify_mode = ssl.CERT_NONE
    names = []
    theirs.sni_callback = lambda sock, name, context: names.append((type(sock), name))
    pair = connected()
    shaking = Background(lambda: theirs.wrap_socket(pair[1], server_side=True))
    with ours.wrap_socket(pair[0], server_hostname="bücher.example") as client:
        with shaking.result() as server:
            assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "http/1.1"
            assert client.server_hostname == "xn--bcher-kva.example"
            assert names == [(type(server), "xn--bcher-kva.example")]


@on_every_network
def test_a_callback_of_sni_may_change_the_context(network: str) -> None:
    other = server_context()

    def choose(sock: Any, name: str, context: ssl.SSLContext) -> None:
        sock.context = other

    first = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    first.sni_callback = choose
    client, server = under_tls(connected(), server=first)
    with client, server:
        assert server.context is other


@on_every_network
def test_a_session_is_resumed(network: str) -> None:
    ours, theirs = client_context(), server_context()
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = under_tls(connected(), client=ours, server=theirs)
    with client, server:
        session = client.session
        assert not client.session_reused
    client, server = under_tls(connected(), client=ours, server=theirs, session=session)
    with client, server:
        assert client.session_reused
        assert server.session_reused


@on_every_network
def test_the_class_that_the_context_says(network: str) -> None:
    class Mine(ssl.SSLSocket):
        def greeting(self) -> str:
            return "hello"

    context = client_context()
    context.sslsocket_class = Mine
    client, server = under_tls(connected(), client=context)
    with client, server:
        assert isinstance(client, Mine)
        assert client.greeting() == "hello"


@on_every_network
def test_it_is_collected_as_soon_as_nobody_has_it(network: str) -> None:
    client, server = under_tls(connected())
    gc.disable()
    try:
        gone = weakref.ref(client)
        with server, pytest.warns(ResourceWarning, match="unclosed"):
            del client
        assert gone() is None
    finally:
        gc.enable()


# Connections.


@on_every_network
def test_wrapped_before_connect_it_shakes_hands_then(network: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with server_context().wrap_socket(listener, server_side=True) as secure:
            secure.settimeout(BOUND)
            accepting = Background(secure.accept)
            with client_context().wrap_socket(
                socket.socket(), server_hostname="localhost"
            ) as client:
                client.settimeout(BOUND)
                assert client.cipher() is None
                with pytest.raises(OSError, match="not connected") as caught:
                    client.getpeercert()
                assert caught.value.errno == errno.ENOTCONN
                client.connect(secure.getsockname())
                with pytest.raises(ValueError, match="already-connected"):
                    client.connect(secure.getsockname())
                server, address = accepting.result()
                with server:
                    assert address == client.getsockname()
                    assert server.server_side
                    client.sendall(b"hello")
                    assert server.recv(100) == b"hello"
                with pytest.raises(ValueError, match="server-side mode"):
                    server.connect(("127.0.0.1", 1))


@on_every_network
def test_a_connection_that_is_refused(network: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with client_context().wrap_socket(socket.socket(), server_hostname="localhost") as client:
            client.settimeout(BOUND)
            assert client.connect_ex(nobody.getsockname()) == errno.ECONNREFUSED
            assert client.version() is None


@on_every_network
def test_connect_ex_without_blocking_and_a_handshake_by_hand(network: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_context().wrap_socket(
            socket.socket(), server_hostname="localhost", do_handshake_on_connect=False
        )
        with client:
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
            plain, _ = listener.accept()
            shaking = Background(lambda: server_context().wrap_socket(plain, server_side=True))
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    select.select([client], [], [], BOUND)
                except ssl.SSLWantWriteError:
                    select.select([], [client], [], BOUND)
            with shaking.result() as server:
                assert client.version() == server.version()


@on_every_network
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"server_side": True, "server_hostname": "x"}, ValueError, "client mode"),
        ({"server_hostname": None}, ValueError, "check_hostname requires server_hostname"),
        ({"server_hostname": ""}, ValueError, "check_hostname requires server_hostname"),
    ],
)
def test_arguments_that_do_not_go_together(
    network: str, options: Any, error: type[Exception], text: str
) -> None:
    with socket.socket() as sock:
        with pytest.raises(error, match=text):
            client_context().wrap_socket(sock, **options)
        # It is as it was.
        assert sock.fileno() >= 0
        with socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with pytest.raises(NotImplementedError, match="only stream sockets"):
                client_context().wrap_socket(datagram, server_hostname="x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        client_context().wrap_socket(sock, server_hostname="x")


@on_every_network
def test_a_non_blocking_socket_shakes_no_hands_by_itself(network: str) -> None:
    client, server = connected()
    with server:
        client.setblocking(False)
        with pytest.raises(ValueError, match="non-blocking sockets"):
            client_context().wrap_socket(client, server_hostname="localhost")
        assert client.fileno() == -1
        assert server.recv(1) == b""


@pytest.mark.parametrize("network", ["memory"], indirect=True)
def test_a_name_that_cannot_be_encoded_closes_the_socket(network: str) -> None:
    # As the standard library's from Python 3.13 on; before, it leaves that to the collector.
    with socket.socket() as sock:
        with pytest.raises(UnicodeError):
            client_context().wrap_socket(sock, server_hostname=".localhost")
        assert sock.fileno() == -1


@on_every_network
def test_data_that_came_before_tls_are_refused(network: str) -> None:
    client, server = connected()
    with client:
        server.sendall(b"early")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: client.recv(10, socket.MSG_PEEK) == b"early")
        server.close()
        until(lambda: not _is_connected(client))
        with pytest.raises(ssl.SSLError, match="Closed before TLS handshake") as caught:
            client_context().wrap_socket(client, server_hostname="localhost")
        assert caught.value.reason == "Closed before TLS handshake with data in recv buffer."
        assert caught.value.library is None


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


@on_every_network
def test_an_untrusted_server_is_told(network: str) -> None:
    client, server = connected()
    shaking = Background(lambda: server_context().wrap_socket(server, server_side=True))
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        ssl.create_default_context().wrap_socket(client, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLError), shaking.result() as wrapped:
        # TLS 1.3: the server may be through before the client's alert comes.
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            wrapped.recv(1)


@on_every_network
def test_a_peer_that_speaks_something_else(network: str) -> None:
    client, server = connected()
    with client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
            server_context().wrap_socket(server, server_side=True)


@on_every_network
def test_a_peer_that_says_nothing(network: str) -> None:
    client, server = connected()
    with client:
        server.settimeout(0.05)
        with pytest.raises(TimeoutError, match="handshake operation timed out"):
            server_context().wrap_socket(server, server_side=True)


@on_every_network
def test_a_peer_that_goes_away(network: str) -> None:
    client, server = connected()
    client.close()
    with pytest.raises(ssl.SSLEOFError, match="EOF occurred"):
        server_context().wrap_socket(server, server_side=True)


# Data.


@on_every_network
def test_megabytes_both_ways_at_once_by_four_threads(pair: Pair) -> None:
    data = bytes(range(256)) * 8192

    def receive(sock: ssl.SSLSocket) -> bytes:
        received = bytearray()
        while len(received) < len(data):
            received += sock.recv(65536)
        return bytes(received)

    calls = [Background(receive, sock) for sock in pair]
    calls += [Background(sock.sendall, data) for sock in pair]
    assert [call.result() for call in calls] == [data, data, None, None]


@on_every_network
def test_data_come_a_record_at_a_time(pair: Pair) -> None:
    client, server = pair
    assert client.send(bytes(20_000)) == 20_000
    assert len(server.recv(100_000)) == 16384
    assert len(server.recv(100_000)) == 20_000 - 16384
    assert client.send(memoryview(bytes(80)).cast("I")) == 80
    assert server.read(30) == bytes(30)
    assert server.pending() == 50
    buffer = bytearray(b"." * 60)
    assert server.recv_into(buffer) == 50
    assert buffer == bytes(50) + b"." * 10
    assert client.write(b"abc") == 3
    assert server.read(10, buffer) == 3  # type: ignore[comparison-overlap]
    assert buffer[:3] == b"abc"


@on_every_network
def test_files(pair: Pair) -> None:
    client, server = pair
    with client.makefile("rwb") as file, server.makefile("rwb") as other:
        file.write(b"a line\n")
        file.flush()
        assert other.readline() == b"a line\n"
        other.write(b"more\n" * 10_000)
        sending = Background(other.flush)
        assert file.read(50_000) == b"more\n" * 10_000
        sending.result()
    data = bytes(range(256)) * 300
    sending = Background(client.sendfile, io.BytesIO(data), 10)
    received = b""
    while len(received) < len(data) - 10:
        received += server.recv(65536)
    assert sending.result() == len(data) - 10
    assert received == data[10:]


@on_every_network
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda sock: sock.recv(1, socket.MSG_PEEK), ValueError),
        (lambda sock: sock.recv_into(bytearray(1), 1, socket.MSG_PEEK), ValueError),
        (lambda sock: sock.send(b"x", socket.MSG_DONTWAIT), ValueError),
        (lambda sock: sock.sendall(b"x", socket.MSG_DONTWAIT), ValueError),
        (lambda sock: sock.sendto(b"x", ("127.0.0.1", 1)), ValueError),
        (lambda sock: sock.recvfrom(1), ValueError),
        (lambda sock: sock.recvfrom_into(bytearray(1)), ValueError),
        (lambda sock: sock.sendmsg([b"x"]), NotImplementedError),
        (lambda sock: sock.recvmsg(1), NotImplementedError),
        (lambda sock: sock.recvmsg_into([bytearray(1)]), NotImplementedError),
        (lambda sock: sock.dup(), NotImplementedError),
        (lambda sock: sock.recv(-1), ValueError),
        (lambda sock: sock.send("text"), TypeError),
        (lambda sock: sock.get_channel_binding("unknown"), ValueError),
    ],
)
def test_calls_that_tls_refuses(
    pair: Pair, call: Callable[[Any], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(pair[0])
    # Nothing of it was sent.
    pair[0].sendall(b"secret")
    assert pair[1].recv(10) == b"secret"


@on_every_network
def test_plain_data_follow_the_close_notices(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"secret")
    assert server.recv(10) == b"secret"
    unwrapping = Background(client.unwrap)
    assert server.recv(10) == b""
    plain = server.unwrap()
    plain.sendall(b"plain")
    assert plain.fileno() == server.fileno()
    assert unwrapping.result() is client
    assert client.recv(10) == b"plain"
    client.sendall(b"plain, too")
    assert server.recv(10) == b"plain, too"
    with pytest.raises(ValueError, match="No SSL wrapper"):
        client.unwrap()
    with pytest.raises(ValueError, match="closed or unwrapped"):
        client.read(1)


@on_every_network
@pytest.mark.parametrize("suppress", [True, False])
def test_an_end_without_a_close_notice(network: str, suppress: bool) -> None:
    client, server = under_tls(connected(), suppress_ragged_eofs=suppress)
    with client:
        server.close()
        if suppress:
            assert client.recv(10) == b""
            assert client.recv_into(bytearray(10)) == 0
        else:
            with pytest.raises(ssl.SSLEOFError):
                client.recv(10)


@on_every_network
def test_shutdown_leaves_tls(pair: Pair) -> None:
    client, server = pair
    client.shutdown(socket.SHUT_WR)
    assert client.version() is None
    assert server.recv(10) == b""


@on_every_network
def test_timeouts_and_non_blocking_mode(pair: Pair) -> None:
    client, server = pair
    client.settimeout(0.01)
    with pytest.raises(TimeoutError, match="read operation timed out"):
        client.recv(1)
    with pytest.raises(TimeoutError, match="write operation timed out"):
        client.sendall(bytes(100 << 20))
    server.setblocking(False)
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.recv(1)
    with pytest.raises(ssl.SSLWantWriteError):
        client.sendall(bytes(100 << 20))


def fill(sock: ssl.SSLSocket, data: bytes) -> int:
    """Send `data` again and again until a write is not completed; return how much went before."""
    total = 0
    try:
        while True:
            total += sock.send(data)
    except ssl.SSLWantWriteError:
        return total


@on_every_network
def test_a_write_that_could_not_be_completed_is_repeated(pair: Pair) -> None:
    client, server = pair
    client.setblocking(False)
    data = bytes(range(251)) * 400
    total = fill(client, data)
    received = bytearray()
    repeated = False
    while len(received) < total + len(data):
        if not repeated:
            try:
                repeated = client.send(bytearray(data)) == len(data)
            except ssl.SSLWantWriteError:
                pass
        received += server.recv(16384)
    assert received == data * (total // len(data) + 1)


@on_every_network
def test_a_write_that_could_not_be_completed_is_not_another(pair: Pair) -> None:
    client, _ = pair
    client.setblocking(False)
    fill(client, bytes(100_000))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.(length|write.retry)"):
        client.send(b"other")


@on_every_network
def test_pollers_see_what_was_not_taken_from_the_socket(pair: Pair) -> None:
    """A record that waits is seen by select; what is decrypted is told by `pending`."""
    client, server = pair
    server.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(1)
    assert select.select([server], [], [], 0)[0] == []
    client.sendall(b"first")
    client.sendall(b"second")
    assert select.select([server], [], [], BOUND)[0] == [server]
    assert server.recv(2) == b"fi"
    assert server.pending() == 3
    assert select.select([server], [], [], BOUND)[0] == [server]
    assert server.recv(10) == b"rst"
    assert server.recv(10) == b"second"
    assert select.select([server], [], [], 0)[0] == []


# What is ours alone.


def test_without_install_wrap_user_socket_does_it() -> None:
    with MemoryStack() as stack, stack.socket() as listener, stack.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        assert isinstance(client, va.UserSocket)
        assert isinstance(server, va.UserSocket)
        shaking = Background(lambda: wrap_user_socket(server_context(), server, server_side=True))
        secure = wrap_user_socket(client_context(), client, server_hostname="localhost")
        assert type(secure) is UserSSLSocket
        with secure, shaking.result() as other:
            secure.sendall(b"hello")
            assert other.recv(10) == b"hello"


@pytest.mark.parametrize("network", ["memory"], indirect=True)
def test_its_hooks_give_no_encrypted_data_away(pair: Pair) -> None:
    sock: Any = pair[0]
    for call in (
        lambda: sock.do_recv(1, 0),
        lambda: sock.do_recv_some(1),
        lambda: sock.do_recvfrom(1, 0),
        lambda: sock.do_recv_into(memoryview(bytearray(1)), 0),
        lambda: sock.do_send(b"x", 0, None),
        sock.stream_calls,
        lambda: sock.begin_stream(None),
    ):
        with pytest.raises(TypeError, match="SSLSocket"):
            call()
