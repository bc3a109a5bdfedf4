"""Socket pairs: what strangers and forked children may do to them, and what they leave behind."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vpoll_asyncio import EventMask, VPoll, backends
from vpoll_asyncio.backends import by_name, tcppair
from vpoll_helpers import (
    DEADLINE,
    PAIRS,
    by_epoll,
    by_poll,
    descriptors_left,
    in_child,
    open_descriptors,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

IN, OUT, PRI, ERR = EventMask.IN, EventMask.OUT, EventMask.PRI, EventMask.ERR

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def read(fd: int) -> None:
    os.read(fd, 100)


def read_through_a_socket(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as front:
        front.recv(100)


def read_blocking(fd: int) -> None:
    os.set_blocking(fd, True)
    os.read(fd, 100)


def write(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(1 << 16))


@pytest.mark.parametrize("backend", PAIRS)
@pytest.mark.parametrize("meddle", [read, read_through_a_socket, read_blocking])
@pytest.mark.parametrize(
    "operation",
    [
        lambda vpoll: vpoll.add_events(IN),
        lambda vpoll: vpoll.set_events(IN),
        lambda vpoll: vpoll.del_events(OUT),
        lambda vpoll: vpoll.add_events(0),
    ],
    ids=["add", "set", "del another", "add nothing"],
)
def test_a_signal_that_a_stranger_read_is_back_after_any_operation(
    backend: str, meddle: Callable[[int], None], operation: Callable[[VPoll], int]
) -> None:
    with VPoll(IN, backend=backend) as vpoll:
        meddle(vpoll.fileno())
        assert vpoll.events == IN
        for _ in range(2):
            operation(vpoll)
            assert by_poll(vpoll.fileno()) & (IN | OUT) == IN


@pytest.mark.parametrize("backend", PAIRS)
@pytest.mark.parametrize("meddle", [read, read_blocking])
def test_clearing_what_a_stranger_read_neither_fails_nor_blocks(
    backend: str, meddle: Callable[[int], None]
) -> None:
    with VPoll(IN, backend=backend) as vpoll:
        meddle(vpoll.fileno())
        vpoll.del_events(IN)
        assert not by_poll(vpoll.fileno()) & IN
        vpoll.add_events(IN)
        assert by_poll(vpoll.fileno()) & IN


@pytest.mark.parametrize("backend", PAIRS)
def test_a_front_that_a_stranger_filled_is_writable_after_any_operation(backend: str) -> None:
    with VPoll(OUT, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for _ in range(3):
            write(fd)
            assert not by_poll(fd) & OUT
            vpoll.add_events(IN)
            assert by_poll(fd) & (IN | OUT) == IN | OUT
            vpoll.set_events(0)
            assert not by_poll(fd) & (IN | OUT)
            vpoll.set_events(OUT)
            assert by_poll(fd) & (IN | OUT) == OUT


def test_a_stranger_that_reads_the_error_queue_and_the_urgent_byte_loses_nothing() -> None:
    with VPoll(IN | PRI | ERR, backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        with socket.socket(fileno=os.dup(fd)) as front:
            front.recvmsg(0, 0, 0x2000)  # MSG_ERRQUEUE
            front.recv(1, socket.MSG_OOB)
            assert by_poll(fd) & 0xF == IN
        vpoll.add_events(0)
        assert by_poll(fd) & 0xF == IN | PRI | ERR


@pytest.mark.parametrize("backend", PAIRS)
def test_a_stray_read_never_waits(backend: str) -> None:
    with VPoll(backend=backend) as vpoll:
        with pytest.raises(BlockingIOError):
            os.read(vpoll.fileno(), 1)


@pytest.mark.parametrize("backend", PAIRS)
@pytest.mark.parametrize("operation", [VPoll.add_events, VPoll.del_events, VPoll.set_events])
@pytest.mark.parametrize("operations_before", [0, 2])
def test_a_forked_childs_operation_is_refused_and_changes_nothing(
    backend: str, operation: Callable[[VPoll, int], int], operations_before: int
) -> None:
    heard: list[int] = []
    with VPoll(IN, backend=backend) as vpoll:
        fd = vpoll.fileno()
        for _ in range(operations_before):
            vpoll.add_events(IN)
        vpoll.add_waiter(heard.append)

        def child() -> None:
            with pytest.raises(PermissionError) as refusal:
                operation(vpoll, IN | OUT)
            assert refusal.value.errno == errno.EPERM
            assert vpoll.events == IN
            assert by_poll(fd) & (IN | OUT) == IN
            assert heard == []
            in_child(grandchild)

        def grandchild() -> None:
            with pytest.raises(PermissionError):
                operation(vpoll, 0)

        in_child(child)
        assert vpoll.events == IN
        assert by_poll(fd) & (IN | OUT) == IN


@pytest.mark.parametrize("backend", PAIRS)
def test_a_forked_child_waits_for_what_its_parent_sets(backend: str) -> None:
    ready, tell = os.pipe()
    with VPoll(backend=backend) as vpoll:
        fd = vpoll.fileno()

        def child() -> None:
            with select.epoll() as epoll:
                epoll.register(fd, IN)
                assert epoll.poll(0) == []
                os.write(tell, b"!")
                assert epoll.poll() == [(fd, IN)]

        pid = os.fork()
        if not pid:
            try:
                in_child(child)
            except BaseException:
                os._exit(1)
            os._exit(0)
        os.read(ready, 1)
        vpoll.add_events(IN)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(ready)
    os.close(tell)


@pytest.mark.parametrize("backend", PAIRS)
def test_closing_in_a_forked_child_does_not_disturb_the_parent(backend: str) -> None:
    with VPoll(OUT, backend=backend) as vpoll:
        fd = vpoll.fileno()
        in_child(vpoll.close)
        assert by_epoll(fd) & 0xFF == OUT
        vpoll.set_events(IN)
        assert by_epoll(fd) & 0x3F == IN


@pytest.mark.parametrize("backend", PAIRS)
@pytest.mark.parametrize("left", range(4))
def test_without_descriptors_the_fault_is_reported_and_nothing_leaks(
    backend: str, left: int
) -> None:
    by_name(backend)
    with VPoll(IN, backend=backend) as vpoll:
        held = open_descriptors()
        enough = left >= {"unixpair": 2, "tcppair": 3}[backend]
        with descriptors_left(left):
            if enough:
                vpoll.fileno()
            else:
                with pytest.raises(OSError) as fault:
                    vpoll.fileno()
                assert fault.value.errno == errno.EMFILE
        assert len(open_descriptors() - held) == (2 if enough else 0)
        assert vpoll.add_events(OUT) == IN | OUT
        assert by_poll(vpoll.fileno()) & (IN | OUT) == IN | OUT


@pytest.mark.parametrize("backend", PAIRS)
def test_all_descriptors_are_close_on_exec(backend: str) -> None:
    before = open_descriptors()
    with VPoll(backend=backend) as vpoll, vpoll.dup() as twin:
        vpoll.fileno()
        twin.fileno()
        made = open_descriptors() - before
        assert len(made) == 3
        assert not [fd for fd in made if os.get_inheritable(fd)]


def test_who_connects_first_to_the_listening_port_is_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strangers: list[socket.socket] = []
    listen = socket.socket.listen

    def listen_to_strangers(listener: socket.socket, backlog: int) -> None:
        listen(listener, backlog)
        strangers.extend(socket.create_connection(listener.getsockname()) for _ in range(3))

    monkeypatch.setattr(socket.socket, "listen", listen_to_strangers)
    with VPoll(backend="tcppair") as vpoll:
        vpoll.fileno()
        assert len(strangers) >= 3
        for stranger in strangers:
            with stranger, contextlib.suppress(ConnectionResetError):
                stranger.settimeout(20)
                assert stranger.recv(1) == b""
        vpoll.set_events(IN | PRI)
        assert by_poll(vpoll.fileno()) & 0xF == IN | PRI


def kernel_connections() -> set[tuple[str, str]]:
    """The kernel's TCP connections over IPv4, in any state: both ends as /proc/net/tcp has them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {(local, remote) for _, local, remote, *_ in map(str.split, lines)}


def in_proc(address: tuple[str, int]) -> str:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"


@pytest.mark.parametrize("mask", [0, OUT, IN, ERR])
def test_closed_connections_hold_no_port(mask: int) -> None:
    with VPoll(mask, backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        with socket.socket(fileno=os.dup(fd)) as front:
            ends = in_proc(front.getsockname()), in_proc(front.getpeername())
        assert ends in kernel_connections()
    # Not in TIME_WAIT either.
    assert kernel_connections().isdisjoint({ends, ends[::-1]})


@pytest.mark.parametrize("event", [IN, PRI, ERR])
@pytest.mark.parametrize("others", [0, OUT])
def test_a_full_congestion_window_delays_no_event(event: EventMask, others: EventMask) -> None:
    # The initial window is ten segments, and acknowledgements of single bytes are put off.
    with VPoll(others, backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        for _ in range(100):
            vpoll.add_events(event)
            assert by_poll(fd) & 0xF == others | event
            vpoll.del_events(event)
            assert by_poll(fd) & 0xF == others


class Late(socket.socket):
    """Sends from another thread, some time later, as a loaded loopback delivers."""

    under_way: list[threading.Timer] = []

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        self.under_way.append(threading.Timer(1e-3, super().send, (bytes(data), flags)))
        self.under_way[-1].start()
        return memoryview(data).nbytes


def test_what_the_loopback_delivers_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    connected_pair = tcppair.connected_pair

    def late(window: int) -> tuple[socket.socket, socket.socket]:
        front, back = connected_pair(window)
        return front, Late(fileno=back.detach())

    monkeypatch.setattr(tcppair, "connected_pair", late)
    with VPoll(backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        for before, after in itertools.permutations([0, IN, PRI, IN | PRI, OUT | PRI], 2):
            vpoll.set_events(before)
            assert by_poll(fd) & 0xF == before
            vpoll.set_events(after)
            assert by_poll(fd) & 0xF == after
        while Late.under_way:
            Late.under_way.pop().join(DEADLINE)


@pytest.mark.parametrize("event", [IN, PRI, ERR, OUT])
def test_an_exception_out_of_a_handler_right_after_a_byte_was_sent_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, event: EventMask
) -> None:
    with VPoll(backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        for name in ("send", "sendmsg", "recv", "recv_into", "setsockopt"):
            vpoll.set_events(0)
            with monkeypatch.context() as patched:
                call = getattr(socket.socket, name)

                def interrupted(*arguments: object, call: Callable[..., int] = call) -> int:
                    call(*arguments)
                    raise KeyboardInterrupt

                patched.setattr(socket.socket, name, interrupted)
                with contextlib.suppress(KeyboardInterrupt):
                    vpoll.add_events(event)
                    vpoll.del_events(event)
            for mask in (vpoll.events | event, IN, 0, IN, 0):
                vpoll.set_events(mask)
                assert by_poll(fd) & 0xF == mask


def test_nothing_changes_by_itself() -> None:
    # Within this time TCP sends again what is not acknowledged, probes closed windows and
    # sends the acknowledgements that it has put off.
    quiet = 0.5
    with contextlib.ExitStack() as stack, select.epoll() as epoll:
        for mask, event in itertools.product(range(8), [IN, PRI, OUT, ERR]):
            vpoll = stack.enter_context(VPoll(backend="tcppair"))
            fd = vpoll.fileno()
            for _ in range(12):
                vpoll.set_events(mask ^ event)
                vpoll.set_events(mask)
            assert by_poll(fd) & 0xF == mask
            epoll.register(fd, 0xF ^ mask)
        assert epoll.poll(quiet) == []


def test_memory_in_flight_is_bounded_when_out_is_cleared() -> None:
    with VPoll(0, backend="tcppair") as vpoll:
        with socket.socket(fileno=os.dup(vpoll.fileno())) as front:
            assert front.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 1 << 16
        assert not by_poll(vpoll.fileno()) & OUT


@pytest.mark.needs("netns")
def test_a_network_namespace_without_loopback_has_no_tcppair() -> None:
    program = (
        "import vpoll_asyncio as va\n"
        "why = {b.name: b.why for b in va.backends()}['tcppair']\n"
        "assert 'unreachable' in why, why\n"
        "try:\n"
        "    va.VPoll(backend='tcppair')\n"
        "except OSError as error:\n"
        "    assert 'not available' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('made without a loopback')\n"
    )
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "-n"]
    subprocess.run([*alone, sys.executable, "-X", "dev", "-W", "error", "-c", program], check=True)


def test_a_lost_loopback_is_noticed_after_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name("tcppair").missing() == ""

    def unreachable(self: socket.socket, address: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert "unreachable" in {b.name: b.why for b in backends()}["tcppair"]


def test_a_connection_that_delivers_nothing_is_an_error_and_heals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with VPoll(backend="tcppair") as vpoll:
        fd = vpoll.fileno()
        heard: list[int] = []
        vpoll.add_waiter(heard.append)
        with monkeypatch.context() as patched:
            patched.setattr(tcppair.TcpPairMirror, "look", lambda self: 0)
            with pytest.raises(TimeoutError) as fault:
                vpoll.add_events(IN)
        assert fault.value.errno == errno.ETIMEDOUT
        assert heard == [IN]
        assert vpoll.events == IN
        vpoll.add_events(0)
        assert by_poll(fd) & (IN | OUT) == IN
