"""Two lwIP hosts in two processes, joined by packet links over a socketpair."""

from __future__ import annotations

import contextlib
import socket

import pytest

from processes import Program

SIZE = 100_000_000

pytestmark = pytest.mark.needs("lwip")


@pytest.mark.parametrize(
    ("loop", "server", "client"),
    [
        pytest.param("asyncio", "10.2.0.2", "10.2.0.1", id="asyncio-IPv4"),
        pytest.param(
            "uvloop", "fd00::2", "fd00::1", id="uvloop-IPv6", marks=pytest.mark.needs("uvloop")
        ),
    ],
)
def test_a_hundred_megabytes_each_way_arrive_intact(loop: str, server: str, client: str) -> None:
    with contextlib.ExitStack() as opened:
        ends = [opened.enter_context(end) for end in socket.socketpair(type=socket.SOCK_SEQPACKET)]
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

        def host(end: socket.socket, own: str, peer: str) -> Program:
            arguments = (loop, str(end.fileno()), own, peer, str(SIZE))
            fds = (end.fileno(),)
            return opened.enter_context(Program("packet_host.py", *arguments, pass_fds=fds))

        hosts = [host(ends[0], server, client)]
        hosts[0].wait_for("listening")
        hosts.append(host(ends[1], client, server))
        sent = [program.wait_for("sent ").split()[1] for program in hosts]
        received = [program.wait_for("received ").split()[1:] for program in hosts]
        assert received == [[str(SIZE), sent[1]], [str(SIZE), sent[0]]]
        for program in hosts:
            program.wait_for("exchanged")
        for program in hosts:
            program.say("bye")
        for program in hosts:
            program.wait_for("done")
            assert program.wait() == (0, "")
