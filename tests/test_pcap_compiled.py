"""The capture of what compiled stacks send and receive: Python has no part in it."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from link_helpers import (
    numbered,
    receive,
)
from pcap_helpers import ended, read_pcap
from vpoll_asyncio.links import FdLink, Link, PcapLink, open_link

# Compiled stacks.


def functions_of(link: Link) -> tuple[Callable[[], bytes | int], Callable[[bytes], int]]:
    """Receive and send as compiled code does; a number is what C returned, or minus errno."""
    port = link.native
    assert port is not None
    types = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    function = ctypes.CFUNCTYPE(ctypes.c_ssize_t, *types, use_errno=True)
    recv: Any = function(port.recv)
    send: Any = function(port.send)
    context = port.context

    def receive_one() -> bytes | int:
        buffer = ctypes.create_string_buffer(2000)
        length = recv(context, buffer, 2000, 0)
        return buffer.raw[:length] if length > 0 else -ctypes.get_errno()

    def send_one(frame: bytes) -> int:
        length: int = send(context, frame, len(frame), 0)
        return length if length >= 0 else -ctypes.get_errno()

    return receive_one, send_one


def socketpair() -> tuple[Link, Link]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return FdLink(one), FdLink(other)


def vde_pair() -> tuple[Link, Link]:
    vnl = "seqpacket://{}"
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return open_link(vnl.format(one.detach())), open_link(vnl.format(other.detach()))


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    "pair", [socketpair, pytest.param(vde_pair, marks=pytest.mark.needs("vde"))]
)
@pytest.mark.usefixtures("no_fd_leak")
def test_compiled_code_is_recorded_without_python(
    pair: Callable[[], tuple[Link, Link]], tmp_path: Path
) -> None:
    near, far = pair()
    frames = numbered(7, size=1000)
    with far, PcapLink(near, tmp_path / "net.pcap", snaplen=500) as link:
        receive_one, send_one = functions_of(link)
        assert receive_one() == -errno.EAGAIN
        assert send_one(frames[0]) == len(frames[0])
        far.send_batch(frames[1:3])
        assert receive_one() == frames[1]
        # Both ways share the file.
        assert link.recv_batch() == frames[2:3]
        link.send_batch(frames[3:4])
        assert send_one(frames[4]) == len(frames[4])
        assert receive(far, 3) == [frames[0], frames[3], frames[4]]
        while send_one(frames[5]) > 0:
            pass
        assert send_one(frames[6]) == -errno.EAGAIN
    linktype, records = read_pcap((tmp_path / "net.pcap").read_bytes())
    assert linktype == 1
    assert {record.length for record in records} == {1000}
    kept = [frame[:500] for frame in frames]
    assert [record.frame for record in records][:5] == kept[:5]
    # What the kernel had no room for was not sent.
    assert kept[6] not in [record.frame for record in records]
    times = [record.time_ns for record in records]
    assert times == sorted(times)


@pytest.mark.needs("cc")
def test_a_file_that_may_not_grow_ends_the_capture_of_compiled_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = socketpair()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with far, PcapLink(near, tmp_path / "net.pcap") as link:
            _, send_one = functions_of(link)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
            for frame in numbered(3, size=1000):
                assert send_one(frame) == len(frame)
            assert len(receive(far, 3)) == 3
            assert ended(link) in (errno.EFBIG, errno.ENOSPC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("has ended") == 1


def test_a_pipe_is_written_by_python_alone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    near, far = socketpair()
    with far, PcapLink(near, writer) as link:
        assert link.native is None
    os.close(reader)
    os.close(writer)
