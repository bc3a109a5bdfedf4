"""FdLink: descriptors that keep packet bounds."""

from __future__ import annotations

import errno
import gc
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from link_helpers import is_ready, numbered, receive, send_all, wait_link
from vpoll_asyncio import EventMask
from vpoll_asyncio.links import FdLink, NativePort

KINDS = [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
Pair = tuple[FdLink, FdLink]


def make_pair(kind: int, **options: object) -> Pair:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    return FdLink(one, **options), FdLink(other, **options)  # type: ignore[arg-type]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    one, other = make_pair(request.param)
    with one, other:
        yield one, other


def test_frames_arrive_whole_and_in_order(pair: Pair) -> None:
    frames = numbered(50)
    assert pair[0].send_batch(frames) == 50
    assert receive(pair[1], 50) == frames


@given(
    frames=st.lists(st.binary(max_size=90), max_size=20),
    kind=st.sampled_from(KINDS),
    medium=st.sampled_from(["ethernet", "ip"]),
)
def test_what_the_medium_cannot_carry_is_dropped_and_counted(
    frames: list[bytes], kind: socket.SocketKind, medium: str
) -> None:
    low, high = (14, 68 + 18) if medium == "ethernet" else (1, 68)
    one, other = make_pair(kind, medium=medium, mtu=68)
    with one, other:
        carried = [f for f in frames if low <= len(f) <= high]
        assert one.send_batch(frames) == len(frames)
        assert other.recv_batch(limit=100) == carried
        assert one.dropped == len(frames) - len(carried)


def test_a_longer_frame_from_the_peer_is_dropped_and_counted(pair: Pair) -> None:
    os.write(pair[0].pollable, b"x" * 1519)
    os.write(pair[0].pollable, b"y" * 1518)
    assert receive(pair[1], 1) == [b"y" * 1518]
    assert pair[1].dropped == 1


def test_an_empty_datagram_is_no_end_and_no_frame() -> None:
    one, other = make_pair(socket.SOCK_DGRAM)
    with one, other:
        os.write(one.pollable, b"")
        one.send_batch(numbered(1))
        assert receive(other, 1) == numbered(1)
        assert other.dropped == 1


def test_recv_batch_keeps_its_limit(pair: Pair) -> None:
    frames = numbered(5)
    pair[0].send_batch(frames)
    assert pair[1].recv_batch(limit=2) == frames[:2]
    assert pair[1].recv_batch(limit=64) == frames[2:]
    assert pair[1].recv_batch() == []


def test_a_full_link_takes_fewer_and_loses_none(pair: Pair) -> None:
    frames = numbered(5000, size=1000)
    taken = pair[0].send_batch(frames)
    assert 0 < taken < len(frames)
    assert not is_ready(pair[0], EventMask.OUT)
    assert receive(pair[1], taken) == frames[:taken]
    wait_link(pair[0], EventMask.OUT)
    assert pair[0].send_batch(frames[taken : taken + 1]) == 1
    assert pair[0].dropped == 0


def test_frames_that_came_before_the_peers_end_are_delivered_first() -> None:
    one, other = make_pair(socket.SOCK_SEQPACKET)
    with other:
        with one:
            one.send_batch(numbered(3))
        assert receive(other, 3) == numbered(3)
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="has gone"):
                other.recv_batch()


def test_sending_to_a_peer_that_is_gone_raises(pair: Pair) -> None:
    pair[1].close()
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="has gone"):
            pair[0].send_batch(numbered(1))


def test_the_end_that_only_a_native_write_met_is_noticed(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(OSError):
        os.write(pair[0].pollable, numbered(1)[0])
    with pytest.raises(ConnectionResetError, match="has gone"):
        pair[0].recv_batch()


def test_nobody_listening_over_udp_costs_frames_only() -> None:
    unused = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unused.bind(("127.0.0.1", 0))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(unused.getsockname())
    unused.close()
    with FdLink(sock) as link:
        assert link.send_batch(numbered(1)) == 1
        wait_link(link, EventMask.ERR)
        assert link.send_batch(numbered(2)) == 2
        assert link.recv_batch() == []
        assert link.dropped >= 1


@pytest.mark.parametrize("as_number", [False, True])
def test_a_byte_stream_is_refused_and_stays_the_callers(as_number: bool) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        with pytest.raises(ValueError, match="does not keep packet bounds"):
            FdLink(one.fileno() if as_number else one)
        other.send(b"x")
        assert one.recv(1) == b"x"


def test_a_pipe_is_refused() -> None:
    one, other = os.pipe()
    try:
        with pytest.raises(ValueError, match="neither a socket nor a TAP"):
            FdLink(one)
    finally:
        os.close(one)
        os.close(other)


def test_a_number_that_is_not_open_is_ebadf() -> None:
    one, other = os.pipe()
    os.close(one)
    os.close(other)
    with pytest.raises(OSError) as caught:
        FdLink(other)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"medium": "token-ring"}, "expected one of ethernet, ip"),
        ({"mtu": 67}, "expected 68 to 65535"),
        ({"mtu": 65536}, "expected 68 to 65535"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        with pytest.raises(ValueError, match=message):
            FdLink(one, **options)  # type: ignore[arg-type]
        assert one.fileno() >= 0


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("as_number", [False, True])
def test_close_gives_the_descriptor_back_once(as_number: bool) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other:
        link = FdLink(one.detach() if as_number else one)
        number = link.pollable
        link.close()
        link.close()
        assert link.closed
        with pytest.raises(OSError):
            os.fstat(number)


@pytest.mark.parametrize("as_number", [False, True])
def test_closefd_false_leaves_the_descriptor_open(as_number: bool) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    number = one.fileno()
    with other:
        FdLink(number if as_number else one, closefd=False).close()
        assert other.send(b"x") == 1
        assert os.read(number, 10) == b"x"
        os.close(number)
        one.detach()


def test_a_closed_link_says_ebadf(pair: Pair) -> None:
    link = pair[0]
    link.close()
    for use in (lambda: link.pollable, link.recv_batch, lambda: link.send_batch([])):
        with pytest.raises(OSError, match="is closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert link.native is None


def test_the_native_port_is_the_descriptor(pair: Pair) -> None:
    assert pair[0].native == NativePort(pair[0].pollable, 0, 0, 0, 64)
    assert not os.get_blocking(pair[0].pollable)


def test_one_that_is_collected_open_warns_and_closes() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        held: list[object] = [FdLink(one.detach())]
        held.append(held)
        del held
        with pytest.warns(ResourceWarning, match="unclosed <FdLink"):
            gc.collect()
        assert other.recv(10) == b""


def test_flow_control_carries_everything_through_a_small_queue(pair: Pair) -> None:
    frames = numbered(3000, size=1200)
    got: list[bytes] = []
    rest = frames
    while len(got) < len(frames):
        rest = rest[pair[0].send_batch(rest) :]
        got += pair[1].recv_batch()
    assert got == frames
    assert send_all(pair[0], numbered(1)) == 0
