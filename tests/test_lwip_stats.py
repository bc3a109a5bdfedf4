"""stack.stats(): what the protocols count, held against what the kernel at the other end counts."""

from __future__ import annotations

import contextlib
import socket
import threading
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import vpoll_asyncio as va
from link_helpers import ip, run_in_namespace
from lwip_frames import ACK, RST, SYN, frame, icmp, ipv4, ipv6, parse_tcp, tcp, udp
from lwip_helpers import HOST4, HOST6, PEER4, PEER6, Peer, lwip_on_wire
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.lwip.stats import Stats

pytestmark = pytest.mark.needs("lwip")


class Counted:
    """What has changed since it was made."""

    def __init__(self, stack: LwipStack) -> None:
        self._stack = stack
        self._before = self._all()

    def _all(self) -> dict[str, int]:
        found: typing.Any = self._stack.stats()
        return {f"{of}.{name}": n for of, part in found.items() for name, n in part.items()}

    @property
    def since(self) -> dict[str, int]:
        now = self._all()
        return {name: n - self._before[name] for name, n in now.items() if n != self._before[name]}


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        # Neighbours are known from here on.
        for host, other in ((HOST4, PEER4), (HOST6, PEER6)):
            kind = 128 if ":" in host else 8
            peer.send(frame(icmp(kind, 0, b"\0\1\0\1", other, host)))
        yield peer


@pytest.fixture
def counted(peer: Peer) -> Counted:
    return Counted(peer.stack)


def udp_socket(peer: Peer, port: int) -> socket.socket:
    sock = peer.keep(peer.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.bind(("::", port))
    return sock


def test_every_counter_has_its_documented_name(peer: Peer) -> None:
    found = peer.stack.stats()
    hints = typing.get_type_hints(Stats)
    assert list(found) == list(hints)
    for protocol, kind in hints.items():
        assert list(found[protocol]) == list(typing.get_type_hints(kind))  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("host", "other", "of", "icmp_of", "kind"),
    [(HOST4, PEER4, "Ip", "Icmp", 8), (HOST6, PEER6, "Ip6", "Icmp6", 128)],
)
def test_an_echo(
    peer: Peer, counted: Counted, host: str, other: str, of: str, icmp_of: str, kind: int
) -> None:
    peer.send(frame(icmp(kind, 0, b"\0\1\0\1", other, host)))
    assert counted.since == {
        f"{of}.InReceives": 1,
        f"{of}.InDelivers": 1,
        f"{of}.OutRequests": 1,
        f"{icmp_of}.InMsgs": 1,
        f"{icmp_of}.InEchos": 1,
        f"{icmp_of}.OutMsgs": 1,
        f"{icmp_of}.OutEchoReps": 1,
    }


def test_datagrams_that_arrive_that_nobody_has_and_that_do_not_fit(
    peer: Peer, counted: Counted
) -> None:
    sock = udp_socket(peer, 53)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    for _ in range(3):
        peer.send(frame(udp((PEER4, 9), (HOST4, 53), bytes(1000))))
    peer.send(frame(udp((PEER6, 9), (HOST6, 54), b"nobody")))
    bad = bytearray(frame(udp((PEER4, 9), (HOST4, 53), b"bad")))
    bad[-1] ^= 1
    peer.send(bytes(bad))
    assert len(sock.recv(2000)) == 1000
    since = counted.since
    assert since["Udp.InDatagrams"] == 2
    assert since["Udp.RcvbufErrors"] == 1
    assert since["Udp.InErrors"] == 2
    assert since["Udp.InCsumErrors"] == 1
    assert since["Udp6.NoPorts"] == 1
    assert since["Icmp6.OutDestUnreachs"] == 1
    assert since["Sockets.udp"] == 1
    assert since["Sockets.receive_bytes"] > 1000


def test_packets_that_are_not_for_this_host(peer: Peer, counted: Counted) -> None:
    peer.send(frame(udp((PEER4, 9), ("10.0.0.77", 53), b"")))
    peer.send(frame(udp((HOST4, 9), (HOST4, 53), b"")))
    peer.send(frame(ipv6(b"12345678", 253, PEER6, HOST6)))
    short = bytearray(frame(udp((PEER4, 9), (HOST4, 53), b"")))
    short[14] = 0x44
    peer.send(bytes(short))
    wrong = bytearray(frame(udp((PEER4, 9), (HOST4, 53), b"")))
    wrong[24] ^= 1
    peer.send(bytes(wrong))
    assert counted.since == {
        "Ip.InReceives": 4,
        "Ip.InAddrErrors": 2,
        "Ip.InHdrErrors": 2,
        "Ip6.InReceives": 1,
        "Ip6.InUnknownProtos": 1,
    }


def test_fragments(peer: Peer, counted: Counted) -> None:
    sock = udp_socket(peer, 53)
    whole = udp((PEER4, 9), (HOST4, 53), bytes(range(100)))[20:]
    for at in range(0, len(whole), 40):
        more = 0x2000 if at + 40 < len(whole) else 0
        peer.send(frame(ipv4(whole[at : at + 40], 17, PEER4, HOST4, fragment=more | at // 8)))
    data, sender = sock.recvfrom(1000)
    sock.sendto(data * 30, sender)
    peer.send()
    since = counted.since
    assert (since["Ip.ReasmReqds"], since["Ip.ReasmOKs"], since["Ip.InDelivers"]) == (3, 1, 1)
    assert (since["Ip.FragCreates"], since["Ip.FragOKs"], since["Ip.OutRequests"]) == (3, 1, 1)
    assert (since["Udp.InDatagrams"], since["Udp.OutDatagrams"]) == (1, 1)


def test_what_no_route_is_for(peer: Peer, counted: Counted) -> None:
    with pytest.raises(OSError, match="unreachable"):
        udp_socket(peer, 53).sendto(b"", ("::ffff:192.0.2.1", 9))
    with pytest.raises(OSError, match="unreachable"):
        peer.keep(peer.stack.socket()).connect(("192.0.2.1", 9))
    assert counted.since["Ip.OutNoRoutes"] == 2


def _accept(peer: Peer, listener: socket.socket) -> tuple[socket.socket, int]:
    """Connect from PEER4:5000 by hand; return the connection and its next number to be seen."""
    sent = peer.send(frame(tcp((PEER4, 5000), (HOST4, 80), SYN, 1000)))
    [answer] = [found for one in sent if (found := parse_tcp(one))]
    seq = int(answer["seq"]) + 1
    peer.send(frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 1001, seq)))
    return peer.keep(listener.accept()[0]), seq


def test_connections_their_segments_and_those_sent_again(peer: Peer, counted: Counted) -> None:
    listener = peer.keep(peer.stack.socket())
    listener.bind((HOST4, 80))
    listener.listen()
    connection, seq = _accept(peer, listener)
    assert counted.since["Tcp.PassiveOpens"] == counted.since["Tcp.CurrEstab"] == 1
    assert (counted.since["Tcp.InSegs"], counted.since["Tcp.OutSegs"]) == (2, 1)
    connection.send(b"hello")
    peer.send()
    assert counted.since["Sockets.send_bytes"] == 5
    assert "Tcp.RetransSegs" not in counted.since
    peer.stack.skip_time(5)
    again = [one for one in peer.send() if one.endswith(b"hello")]
    assert counted.since["Tcp.RetransSegs"] == len(again) > 0
    bad = bytearray(frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 1001, seq + 5)))
    bad[-1] ^= 1
    peer.send(bytes(bad))
    assert counted.since["Tcp.InErrs"] == counted.since["Tcp.InCsumErrors"] == 1
    peer.send(frame(tcp((PEER4, 5000), (HOST4, 80), RST | ACK, 1001, seq + 5)))
    assert counted.since["Tcp.EstabResets"] == 1
    assert "Tcp.CurrEstab" not in counted.since
    peer.send(frame(tcp((PEER4, 5001), (HOST4, 81), SYN, 1000)))
    assert counted.since["Tcp.OutRsts"] == 1


def test_attempts_that_fail(peer: Peer, counted: Counted) -> None:
    sock = peer.keep(peer.stack.socket())
    assert sock.connect_ex((PEER4, 9)) != 0
    [asked] = [found for one in peer.send() if (found := parse_tcp(one))]
    port, seq = int(asked["sport"]), int(asked["seq"]) + 1
    peer.send(frame(tcp((PEER4, 9), (HOST4, port), RST | ACK, 0, seq)))
    assert counted.since["Tcp.ActiveOpens"] == counted.since["Tcp.AttemptFails"] == 1
    assert "Tcp.EstabResets" not in counted.since


def test_what_the_stack_says_to_itself_counts_at_both_ends(peer: Peer, counted: Counted) -> None:
    sock = peer.keep(peer.stack.socket(type=socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    sock.sendto(b"hello", sock.getsockname())
    assert counted.since["Udp.OutDatagrams"] == counted.since["Udp.InDatagrams"] == 1
    assert counted.since["Ip.OutRequests"] == counted.since["Ip.InDelivers"] == 1


def test_further_instances_count_for_themselves(peer: Peer, counted: Counted) -> None:
    with va.open_stack("lwip", vnl="wire://further", ip="10.1.0.1/24") as other:
        assert isinstance(other, LwipStack)
        with other.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"hello", sock.getsockname())
        assert other.stats()["Udp"]["InDatagrams"] == 1
    assert counted.since == {}


# Against the kernel.

LINUX, LWIP = "10.77.0.1", "10.77.0.2"


def _kernel() -> dict[str, dict[str, int]]:
    lines = Path("/proc/net/snmp").read_text().splitlines()
    found = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol, _, names = names.partition(":")
        numbers = map(int, values.partition(":")[2].split())
        found[protocol] = dict(zip(names.split(), numbers, strict=True))
    return found


def _serve(listener: socket.socket) -> None:
    """Send back what comes, to three connections."""
    for _ in range(3):
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


def _traffic(stack: va.Stack) -> None:
    with socket.create_server((LINUX, 0)) as listener:
        serving = threading.Thread(target=_serve, args=(listener,))
        serving.start()
        for size in (1, 1000, 40_000):
            with stack.socket() as sock:
                sock.settimeout(60)
                sock.connect(listener.getsockname())
                sock.sendall(bytes(size))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        serving.join()
    with stack.socket() as sock:
        sock.settimeout(60)
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect((LINUX, 9))
    with socket.socket(type=socket.SOCK_DGRAM) as far, stack.socket(type=socket.SOCK_DGRAM) as near:
        far.bind((LINUX, 0))
        for sock in (far, near):
            sock.settimeout(60)
        for size in (0, 1000, 8000):
            near.sendto(bytes(size), far.getsockname())
            data, sender = far.recvfrom(65536)
            far.sendto(data, sender)
            near.recv(65536)
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(60)
        sock.sendto(b"\x08" + bytes(3000), (LINUX, 0))
        sock.recv(65536)


def against_the_kernel() -> None:
    ip("tuntap", "add", "tap0", "mode", "tap")
    ip("addr", "add", f"{LINUX}/24", "dev", "tap0")
    ip("link", "set", "tap0", "up")
    with va.open_stack("lwip", vnl="tap://tap0", ip=f"{LWIP}/24", thread=True) as stack:
        assert isinstance(stack, LwipStack)
        before = _kernel()
        _traffic(stack)
        # Over once the last of both sides' FINs is here.
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(60)
            sock.sendto(b"\x08" + bytes(8), (LINUX, 0))
            sock.recv(100)
        ours, after = stack.stats(), _kernel()
    theirs = {
        of: {name: after[of][name] - n for name, n in before[of].items()}
        for of in ("Ip", "Icmp", "Tcp", "Udp")
    }
    pairs = {
        "segments to Linux": (ours["Tcp"]["OutSegs"], theirs["Tcp"]["InSegs"]),
        "segments to lwIP": (ours["Tcp"]["InSegs"], theirs["Tcp"]["OutSegs"]),
        "resets to lwIP": (ours["Tcp"]["AttemptFails"], theirs["Tcp"]["OutRsts"]),
        "connections": (ours["Tcp"]["ActiveOpens"], theirs["Tcp"]["PassiveOpens"] + 1),
        "datagrams to Linux": (ours["Udp"]["OutDatagrams"], theirs["Udp"]["InDatagrams"]),
        "datagrams to lwIP": (ours["Udp"]["InDatagrams"], theirs["Udp"]["OutDatagrams"]),
        "echo requests": (ours["Icmp"]["OutEchos"], theirs["Icmp"]["InEchos"]),
        "echo replies": (ours["Icmp"]["InEchoReps"], theirs["Icmp"]["OutEchoReps"]),
        "packets to Linux": (ours["Ip"]["OutRequests"], theirs["Ip"]["InDelivers"]),
        # Linux counts segments that are cut late as one packet.
        "packets to lwIP": (
            ours["Ip"]["InDelivers"],
            theirs["Tcp"]["OutSegs"] + theirs["Udp"]["OutDatagrams"] + theirs["Icmp"]["OutMsgs"],
        ),
        "fragments to Linux": (ours["Ip"]["FragCreates"], theirs["Ip"]["ReasmReqds"]),
        "fragments to lwIP": (ours["Ip"]["ReasmReqds"], theirs["Ip"]["FragCreates"]),
        "put together by Linux": (ours["Ip"]["FragOKs"], theirs["Ip"]["ReasmOKs"]),
        "put together by lwIP": (ours["Ip"]["ReasmOKs"], theirs["Ip"]["FragOKs"]),
    }
    assert all(one == other > 0 for one, other in pairs.values()), pairs


@pytest.mark.needs("tap", "netns", "ip")
def test_both_ends_count_the_same() -> None:
    run_in_namespace(against_the_kernel)
