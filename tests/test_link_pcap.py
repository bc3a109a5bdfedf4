"""The capture of what passes through a link: what Wireshark reads, and what never happens.

What never happens is that a capture holds up, breaks or ends the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import io
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vpoll_asyncio as va
from link_helpers import (
    PATIENCE,
    close_in_a_child,
    echo_request,
    ethernet,
    ipv4,
    numbered,
    packets,
    receive,
    send_all,
    udp,
)
from pcap_helpers import ended, frames_of, read_pcap, tshark
from vpoll_asyncio.links import PcapLink, WireLink, open_link, wire_hub, wire_pair
from vpoll_asyncio.links.pcapfile import File
from vpoll_asyncio.stacks.host import host_stack

LOG = "vpoll_asyncio.links.pcapfile"


@contextlib.contextmanager
def tee(file: File, **options: int) -> Iterator[tuple[PcapLink, WireLink]]:
    """A recorded end of a cable, and the other end."""
    near, far = wire_pair()
    with far, PcapLink(near, file, **options) as link:
        yield link, far


def test_both_directions_are_recorded_in_the_order_in_which_they_passed() -> None:
    file = io.BytesIO()
    frames = numbered(6)
    before = time.time_ns()
    with tee(file) as (link, far):
        link.send_batch(frames[:2])
        far.send_batch(frames[2:4])
        assert link.recv_batch() == frames[2:4]
        link.send_batch(frames[4:])
    linktype, records = read_pcap(file.getvalue())
    assert linktype == 1
    assert [record.frame for record in records] == frames
    times = [record.time_ns for record in records]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()


@pytest.mark.needs("tshark")
def test_wireshark_reads_an_ethernet_capture(tmp_path: Path) -> None:
    with tee(tmp_path / "net.pcap") as (link, far):
        ping = ethernet(b"\xff" * 6, 0x0800, ipv4("10.0.0.1", "10.0.0.2", 1, echo_request(b"hi")))
        link.send_batch([ping])
        far.send_batch([ethernet(b"\xff" * 6, 0x0800, udp("10.0.0.2", 7, "10.0.0.1", 9, b"there"))])
        link.recv_batch()
    fields = "eth.src", "ip.src", "ip.dst", "icmp.type", "udp.dstport", "udp.payload"
    assert tshark(tmp_path / "net.pcap", *fields) == [
        ("02:00:00:00:00:01", "10.0.0.1", "10.0.0.2", "8", "", ""),
        ("02:00:00:00:00:01", "10.0.0.2", "10.0.0.1", "", "9", b"there".hex()),
    ]


@pytest.mark.needs("tshark")
def test_wireshark_reads_a_capture_of_bare_packets(tmp_path: Path) -> None:
    near, far = wire_pair(medium="ip")
    with far, PcapLink(near, str(tmp_path / "net.pcap")) as link:
        assert link.medium == "ip"
        link.send_batch([udp("10.0.0.2", 7, "10.0.0.1", 9, b"there"), *packets(1, version=6)])
    found = tshark(tmp_path / "net.pcap", "frame.protocols", "ip.dst", "ipv6.version")
    assert found[0] == ("raw:ip:udp:echo", "10.0.0.1", "")
    assert found[1][2] == "6"


@pytest.mark.needs("tshark", "lwip", "slirp")
@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
def test_wireshark_finds_every_segment_of_a_transfer_in_its_place(
    loop: str, tmp_path: Path
) -> None:
    sent = os.urandom(100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(sent)) == sent
        writer.write(sent)
        writer.close()

    async def main() -> None:
        with host_stack().activate():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(60), server:
            reader, writer = await asyncio.open_connection("10.0.2.2", port)
            writer.write(sent)
            assert await reader.read() == sent
            writer.close()
            await writer.wait_closed()

    capture = tmp_path / "tcp.pcap"
    config = f"stack=lwip,vnl=pcap://{capture}{{slirp://}},ip=10.0.2.15/24,gw=10.0.2.2"
    with va.open_stack(config) as stack:
        va.run(main(), loop=loop, stack=stack)
    segments = tshark(capture, "ip.src", "tcp.len", only="tcp")
    for host in ("10.0.2.15", "10.0.2.2"):
        assert sum(int(length) for source, length in segments if source == host) >= len(sent)
    # One that were missing, or recorded out of its order, would be among these.
    assert tshark(capture, "frame.number", only="tcp.analysis.ack_lost_segment") == []
    assert tshark(capture, "frame.number", only="tcp.analysis.lost_segment") == []


def test_what_the_inner_link_refuses_is_not_recorded_as_sent() -> None:
    file = io.BytesIO()
    near, far = wire_pair(queue=4)
    with far, PcapLink(near, file) as link:
        assert link.send_batch(numbered(10)) == 4
        assert link.send_batch(numbered(10)) == 0
        assert frames_of(file.getvalue()) == numbered(4)
        far.recv_batch()
        assert link.send_batch([b"x" * 9000, *numbered(1)]) == 2
        assert link.dropped == 1
    assert frames_of(file.getvalue()) == [*numbered(4), *numbered(1)]


def test_of_long_frames_the_beginning_is_kept() -> None:
    file = io.BytesIO()
    with tee(file, snaplen=40) as (link, _):
        link.send_batch(numbered(1, size=1000))
    [record] = read_pcap(file.getvalue())[1]
    assert (record.length, record.frame) == (1000, numbered(1, size=1000)[0][:40])


class Counting(io.BytesIO):
    """Counts what would be system calls."""

    writes = 0

    def write(self, data: object) -> int:
        self.writes += 1
        return super().write(data)  # type: ignore[arg-type]


def test_a_batch_is_one_write_and_is_there_at_once() -> None:
    file = Counting()
    with tee(file) as (link, far):
        header = file.writes
        far.send_batch(numbered(50))
        link.recv_batch()
        link.send_batch(numbered(50))
        assert file.writes == header + 2
        assert len(frames_of(file.getvalue())) == 100
        link.recv_batch()
        assert file.writes == header + 2


def test_a_file_object_stays_open_and_is_written_through(tmp_path: Path) -> None:
    with (tmp_path / "a.pcap.gz").open("wb") as raw:
        with gzip.open(raw, "wb") as file, tee(file) as (link, _):
            link.send_batch(numbered(3))
    assert frames_of(gzip.decompress((tmp_path / "a.pcap.gz").read_bytes())) == numbered(3)
    with (tmp_path / "b.pcap").open("wb") as plain:
        plain.write(b"")
        with tee(plain) as (link, _):
            link.send_batch(numbered(3))
            assert frames_of((tmp_path / "b.pcap").read_bytes()) == numbered(3)
        plain.write(b"")


@pytest.mark.usefixtures("no_fd_leak")
def test_a_descriptor_stays_the_callers() -> None:
    reader, writer = os.pipe()
    with tee(writer) as (link, _):
        link.send_batch(numbered(3))
    os.close(writer)
    with open(reader, "rb") as stream:
        assert frames_of(stream.read()) == numbered(3)


def open_fifo(tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path, os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def open_pipe(tmp_path: Path) -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return writer, reader


def open_socket(tmp_path: Path) -> tuple[int, int]:
    ours, reader = socket.socketpair()
    reader.setblocking(False)
    return ours.detach(), reader.detach()


READERS = pytest.mark.parametrize("opened", [open_fifo, open_pipe, open_socket])
Opened = Callable[[Path], tuple[File, int]]


def drain(fd: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(fd, 1 << 20):
            data += piece
    return data


@READERS
@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "default"])
@pytest.mark.usefixtures("no_fd_leak")
def test_a_reader_that_goes_ends_the_capture_and_nothing_else(
    opened: Opened,
    handler: signal.Handlers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, reader = opened(tmp_path)
    before = signal.signal(signal.SIGPIPE, handler)
    try:
        with tee(file) as (link, far), caplog.at_level(logging.WARNING, LOG):
            link.send_batch(numbered(1))
            assert ended(link) is None
            os.close(reader)
            for _ in range(3):
                send_all(link, numbered(5))
                assert receive(far, 5)[-5:]
                send_all(far, numbered(5))
                assert len(receive(link, 5)) == 5
            assert ended(link) == errno.EPIPE
    finally:
        signal.signal(signal.SIGPIPE, before)
        if isinstance(file, int):
            os.close(file)
    assert len(caplog.records) == 1
    assert "has ended" in caplog.text


@READERS
def test_a_reader_that_is_slow_misses_whole_frames_and_holds_nobody_up(
    opened: Opened, tmp_path: Path
) -> None:
    file, reader = opened(tmp_path)
    data = b""
    sent = 0
    with tee(file) as (link, far):
        while not link.missed:
            sent += link.send_batch(numbered(50, size=1000))
            far.recv_batch(1000)
        data += drain(reader)
        # What waits is written with the next batch.
        while not data.endswith(numbered(60)[-1]):
            link.send_batch(numbered(60)[-1:])
            sent += 1
            data += drain(reader)
        assert link.error is None
        missed = link.missed
    if isinstance(file, int):
        os.close(file)
    got = frames_of(data + drain(reader))
    os.close(reader)
    assert len(got) + missed == sent
    assert 0 < missed < sent


def test_the_callers_descriptor_stays_blocking_for_others() -> None:
    reader, writer = os.pipe()
    with tee(writer) as (link, _):
        link.send_batch(numbered(1))
        assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


def test_a_fifo_without_a_reader_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    near, far = wire_pair()
    with near, far:
        with pytest.raises(OSError, match="no program has opened it for reading") as caught:
            PcapLink(near, tmp_path / "fifo")
        assert caught.value.errno == errno.ENXIO
        # Whoever gave the link has it still.
        assert not near.closed


def test_a_full_disk_is_told_at_once_or_ends_the_capture(caplog: pytest.LogCaptureFixture) -> None:
    near, far = wire_pair()
    with near, far, pytest.raises(OSError) as caught:
        PcapLink(near, "/dev/full")
    assert caught.value.errno == errno.ENOSPC

    class Filling(io.BytesIO):
        def write(self, data: object) -> int:
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)  # type: ignore[arg-type]

    with tee(Filling()) as (link, far):
        for _ in range(3):
            send_all(link, numbered(20))
            assert len(receive(far, 20)) == 20
        assert ended(link) == errno.ENOSPC
    assert caplog.text.count("has ended") == 1


def test_a_file_object_that_is_closed_ends_the_capture() -> None:
    file = io.BytesIO()
    with tee(file) as (link, _):
        file.close()
        assert link.send_batch(numbered(1)) == 1
        assert link.error is not None
        assert "closed" in (link.error.strerror or "")


@pytest.mark.parametrize(
    ("file", "error"), [(io.StringIO(), TypeError), (object(), TypeError), (-1, OSError)]
)
def test_what_is_no_binary_file_is_refused(file: Any, error: type[Exception]) -> None:
    near, far = wire_pair()
    with near, far, pytest.raises(error):
        PcapLink(near, file)


def test_a_bad_snaplen_is_a_value_error() -> None:
    near, far = wire_pair()
    with near, far, pytest.raises(ValueError, match="snaplen 0"):
        PcapLink(near, io.BytesIO(), snaplen=0)


def test_it_is_the_inner_link_in_all_but_the_recording() -> None:
    near, far = wire_pair(mtu=9000)
    link = PcapLink(near, io.BytesIO())
    with far:
        assert (link.mtu, link.medium, link.address) == (9000, "ethernet", None)
        assert link.pollable is near.pollable
        assert link.native is None
        assert link.inner is near
        link.close()
        link.close()
        assert link.closed
        assert near.closed
        for use in (link.recv_batch, lambda: link.send_batch([]), lambda: link.pollable):
            with pytest.raises(OSError, match="closed") as caught:
                use()
            assert caught.value.errno == errno.EBADF


def test_a_child_that_closes_its_copy_writes_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with tee(writer) as (link, far):
        while not link.missed:
            link.send_batch(numbered(50, size=1000))
            far.recv_batch(1000)
        os.set_blocking(reader, False)
        data = drain(reader)
        close_in_a_child(link)
        assert not select.select([reader], [], [], 0)[0]
    os.close(writer)
    data += drain(reader)
    os.close(reader)
    assert data.startswith(b"\x4d\x3c\xb2\xa1")


def test_pcap_nests_in_a_locator(tmp_path: Path) -> None:
    path = tmp_path / "x,y {1}.pcap"
    quoted = str(path).replace("{", r"\{").replace("}", r"\}")
    with (
        wire_hub("nested").open() as far,
        open_link(f"pcap://{quoted}[snaplen=60]{{wire://nested}}") as link,
    ):
        assert isinstance(link, PcapLink)
        send_all(link, numbered(2))
        assert receive(far, 2) == numbered(2)
    assert frames_of(path.read_bytes()) == [frame[:60] for frame in numbered(2)]


def test_captures_nest_in_each_other(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with open_link(f"pcap://{a}{{pcap://{b}{{wire://deep}}}}") as link:
        send_all(link, numbered(2))
    assert frames_of(a.read_bytes()) == frames_of(b.read_bytes()) == numbered(2)


@pytest.mark.parametrize(
    ("vnl", "message"),
    [
        ("pcap://{wire://a}", "needs a file"),
        ("pcap:///x{}", "in braces at the end"),
        ("pcap:///x{wire://a", "in braces at the end"),
        ("pcap:///x{wire://a}y", "in braces at the end"),
        ("pcap:///x[snaplen=1{wire://a}", "in brackets at the end"),
        ("pcap:///x[snaplen]{wire://a}", "expected NAME=VALUE"),
        ("pcap:///x[snaplen=many]{wire://a}", "snaplen=BYTES"),
        ("pcap:///x[colour=red]{wire://a}", "snaplen=BYTES"),
        ("pcap:///x{bogus://a}", "no link serves bogus"),
        ("pcap:///x{wire://}", "needs a name"),
    ],
)
def test_a_malformed_locator_is_a_value_error(vnl: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_link(vnl)


@pytest.mark.usefixtures("no_fd_leak")
def test_where_the_file_cannot_be_opened_the_inner_link_is_closed(tmp_path: Path) -> None:
    hub = wire_hub("kept")
    with pytest.raises(FileNotFoundError, match="cannot capture to"):
        open_link(f"pcap://{tmp_path}/none/x{{wire://kept}}")
    assert len(hub) == 0


@pytest.mark.needs("tshark")
@pytest.mark.usefixtures("no_fd_leak")
def test_tshark_follows_a_capture_through_a_pipe() -> None:
    with subprocess.Popen(
        ["tshark", "-n", "-l", "-i", "-", "-T", "fields", "-e", "frame.len"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            with running.stdin, tee(running.stdin) as (link, _):
                link.send_batch(numbered(1, size=77))
                # It is there while the capture goes on.
                assert select.select([running.stdout], [], [], PATIENCE)[0]
                assert running.stdout.readline() == b"77\n"
                link.send_batch(numbered(1, size=99))
            assert running.stdout.readline() == b"99\n"
        finally:
            running.kill()
