"""What ``vpoll-asyncio run`` records: frames with --pcap, event masks with --trace."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import pytest

from run_helpers import python, run
from vpoll_asyncio.program import stacks

ECHO = """
import socket, threading
server = socket.create_server(("10.0.0.1", 7))
client = socket.create_connection(("10.0.0.1", 7))
accepted, _ = server.accept()
client.send(b"hello")
print(accepted.recv(100).decode())
for sock in (client, accepted, server):
    sock.close()
"""

LWIP = "stack=lwip,vnl=wire://run,ip=10.0.0.1/24"


@pytest.mark.parametrize(
    "stack", ["stack=memory,ip=10.0.0.1/24", pytest.param(LWIP, marks=pytest.mark.needs("lwip"))]
)
def test_a_trace_has_a_line_for_every_change_of_a_mask(tmp_path: Path, stack: str) -> None:
    trace = tmp_path / "masks.json"
    assert run("--trace", str(trace), "-c", ECHO, stack=stack) == (0, "hello\n", "")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    sockets = {line["socket"] for line in lines}
    assert sockets == {1, 2, 3}
    for number in sockets:
        masks = [line for line in lines if line["socket"] == number]
        assert masks[0]["old"] == []
        # Each change begins with what the one before has left.
        for before, after in itertools.pairwise(masks):
            assert after["old"] == before["new"]
            assert after["time"] >= before["time"]
    assert any("IN" in line["new"] and "RDNORM" in line["new"] for line in lines)
    assert "MainThread" in {line["thread"] for line in lines}


def test_a_trace_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    status, out, err = run("--trace", str(tmp_path), "-c", "print(1)")
    assert (status, out) == (1, "")
    assert err.startswith("vpoll-asyncio: ")


def test_a_trace_that_cannot_be_written_does_not_stop_the_program() -> None:
    status, out, err = run("--trace", "/dev/full", "-c", ECHO)
    assert (status, out) == (0, "hello\n")
    assert err.count("the trace of event masks has ended") == 1


@pytest.mark.needs("lwip")
def test_a_capture_has_the_frames_of_the_first_stacks_link(tmp_path: Path) -> None:
    capture = tmp_path / "link.pcap"
    program = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
        "s.sendto(b'x', ('10.0.0.9', 9)); s.close()"
    )
    assert run("--pcap", str(capture), "-c", program, stack=LWIP) == (0, "", "")
    data = capture.read_bytes()
    assert data[:4] == (0xA1B23C4D).to_bytes(4, "little")
    # lwIP asks for the hardware address of 10.0.0.9.
    assert bytes.fromhex("08060001080006040001") in data
    assert bytes([10, 0, 0, 9]) in data


@pytest.mark.needs("lwip")
def test_whoever_is_to_read_a_fifo_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "live"
    os.mkfifo(capture)
    readers: list[int] = []

    def time_passes(seconds: float) -> None:
        readers.append(os.open(capture, os.O_RDONLY | os.O_NONBLOCK))

    monkeypatch.setattr(time, "sleep", time_passes)
    try:
        with stacks.stacks_opened([LWIP], str(capture)):
            assert len(readers) == 1
            assert os.read(readers[0], 4) == (0xA1B23C4D).to_bytes(4, "little")
    finally:
        for reader in readers:
            os.close(reader)


@pytest.mark.needs("lwip")
def test_a_fifo_that_nobody_reads_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "live"
    os.mkfifo(capture)
    monkeypatch.setattr(stacks, "_READER_COMES", 0.1)
    with (
        pytest.raises(OSError, match="no program has opened it for reading"),
        stacks.stacks_opened([LWIP], str(capture)),
    ):
        pass


@pytest.mark.parametrize("stack", ["stack=memory,vnl=mem://x,ip=10.0.0.1/24", "host"])
def test_a_stack_without_a_link_has_no_frames_to_record(tmp_path: Path, stack: str) -> None:
    capture = tmp_path / "link.pcap"
    status, out, err = run("--pcap", str(capture), "-c", "print(1)", stack=stack)
    assert (status, out) == (2, "")
    assert "has no link" in err
    assert not capture.exists()


def test_help_names_what_can_be_recorded() -> None:
    status, out, _ = python("-m", "vpoll_asyncio", "run", "--help")
    assert status == 0
    assert "--pcap FILE" in out
    assert "--trace FILE" in out
