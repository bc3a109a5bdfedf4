"""Which datagrams a socket sends and hears, on lwIP and on the kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from lwip_frames import MAC
from lwip_helpers import HOST4, PEER4, lab_on, lwip_on_wire
from memory_helpers import ERR, WRBAND, Lab, R, W, error_of, failure, mask_of, settles

pytestmark = pytest.mark.needs("lwip")

IDLE = W | WRBAND


@pytest.fixture(params=["lwip", "host"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_on(request.param) as lab:
        yield lab


def six(lab: Lab, only: bool = False) -> socket.socket:
    sock = lab.keep(lab.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    return sock


@pytest.mark.parametrize("to_port", [0, 9])
def test_a_peer_at_port_zero_is_none_to_getpeername(lab: Lab, to_port: int) -> None:
    sock = lab.datagram()
    sock.connect(("127.0.0.1", to_port))
    if to_port:
        assert sock.getpeername() == ("127.0.0.1", to_port)
    else:
        assert failure(sock.getpeername) == errno.ENOTCONN


def test_who_is_connected_to_port_zero_hears_every_port_of_the_peer(lab: Lab) -> None:
    receiver = lab.bound(lab.datagram())
    receiver.connect(("127.0.0.1", 0))
    senders = [lab.bound(lab.datagram()) for _ in range(2)]
    for sender in senders:
        sender.sendto(b"hello", receiver.getsockname())
        settles(receiver, IDLE | R)
        assert receiver.recvfrom(10) == (b"hello", sender.getsockname())


def test_who_is_connected_to_port_zero_of_another_refuses(lab: Lab) -> None:
    receiver = lab.bound(lab.datagram())
    receiver.connect(("127.0.0.2", 0))
    sender = lab.datagram()
    sender.connect(receiver.getsockname())
    assert sender.send(b"hello") == 5
    settles(sender, IDLE | ERR)
    assert error_of(sender) == errno.ECONNREFUSED
    assert mask_of(receiver) == IDLE


def test_what_is_sent_to_a_connected_port_zero_is_refused(lab: Lab) -> None:
    sender = lab.datagram()
    sender.connect(("127.0.0.1", 0))
    assert sender.send(b"hello") == 5
    settles(sender, IDLE | ERR)
    assert failure(sender.send, b"hello") == errno.ECONNREFUSED
    mapped = six(lab)
    mapped.connect(("::ffff:127.0.0.1", 0))
    assert failure(mapped.send, b"hello") == errno.EINVAL


def test_connect_fixes_the_local_address(lab: Lab) -> None:
    sock, other = lab.datagram(), lab.bound(lab.datagram())
    sock.connect(other.getsockname())
    host, port = sock.getsockname()
    assert host == "127.0.0.1"
    other.sendto(b"elsewhere", ("127.0.0.2", port))
    other.sendto(b"here", (host, port))
    settles(sock, IDLE | R)
    assert sock.recv(10) == b"here"
    sock.connect(("127.0.0.2", 9))
    assert sock.getsockname() == (host, port)


def test_a_socket_for_ipv6_only_hears_no_ipv4_without_bind_either(lab: Lab) -> None:
    only, both = six(lab, only=True), six(lab)
    for sock in (only, both):
        assert failure(sock.send, b"") == errno.EDESTADDRREQ
        assert sock.getsockname()[1] > 0
    sender = lab.datagram()
    for sock in (only, both):
        sender.sendto(b"hello", ("127.0.0.1", sock.getsockname()[1]))
    settles(both, IDLE | R)
    assert mask_of(only) == IDLE


def test_who_got_an_ipv6_address_by_connect_may_name_an_ipv4_one(lab: Lab) -> None:
    receiver, sock = lab.bound(lab.datagram()), six(lab)
    sock.connect(("::1", 9))
    address = ("::ffff:127.0.0.1", receiver.getsockname()[1])
    assert sock.sendto(b"hello", address) == 5
    settles(receiver, IDLE | R)
    assert sock.getsockname()[0] == "::1"


def test_every_loopback_address_is_the_hosts(lab: Lab) -> None:
    receiver, sender = lab.datagram(), lab.datagram()
    receiver.bind(("127.0.0.2", 0))
    sender.bind(("127.3.2.1", 0))
    sender.sendto(b"hello", receiver.getsockname())
    settles(receiver, IDLE | R)
    data, address = receiver.recvfrom(10)
    assert (data, address) == (b"hello", sender.getsockname())
    assert receiver.sendto(b"back", address) == 4
    settles(sender, IDLE | R)


def test_any_is_the_sockets_own_address(lab: Lab) -> None:
    receiver, sender = lab.datagram(), lab.datagram()
    receiver.bind(("127.0.0.2", 0))
    sender.bind(("127.0.0.2", 0))
    sender.sendto(b"hello", ("0.0.0.0", receiver.getsockname()[1]))
    settles(receiver, IDLE | R)
    mapped = six(lab)
    mapped.bind(("::ffff:127.0.0.1", 0))
    mapped.connect(("::", 9))
    assert mapped.getpeername()[0] == "::ffff:127.0.0.1"


def test_nothing_leaves_the_host_from_a_loopback_address() -> None:
    with lwip_on_wire() as peer:
        datagram, stream = (
            peer.keep(peer.stack.socket(type=kind))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        )
        for sock in (datagram, stream):
            sock.bind(("127.0.0.1", 0))
            assert failure(sock.connect, (PEER4, 9)) == errno.EINVAL
        assert failure(datagram.sendto, b"x", (PEER4, 9)) == errno.EINVAL
        assert not peer.send()


def test_a_host_sends_from_the_address_that_the_socket_has() -> None:
    second = "10.0.0.5"
    with lwip_on_wire(ip=[f"{HOST4}/24", f"{second}/24"], mac=MAC) as peer:
        for host in (HOST4, second):
            sock = peer.keep(peer.stack.socket(type=socket.SOCK_DGRAM))
            sock.bind((host, 0))
            assert sock.sendto(b"hello", (PEER4, 9)) == 5
            [sent] = [one for one in peer.send() if one.endswith(b"hello")]
            assert sent[26:30] == socket.inet_aton(host)
