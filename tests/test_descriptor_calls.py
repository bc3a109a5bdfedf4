"""Calls on a socket's descriptor itself under `install`: as on a kernel socket, or refused."""

from __future__ import annotations

import array
import errno
import fcntl
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import Any

import pytest

from blocking_helpers import connected, network_of, on_every_network
from memory_helpers import BOUND, failure, until
from vpoll_asyncio.kernel import KernelSocket
from vpoll_asyncio.sockets import UserSocket
from vpoll_helpers import KERNEL_BACKENDS

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def network(request: pytest.FixtureRequest, no_fd_leak: None) -> Iterator[str]:
    with network_of(request.param) as name:
        yield name


@pytest.fixture
def pair(network: str) -> Iterator[Pair]:
    client, server = connected()
    with server:
        yield client, server
        if socket.socket is KernelSocket and client.fileno() >= 0 and is_closed(client.fileno()):
            client.detach()
        client.close()


on_memory = pytest.mark.parametrize("network", ["memory"], indirect=True)


def is_closed(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return True
    return False


def is_refused(call: Callable[..., object], *args: object) -> bool:
    try:
        call(*args)
    except ConnectionError:
        return True
    return False


# Closing.

CLOSINGS: list[tuple[str, Callable[[int], None]]] = [
    ("os.close", lambda fd: os.close(fd)),
    ("socket.close", lambda fd: socket.close(fd)),
    ("os.closerange", lambda fd: os.closerange(fd, fd + 1)),
]


@on_every_network
@pytest.mark.parametrize(
    "close", [call for _, call in CLOSINGS], ids=[name for name, _ in CLOSINGS]
)
def test_closing_the_descriptor_closes_the_socket(close: Callable[[int], None], pair: Pair) -> None:
    client, server = pair
    client.send(b"last words")
    number = client.fileno()
    close(number)
    assert is_closed(number)
    assert server.recv(100) == b"last words"
    assert server.recv(100) == b""
    assert failure(client.recv, 1) == errno.EBADF
    assert failure(client.send, b"x") == errno.EBADF


@on_memory
def test_what_gets_the_number_next_is_left_alone(pair: Pair) -> None:
    client, server = pair
    number = client.fileno()
    os.close(number)
    reading, writing = os.pipe()
    assert number in (reading, writing)
    until(lambda: is_refused(server.send, b"x"))
    client.close()
    assert os.write(writing, b"whole") == 5
    assert os.read(reading, 10) == b"whole"
    os.close(reading)
    os.close(writing)


@on_every_network
def test_closing_a_duplicate_does_not_close_the_socket(pair: Pair) -> None:
    client, server = pair
    copy = os.dup(client.fileno())
    os.close(copy)
    other = client.dup()
    os.close(other.fileno())
    server.send(b"whole")
    assert client.recv(100) == b"whole"
    if not isinstance(other, UserSocket):
        other.detach()


@on_every_network
def test_a_closed_number_is_ebadf(network: str) -> None:
    client, server = connected()
    number = server.fileno()
    client.close()
    server.close()
    assert failure(os.close, number) == errno.EBADF
    os.closerange(number, number + 1)


# Flags.


@on_every_network
def test_blocking_mode_by_the_descriptor(pair: Pair) -> None:
    client, server = pair
    server.send(b"x")
    assert client.recv(1) == b"x"
    for timeout in (None, BOUND):
        client.settimeout(timeout)
        assert os.get_blocking(client.fileno()) is (timeout is None)
    client.settimeout(None)
    os.set_blocking(client.fileno(), False)
    assert not os.get_blocking(client.fileno())
    with pytest.raises(BlockingIOError):
        client.recv(1)
    os.set_blocking(client.fileno(), True)
    assert os.get_blocking(client.fileno())


@on_every_network
def test_blocking_mode_by_fcntl(pair: Pair) -> None:
    client, _ = pair
    client.settimeout(None)
    for given in (client, client.fileno()):
        flags = fcntl.fcntl(given, fcntl.F_GETFL)
        assert flags == os.O_RDWR
        fcntl.fcntl(given, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        assert fcntl.fcntl(given, fcntl.F_GETFL) == os.O_RDWR | os.O_NONBLOCK
        with pytest.raises(BlockingIOError):
            client.recv(1)
        fcntl.fcntl(given, fcntl.F_SETFL, flags)
        assert os.get_blocking(client.fileno())


@on_every_network
def test_blocking_mode_by_ioctl(pair: Pair) -> None:
    client, _ = pair
    client.settimeout(None)
    fcntl.ioctl(client, termios.FIONBIO, array.array("i", [1]))
    with pytest.raises(BlockingIOError):
        client.recv(1)
    fcntl.ioctl(client.fileno(), termios.FIONBIO, bytes(4))
    assert os.get_blocking(client.fileno())


@on_every_network
def test_a_timeout_outlives_the_descriptors_blocking_mode(pair: Pair) -> None:
    client, _ = pair
    client.settimeout(0.01)
    os.set_blocking(client.fileno(), True)
    with pytest.raises(TimeoutError):
        client.recv(1)


@on_every_network
def test_bytes_that_wait_by_ioctl(pair: Pair) -> None:
    client, server = pair
    server.send(b"whole")
    assert select.select([client], [], [], BOUND)[0]
    answer = fcntl.ioctl(client, termios.FIONREAD, bytes(4))
    assert int.from_bytes(answer, sys.byteorder) == 5
    into = array.array("i", [0, 7])
    assert fcntl.ioctl(client.fileno(), termios.FIONREAD, into) == 0
    assert list(into) == [5, 7]
    assert fcntl.ioctl(client.fileno(), termios.FIONREAD, into, False) == into.tobytes()


@on_memory
def test_requests_about_interfaces_do_not_reach_the_hosts(pair: Pair) -> None:
    SIOCGIFINDEX = 0x8933
    with pytest.raises(OSError, match="memory stack know no request 0x8933") as caught:
        fcntl.ioctl(pair[0].fileno(), SIOCGIFINDEX, b"lo".ljust(40, b"\0"))
    assert caught.value.errno == errno.ENOTTY


@on_every_network
def test_close_on_exec_may_be_set_again(pair: Pair) -> None:
    fd = pair[0].fileno()
    os.set_inheritable(fd, False)
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert not os.get_inheritable(fd)


# What is refused.


def scm_rights(fd: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, fd]))
        near.sendmsg([b"x"], [rights])


def send_handle(fd: int) -> None:
    near, far = multiprocessing.Pipe()
    with near, far:
        reduction.send_handle(near, fd, os.getpid())


def spliced(fd: int) -> None:
    reading, writing = os.pipe()
    try:
        os.splice(fd, writing, 1)
    finally:
        os.close(reading)
        os.close(writing)


def over(fd: int) -> None:
    reading, writing = os.pipe()
    try:
        os.dup2(reading, fd)
    finally:
        os.close(reading)
        os.close(writing)


def to_file_actions(spawn: Callable[..., int], fd: int) -> None:
    spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, fd, 1)])


positional: Any = subprocess.Popen
NOTHING = [None] * 5

REFUSED: list[tuple[str, Callable[[int], object]]] = [
    ("os.readv", lambda fd: os.readv(fd, [bytearray(1)])),
    ("os.writev", lambda fd: os.writev(fd, [b"x"])),
    ("os.splice", spliced),
    ("os.dup2 over it", over),
    ("os.dup2 to stdin", lambda fd: os.dup2(fd, 0)),
    ("os.set_inheritable", lambda fd: os.set_inheritable(fd, True)),
    ("F_SETFD", lambda fd: fcntl.fcntl(fd, fcntl.F_SETFD, 0)),
    ("SCM_RIGHTS", scm_rights),
    ("multiprocessing's send_handle", send_handle),
    ("os.posix_spawn", lambda fd: to_file_actions(os.posix_spawn, fd)),
    ("os.posix_spawnp", lambda fd: to_file_actions(os.posix_spawnp, fd)),
    (
        "pass_fds by place",
        lambda fd: positional("true", -1, *NOTHING, True, *NOTHING, 0, True, False, [fd]),
    ),
    ("signal.set_wakeup_fd", lambda fd: signal.set_wakeup_fd(fd)),
]


@on_memory
@pytest.mark.parametrize("call", [call for _, call in REFUSED], ids=[name for name, _ in REFUSED])
def test_what_the_signals_are_not_good_for_is_refused(
    call: Callable[[int], object], pair: Pair
) -> None:
    client, server = pair
    with pytest.raises(OSError, match=r"only signals the events of <.*Socket") as caught:
        call(client.fileno())
    assert caught.value.errno == errno.ENOTSUP
    assert not select.select([client], [], [], 0)[0]
    server.send(b"whole")
    assert select.select([client], [], [], BOUND)[0]
    assert client.recv(100) == b"whole"


@on_memory
def test_another_process_is_not_given_a_user_socket(pair: Pair) -> None:
    near, far = multiprocessing.Pipe()
    with near, far:
        with pytest.raises(TypeError, match="cannot leave its process"):
            near.send(pair[0])
        assert not far.poll()


@on_memory
def test_descriptors_of_the_kernel_go_where_they_went(pair: Pair) -> None:
    assert pair[0].fileno() >= 0
    near, far = socket.socketpair()
    with near, far:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [near.fileno()]))
        assert near.sendmsg([b"x"], [rights]) == 1
        data, ancdata, _, _ = far.recvmsg(10, 100)
        assert data == b"x"
        [received] = array.array("i", ancdata[0][2])
        assert os.writev(received, [b"by ", b"writev"]) == 9
        buffer = bytearray(9)
        assert os.readv(far.fileno(), [buffer]) == 9
        assert buffer == b"by writev"
        assert os.get_blocking(received)
        os.set_blocking(received, False)
        assert fcntl.fcntl(received, fcntl.F_GETFL) & os.O_NONBLOCK
        os.set_inheritable(received, True)
        assert os.dup2(received, far.fileno(), inheritable=False) == far.fileno()
        os.close(received)
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
    command = [sys.executable, "-c", "print(1)"]
    child = os.posix_spawn(sys.executable, command, {}, file_actions=actions)
    assert os.waitpid(child, 0) == (child, 0)
    os.close(writing)
    assert os.read(reading, 10) == b"1\n"
    os.close(reading)


@on_memory
@pytest.mark.parametrize("by_place", [False, True])
def test_descriptors_that_come_but_once_reach_a_child(by_place: bool, pair: Pair) -> None:
    assert pair[0].fileno() >= 0
    reading, writing = os.pipe()
    fds = (fd for fd in [writing])
    command = [sys.executable, "-c", f"import os; os.write({writing}, b'kept')"]
    if by_place:
        child = positional(command, -1, *NOTHING, True, *NOTHING, 0, True, False, fds)
    else:
        child = subprocess.Popen(command, pass_fds=fds)  # type: ignore[call-overload]
    with child:
        os.close(writing)
    assert os.read(reading, 10) == b"kept"
    os.close(reading)


@on_memory
@pytest.mark.parametrize("action", [(), [], None, b"x", 2, (os.POSIX_SPAWN_DUP2,)], ids=repr)
def test_a_malformed_file_action_is_refused_as_ever(action: Any, pair: Pair) -> None:
    assert pair[0].fileno() >= 0
    for spawn in os.posix_spawn, os.posix_spawnp:
        with pytest.raises(TypeError, match="file_action"):
            spawn("/bin/true", ["true"], {}, file_actions=[action])


def test_leaving_install_puts_the_calls_back() -> None:
    def calls() -> list[Any]:
        return [os.close, os.dup2, fcntl.fcntl, fcntl.ioctl, signal.set_wakeup_fd, socket.close]

    before = calls()
    with network_of("memory"):
        assert all(a is not b for a, b in zip(before, calls(), strict=True))
        assert "sendmsg" in vars(KernelSocket)
    assert calls() == before
    assert "sendmsg" not in vars(KernelSocket)


# Backends that a program operates through the descriptor itself.


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_operations_of_the_mask_are_not_taken_for_a_strangers(
    backend: str, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPOLL_BACKEND", backend)
    with network_of("memory"):
        client, server = connected()
        with client, server:
            assert isinstance(client, UserSocket)
            assert client.fileno() >= 0
            assert client.vpoll.backend == backend
            server.send(b"whole")
            assert select.select([client], [], [], BOUND)[0]
            assert client.recv(100) == b"whole"
            assert not select.select([client], [], [], 0)[0]
