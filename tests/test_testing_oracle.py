"""The oracle: the same calls on a stack and on the kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from lwip_helpers import HOST4, lwip_on_wire
from vpoll_asyncio import EventMask
from vpoll_asyncio.sockets import UserSocket
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.host import host_stack
from vpoll_asyncio.testing import (
    DATAGRAM_CALLS,
    STREAM_CALLS,
    Hosts,
    Lab,
    Mismatch,
    Oracle,
    SocketStep,
    compare,
    socket_programs,
    wakeups,
)
from vpoll_asyncio.testing.stack_suite import R, mask_of, oracle


@pytest.fixture(scope="module")
def memory() -> Iterator[Hosts]:
    with (
        open_stack("memory", vnl="mem://oracle", ip="10.0.0.1/24") as server,
        open_stack("memory", vnl="mem://oracle", ip="10.0.0.2/24") as client,
    ):
        yield Hosts(server, client, "10.0.0.1", "10.0.0.2")


@pytest.fixture(scope="module")
def host() -> Hosts:
    kernel = host_stack()
    return Hosts(kernel, kernel, "127.0.0.1", "127.0.0.1")


@pytest.fixture(params=["memory", "host"])
def hosts(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("calls", [STREAM_CALLS, DATAGRAM_CALLS], ids=["streams", "datagrams"])
def test_random_programs_agree(hosts: Hosts, calls: tuple[str, ...]) -> None:
    @settings(max_examples=40, deadline=None)
    @given(socket_programs(calls))
    def agree(program: list[SocketStep]) -> None:
        compare(hosts, program)

    agree()


@pytest.mark.needs("lwip")
def test_random_programs_agree_on_another_stack() -> None:
    calls = [call for call in STREAM_CALLS if "urgent" not in call]
    with lwip_on_wire() as peer:
        hosts = Hosts(peer.stack, peer.stack, HOST4, HOST4, peer.drive, peer.stack.skip_time)

        @settings(max_examples=30, deadline=None)
        @given(socket_programs(calls))
        def agree(program: list[SocketStep]) -> None:
            compare(hosts, program)

        agree()


@pytest.mark.parametrize(
    ("first", "call"),
    [("listener" if call in ("connect", "accept") else "pair", call) for call in STREAM_CALLS]
    + [("datagram_pair", call) for call in DATAGRAM_CALLS],
)
def test_each_call_is_made(hosts: Hosts, first: str, call: str) -> None:
    argument: Any = {"send": b"x", "send_urgent": b"x", "recv": 1, "peek": 1, "shutdown": 1}
    lines = compare(hosts, [SocketStep(first), SocketStep(call, 0, argument.get(call))])
    assert len(lines) == 2


def test_what_was_done_is_told_line_by_line(memory: Hosts) -> None:
    program = [
        SocketStep("listener"),
        SocketStep("connect", 0),
        SocketStep("accept", 0),
        SocketStep("send", 1, b"data"),
        SocketStep("recv", 2, 3),
        SocketStep("shutdown", 1, socket.SHUT_WR),
        SocketStep("reset", 2),
        SocketStep("take_error", 1),
        SocketStep("accept", 0),
    ]
    assert compare(memory, program) == [
        "s0 = listener()",
        "s1 = connect(s0)",
        "s2 = s0.accept()",
        "s1.send(b'data')  # 4",
        "s2.recv(3)  # b'dat'",
        "s1.shutdown(SHUT_WR)",
        "s2.close()  # linger 0",
        "s1.getsockopt(SOL_SOCKET, SO_ERROR)  # 104",
        "s0.accept()  # EAGAIN",
    ]


def test_a_step_without_a_socket_does_nothing(memory: Hosts) -> None:
    assert compare(memory, [SocketStep("send", 3, b"x"), SocketStep("accept")]) == []


@pytest.fixture
def streams(memory: Hosts) -> type[UserSocket]:
    """The class of the memory stack's streams."""
    with memory.server.socket() as sock:
        assert isinstance(sock, UserSocket)
        return type(sock)


def test_a_result_that_differs_is_told(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "do_recv", lambda sock, bufsize, flags: b"?")
    with pytest.raises(Mismatch) as caught:
        compare(memory, [SocketStep("pair"), SocketStep("recv", 0, 4), SocketStep("close", 0)])
    assert caught.value.steps == ("s0, s1 = pair()", "s0.recv(4)")
    assert caught.value.difference == "stack returned: b'?', kernel failed: EAGAIN"


def test_a_mask_that_differs_is_told(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        streams, "do_shutdown", lambda sock, how: sock.vpoll.add_events(EventMask.HUP)
    )
    with pytest.raises(Mismatch) as caught:
        compare(memory, [SocketStep("pair"), SocketStep("shutdown", 0, 1)], bound=0.2)
    assert caught.value.steps[-1] == "s0.shutdown(SHUT_WR)"
    assert caught.value.difference.startswith("s0: stack <EventMask.OUT|HUP|WRNORM")


def test_events_can_be_left_out(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown = streams.do_shutdown

    def with_hup(sock: UserSocket, how: int) -> None:
        shutdown(sock, how)
        sock.vpoll.add_events(EventMask.HUP)

    monkeypatch.setattr(streams, "do_shutdown", with_hup)
    program = [SocketStep("pair"), SocketStep("shutdown", 0, 1)]
    compare(memory, program, ignore=EventMask.HUP)
    with pytest.raises(Mismatch):
        compare(memory, program, bound=0.2)


def test_bytes_that_do_not_come_are_told(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "do_ioctl", lambda sock, request, argument: 1)
    with pytest.raises(Mismatch, match="on the stack 1 bytes wait, on the kernel 0"):
        compare(memory, [SocketStep("pair")], bound=0.2)


def test_a_connection_that_the_stack_does_not_make_is_told_within_the_bound(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(sock: UserSocket, address: Any) -> None:
        raise OSError(errno.EINPROGRESS, "")

    patiences: list[float] = []

    class Watched(Lab):
        def until(self, condition: Any, what: str = "") -> None:
            patiences.append(self.patience)
            super().until(condition, what)

    monkeypatch.setattr(streams, "do_connect", never)
    monkeypatch.setattr(oracle, "Lab", Watched)
    with pytest.raises(Mismatch) as caught:
        compare(memory, [SocketStep("pair")], bound=0.2)
    assert caught.value.steps == ("s0, s1 = pair()",)
    assert caught.value.difference == (
        f"on the stack pair() fails: the listener shows {EventMask(0)!r} instead of {R!r}"
    )
    assert patiences == [0.2]


@pytest.mark.parametrize("call", ["pair", "listener"])
def test_an_error_where_the_kernel_has_none_is_told(
    memory: Hosts, streams: type[UserSocket], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(sock: UserSocket, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, "taken")

    monkeypatch.setattr(streams, "do_listen", refuse)
    with pytest.raises(Mismatch, match=rf"on the stack {call}\(\) fails: \[Errno 98\] taken"):
        compare(memory, [SocketStep(call)])


def test_an_unknown_call_is_refused(memory: Hosts) -> None:
    with pytest.raises(ValueError, match="sendfile"):
        compare(memory, [SocketStep("pair"), SocketStep("sendfile")])


@pytest.mark.usefixtures("no_fd_leak")
def test_an_oracle_closes_its_sockets(host: Hosts) -> None:
    with Oracle(host) as oracle:
        both = oracle.add(lambda lab: lab.listener())
        oracle.masks_agree()
        assert oracle.same(both, lambda sock: sock.listen(3)) == ("returned", None)
    assert [sock.fileno() for sock in both] == [-1, -1]


def test_an_oracle_s_program_is_ordinary_code(hosts: Hosts) -> None:
    with Oracle(hosts) as oracle:
        ends = [lab.pair() for lab in oracle.labs]
        client, server = zip(*ends, strict=True)
        oracle.socks.extend([(client[0], client[1]), (server[0], server[1])])
        assert oracle.same((client[0], client[1]), lambda sock: sock.send(b"x")) == ("returned", 1)
        oracle.masks_agree()
        assert mask_of(server[0]) & EventMask.IN


def test_wakeups_are_heard_and_what_was_pending_is_not(hosts: Hosts) -> None:
    lab = Lab(hosts)
    client, server = lab.pair()
    client.send(b"x")
    lab.readable(server)
    with wakeups(server) as told:
        assert not told()
        client.shutdown(socket.SHUT_WR)
        lab.until(lambda: told() & EventMask.RDHUP)
    lab.close()
