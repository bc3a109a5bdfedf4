"""slirp:// with hand-made frames: no privileges, no kernel interface, no packet outside."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from link_helpers import (
    PATIENCE,
    arp,
    close_in_a_child,
    echo_request,
    ethernet,
    ipv4,
    is_arp,
    is_echo_reply,
    numbered,
    receive_that,
    send_all,
    udp,
)
from vpoll_asyncio.links import VdeLink, open_link
from vpoll_asyncio.links.slirp import BACKLOG, Forward, parse

HOST = "10.0.2.2"
GUEST = "10.0.2.15"

needs_slirp = pytest.mark.needs("slirp")


def open_slirp(options: str = "") -> VdeLink:
    link = open_link(f"slirp://{options}")
    assert isinstance(link, VdeLink)
    return link


@pytest.fixture
def link() -> Iterator[VdeLink]:
    with open_slirp() as opened:
        yield opened


def introduce(link: VdeLink, host: str = HOST, guest: str = GUEST) -> bytes:
    """Ask slirp for its hardware address, which tells it the guest's; return it."""
    send_all(link, [arp(1, guest, host)])
    return receive_that(link, is_arp(2, host))[22:28]


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@needs_slirp
def test_slirp_answers_arp_and_ping(link: VdeLink) -> None:
    mac = introduce(link)
    send_all(link, [ethernet(mac, 0x0800, ipv4(GUEST, HOST, 1, echo_request(b"slirp")))])
    receive_that(link, lambda frame: is_echo_reply(frame[14:], HOST, b"slirp"))
    assert link.dropped == 0


@needs_slirp
@pytest.mark.parametrize(
    "options", ["/addr=10.3.3.2/24", r"/addr=10.3.3.2\/24", "/v4/host='10.3.3.2/24'/mtu=9000"]
)
def test_an_address_with_a_prefix_needs_no_quotes(options: str) -> None:
    with open_slirp(options) as link:
        assert introduce(link, "10.3.3.2", "10.3.3.15")


@needs_slirp
def test_the_locators_mtu_is_the_links() -> None:
    with open_slirp("/mtu=9000") as link:
        assert link.mtu == 9000
        mac = introduce(link)
        payload = bytes(range(256)) * 30
        send_all(link, [ethernet(mac, 0x0800, ipv4(GUEST, HOST, 1, echo_request(payload)))])
        receive_that(link, lambda frame: is_echo_reply(frame[14:], HOST, payload))


@needs_slirp
def test_a_frame_without_a_whole_header_never_reaches_slirp(link: VdeLink) -> None:
    # Eight bytes would be taken for a pointer by its thread.
    assert link.send_batch([b"x" * n for n in range(14)]) == 14
    assert link.send_batch([b"x" * 1519]) == 1
    assert link.dropped == 15
    assert introduce(link)


@needs_slirp
def test_a_flood_fills_the_link_and_loses_none_of_it(link: VdeLink) -> None:
    mac = introduce(link)
    pings = [
        ethernet(mac, 0x0800, ipv4(GUEST, HOST, 1, echo_request(n.to_bytes(4, "big") * 250)))
        for n in range(2000)
    ]
    rest, got = pings, 0
    while got < len(pings):
        rest = rest[link.send_batch(rest) :]
        got += sum(frame[34:35] == b"\0" for frame in link.recv_batch())
    assert link.dropped == 0


@needs_slirp
@pytest.mark.usefixtures("no_fd_leak")
def test_close_ends_the_thread_and_gives_every_descriptor_back() -> None:
    before = threads()
    for _ in range(20):
        with open_slirp("/tcpfwd=127.0.0.1:0:10.0.2.15:80/udpfwd=127.0.0.1:0:10.0.2.15:53") as link:
            introduce(link)
            assert len(threads() - before) == 1
        assert threads() == before


@needs_slirp
@pytest.mark.usefixtures("no_fd_leak")
def test_close_with_frames_that_nobody_read_ends_the_thread() -> None:
    before = threads()
    for _ in range(5):
        link = open_slirp()
        mac = introduce(link)
        ping = ethernet(mac, 0x0800, ipv4(GUEST, HOST, 1, echo_request(b"x" * 1400)))
        # Until slirp's thread sleeps in write(2) for want of a reader.
        while link.send_batch([ping] * 100) == 100:
            pass
        link.close()
        assert threads() == before


@needs_slirp
def test_slirps_thread_takes_no_signals() -> None:
    before = threads()
    with open_slirp():
        [thread] = threads() - before
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            assert blocked >> (number - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@needs_slirp
def test_a_tcp_forward_brings_a_connection_to_the_guest() -> None:
    with open_slirp(f"/tcpfwd=127.0.0.1:0:{GUEST}:80") as link:
        [forward] = link.forwards
        assert forward.port > 0
        assert str(forward) in repr(link)
        introduce(link)
        with socket.create_connection((forward.host, forward.port), timeout=PATIENCE):
            syn = receive_that(link, lambda f: f[23:24] == b"\x06" and bool(f[47] & 2))
            assert syn[30:34] == socket.inet_aton(GUEST)
            assert struct.unpack("!H", syn[36:38]) == (80,)


@needs_slirp
def test_a_tcp_forwards_backlog_is_raised() -> None:
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with open_slirp(f"/tcpfwd=127.0.0.1:0:{GUEST}:80") as link:
        for name in descriptors():
            try:
                sock = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            with sock:
                if sock.family == socket.AF_INET and sock.getsockname()[1] == link.forwards[0].port:
                    # Of a listener, TCP_INFO's tcpi_sacked is the backlog (net/ipv4/tcp.c).
                    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                    assert struct.unpack_from("=I", info, 28) == (min(BACKLOG, most),)
                    return
    pytest.fail("no descriptor of this process listens there")


@needs_slirp
def test_a_udp_forward_goes_there_and_back() -> None:
    with open_slirp(f"/udpfwd=127.0.0.1:0:{GUEST}:53") as link:
        mac = introduce(link)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect((link.forwards[0].host, link.forwards[0].port))
            client.send(b"question")
            asked = receive_that(link, lambda f: f[23:24] == b"\x11" and f[42:] == b"question")
            port = struct.unpack("!H", asked[34:36])[0]
            peer = socket.inet_ntoa(asked[26:30])
            send_all(link, [ethernet(mac, 0x0800, udp(GUEST, 53, peer, port, b"answer"))])
            assert client.recv(100) == b"answer"


@needs_slirp
@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize(
    ("kind", "option"), [(socket.SOCK_STREAM, "tcpfwd"), (socket.SOCK_DGRAM, "udpfwd")]
)
def test_a_host_port_in_use_is_eaddrinuse(kind: socket.SocketKind, option: str) -> None:
    before = threads()
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot forward 127.0.0.1:{port}:") as caught:
            open_slirp(f"/{option}=127.0.0.1:{port}:{GUEST}:80")
        assert caught.value.errno == errno.EADDRINUSE
    assert threads() == before


@needs_slirp
def test_an_address_that_is_not_the_hosts_is_eaddrnotavail() -> None:
    with pytest.raises(OSError, match="cannot forward") as caught:
        open_slirp(f"/tcpfwd=203.0.113.1:0:{GUEST}:80")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("/tcpfwd=zz", "1 fields instead of 3 or 4"),
        ("/tcpfwd", "the form is"),
        ("/tcpfwd=8080", "the form is"),
        ("/tcpfwd=127.0.0.1:8080:10.0.2.15", "the form is"),
        ("/tcpfwd=8080:10.0.2.15:80,", "the form is"),
        ("/tcpfwd=127.0.0.1:99999:10.0.2.15:80", "port '99999'"),
        ("/udpfwd=127.0.0.1:53:10.0.2.15:0", "port '0'"),
        ("/udpfwd=localhost:53:10.0.2.15:53", "localhost"),
        ("/udpfwd=[::1]:53:10.0.2.15:53", "the form is"),
        ("/bogus=1", "no option 'bogus'"),
        ("/tcp=8080:10.0.2.15:80", "no option 'tcp'"),
        ("bogus", "follow a slash"),
        ("/addr=zz", "addr=zz"),
        ("/addr=10.0.2.2/99", "addr=10.0.2.2/99"),
        ("/addr6=10.0.2.2", "addr6"),
        ("/addr", "expected an address"),
        ("/dhcp=10.0.2.15/24", "no option '24'"),
        ("/mtu=big", "mtu=big"),
        ("/mtu=65535", "68 to 9000"),
        ("/cmdfwd=7", "expected"),
    ],
)
def test_a_malformed_option_is_named_before_slirp_sees_it(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"slirp://.*") as caught:
        open_slirp(options)
    assert message in str(caught.value)


ports = st.integers(1, 65535)
forwards = st.builds(
    Forward,
    st.sampled_from(["tcp", "udp"]),
    st.ip_addresses(v=4).map(str),
    ports,
    st.ip_addresses(v=4).map(str),
    ports,
)


@given(
    forwards=st.lists(forwards, max_size=4),
    options=st.dictionaries(
        st.sampled_from(["hostname", "tftp_path", "bootfile", "vdomainname"]),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
    ),
)
def test_a_locator_is_the_same_after_quoting(
    forwards: list[Forward], options: dict[str, str | None]
) -> None:
    made = parse("slirp://")._replace(
        options=options, forwards=tuple(sorted(forwards, key=lambda f: f.protocol))
    )
    assert parse(made.vnl()) == made


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_parsed_or_a_value_error(text: str) -> None:
    try:
        address = parse("slirp:///" + text)
    except ValueError:
        return
    assert parse(address.vnl()).forwards == address.forwards


@needs_slirp
def test_the_native_port_reads_and_writes_frames(link: VdeLink) -> None:
    port = link.native
    assert port is not None
    assert port.batch == 64
    call = ctypes.CFUNCTYPE(
        ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    )
    frame = arp(1, GUEST, HOST)
    assert call(port.send)(port.context, frame, len(frame), 0) == len(frame)
    answer = receive_that(link, is_arp(2, HOST))
    assert call(port.send)(port.context, frame, len(frame), 0) == len(frame)
    buffer = ctypes.create_string_buffer(2000)
    recv = ctypes.CFUNCTYPE(
        ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    )(port.recv)
    while (length := recv(port.context, ctypes.addressof(buffer), 2000, 0)) < 0:
        pass
    assert buffer.raw[:length] == answer


@needs_slirp
def test_a_child_that_closes_its_copy_leaves_the_parents_link_alone(link: VdeLink) -> None:
    introduce(link)
    close_in_a_child(link)
    assert introduce(link)
    assert link.send_batch(numbered(1)) == 1


@needs_slirp
def test_complaints_of_libslirp_go_to_logging(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "vpoll_asyncio.slirp")
    with open_link("slirp://"):
        critical = 1 << 3
        ctypes.CDLL("libglib-2.0.so.0").g_log(b"Slirp", critical, b"%s", b"Failed to send packet")
    assert caplog.messages == ["Failed to send packet"]
    assert capfd.readouterr().err == ""
