"""The daemon of the `fuse` backend: how it lives, who sees it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_helpers import (
    connections,
    daemon_kind,
    descriptors_of,
    has_children,
    kill_the_daemon,
    parent_of,
    the_daemon,
    wait_for_end_of,
    wait_until,
)
from processes import ROOT
from vpoll_asyncio import EventMask, VPoll, backends, native
from vpoll_asyncio.backends import fuse, fuse_launch
from vpoll_asyncio.backends.fuse import CHOICE, FuseBackend, current_daemon
from vpoll_asyncio.events import KEPT
from vpoll_helpers import DEADLINE, by_epoll, by_poll, descriptors_left, in_child

__all__ = ["daemon_kind"]

pytestmark = [
    pytest.mark.needs("fuse"),
    pytest.mark.usefixtures("no_fd_leak", "daemon_kind"),
]

IN, OUT, HUP = EventMask.IN, EventMask.OUT, EventMask.HUP


@pytest.fixture
def no_children() -> Iterator[None]:
    """The test leaves no child of any kind, ended or not."""
    assert not has_children()
    yield
    assert not has_children()


def test_the_daemon_holds_nothing_but_the_device(no_children: None) -> None:
    with VPoll(backend="fuse") as vpoll:
        vpoll.fileno()
        daemon = the_daemon()
        wait_until(lambda: len(descriptors_of(daemon)) == 4, "four descriptors")
        assert descriptors_of(daemon) == ["/dev/fuse"] + ["/dev/null"] * 3
        assert os.readlink(f"/proc/{daemon}/cwd") == "/"
        assert os.getsid(daemon) == daemon
        assert parent_of(daemon) != os.getpid()
        assert Path(f"/proc/{daemon}/comm").read_text() == "vpoll-fuse\n"


def test_no_mount_table_shows_the_mount() -> None:
    def mounts(pid: str) -> str:
        return Path(f"/proc/{pid}/mountinfo").read_text()

    before = mounts("self")
    with VPoll(backend="fuse") as vpoll:
        vpoll.fileno()
        assert mounts("self") == before
        assert mounts(str(the_daemon())) == before


def test_a_process_has_one_daemon_which_ends_with_its_last_vpoll() -> None:
    with VPoll(backend="fuse") as first, VPoll(backend="fuse") as second:
        first.fileno()
        daemon = the_daemon()
        second.fileno()
        assert the_daemon() == daemon
        first.close()
        assert second.set_events(IN) == IN
        twin = second.dup()
        twin.fileno()
        second.close()
        assert twin.add_events(OUT) == IN | OUT
        twin.close()
        assert current_daemon() is None
        wait_for_end_of(daemon)


def test_threads_that_start_at_once_share_the_daemon() -> None:
    vpolls = [VPoll(IN, backend="fuse") for _ in range(8)]
    barrier = threading.Barrier(len(vpolls))

    def ask(vpoll: VPoll) -> None:
        barrier.wait(DEADLINE)
        vpoll.fileno()

    threads = [threading.Thread(target=ask, args=(vpoll,)) for vpoll in vpolls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One mount is one device.
    assert len({os.fstat(vpoll.fileno()).st_dev for vpoll in vpolls}) == 1
    for vpoll in vpolls:
        assert by_poll(vpoll.fileno()) == IN
        vpoll.close()


def test_starting_the_daemon_is_no_child_to_anybody(no_children: None) -> None:
    signals: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: signals.append(number))
    try:
        with VPoll(backend="fuse") as vpoll:
            vpoll.fileno()
            assert not has_children()
            daemon = the_daemon()
        wait_for_end_of(daemon)
        assert signals == []
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_thread_that_waits_for_any_child_gets_its_own() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(7)
    os.close(reader)
    ended: list[tuple[int, int]] = []
    waiter = threading.Thread(target=lambda: ended.append(os.waitpid(-1, 0)))
    waiter.start()
    with VPoll(backend="fuse") as vpoll:
        vpoll.fileno()
        daemon = the_daemon()
    wait_for_end_of(daemon)
    assert ended == []
    os.close(writer)
    waiter.join()
    assert [(pid, os.waitstatus_to_exitcode(status)) for pid, status in ended] == [(child, 7)]


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_it_starts_whatever_is_done_about_children(
    disposition: signal.Handlers, no_children: None
) -> None:
    before = signal.signal(signal.SIGCHLD, disposition)
    try:
        with VPoll(IN, backend="fuse") as vpoll:
            assert by_poll(vpoll.fileno()) == IN
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_it_starts_as_an_ordinary_child_where_clone_is_refused(
    monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    scripts: list[str] = []
    as_child = fuse_launch._run_as_child

    def run_as_child(script: str, inherited: int) -> None:
        scripts.append(script)
        as_child(script, inherited)

    # A thread that does not share its signal handlers: EINVAL.
    monkeypatch.setattr(fuse_launch, "_CLONE_VFORK", 0x10000)
    monkeypatch.setattr(fuse_launch, "_run_as_child", run_as_child)
    with VPoll(IN, backend="fuse") as vpoll:
        assert by_poll(vpoll.fileno()) == IN
        assert parent_of(the_daemon()) != os.getpid()
    assert scripts


def test_signals_that_come_while_it_starts_are_delivered_once() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    sent = 0
    try:
        for _ in range(20):
            with VPoll(backend="fuse") as vpoll:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                vpoll.fileno()
                wait_until(lambda: bool(seen), "the signal")
                sent += len(seen) == 1
                seen.clear()
        assert sent == 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_forked_child_uses_the_daemon_of_its_parent() -> None:
    with VPoll(OUT, backend="fuse") as vpoll:
        fd = vpoll.fileno()
        daemon = the_daemon()

        def child() -> None:
            assert vpoll.add_events(IN) == IN | OUT
            with VPoll(HUP, backend="fuse") as another:
                assert by_poll(another.fileno()) == HUP
                assert the_daemon() == daemon
            assert vpoll.del_events(OUT) == IN

        in_child(child)
        assert by_poll(fd) == IN
        assert vpoll.events == IN
        with VPoll(backend="fuse") as another:
            another.fileno()
            assert the_daemon() == daemon


def test_it_lives_as_long_as_a_forked_child_holds_a_descriptor(no_children: None) -> None:
    go, ready = os.pipe()
    with VPoll(backend="fuse") as vpoll:
        fd = vpoll.fileno()
        daemon = the_daemon()
        child = os.fork()
        if not child:
            os.close(ready)
            os.read(go, 1)
            ok = vpoll.add_events(IN) == IN and by_poll(fd) == IN
            os._exit(0 if ok else 1)
    os.close(go)
    assert current_daemon() is None
    os.close(ready)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_for_end_of(daemon)


def test_a_descriptor_that_is_passed_on_keeps_the_daemon(no_children: None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with VPoll(backend="fuse") as vpoll:
            socket.send_fds(ours, [b"!"], [vpoll.fileno()])
            daemon = the_daemon()
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        assert os.write(fd, (1 << 32 | IN).to_bytes(8, sys.byteorder)) == 8
        assert by_epoll(fd) == IN
        os.close(fd)
    wait_for_end_of(daemon)


@pytest.mark.needs("root")
def test_a_child_that_gave_up_its_privileges_may_still_operate() -> None:
    with VPoll(backend="fuse") as vpoll:
        fd = vpoll.fileno()

        def child() -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            assert vpoll.add_events(IN) == IN
            assert by_poll(fd) == IN

        in_child(child)
        assert vpoll.events == IN


def user(ready: int) -> None:
    """Be a process that uses a vpoll, reports its daemon, and never ends by itself."""
    vpoll = VPoll(backend="fuse")
    with select.epoll() as epoll:
        epoll.register(vpoll, select.EPOLLIN)
        assert vpoll.add_events(IN) == IN
        assert epoll.poll(0) == [(vpoll.fileno(), IN)]
        os.write(ready, f"{the_daemon()}\n".encode())
        while True:
            with contextlib.suppress(OSError):
                vpoll.add_events(OUT)
            epoll.poll(0)


@pytest.mark.needs("root")
def test_killing_either_side_two_hundred_times_leaves_nothing(
    daemon_kind: str, no_children: None
) -> None:
    rounds = 200 if daemon_kind == "compiled" else 20
    before = connections()
    mounts = Path("/proc/self/mountinfo").read_text()
    for turn in range(rounds):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                user(writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            daemon = int(pipe.readline())
        if turn % 2:
            os.kill(daemon, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        wait_for_end_of(daemon)
    wait_until(lambda: connections() <= before, f"no FUSE connections but {before}")
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_process_that_ends_without_closing_takes_the_daemon_along() -> None:
    program = (
        "import os; from vpoll_asyncio import VPoll\n"
        "from vpoll_asyncio.backends.fuse import current_daemon\n"
        "vpoll = VPoll(backend='fuse'); vpoll.fileno(); print(current_daemon()); "
        "import sys; sys.stdout.flush(); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    wait_for_end_of(int(done.stdout))


@pytest.mark.parametrize("left", range(9))
def test_running_out_of_descriptors_leaves_nothing_behind(left: int) -> None:
    with VPoll(IN, backend="fuse") as vpoll:
        refused = None
        with descriptors_left(left):
            try:
                vpoll.fileno()
            except OSError as error:
                refused = error
                running = current_daemon()
        if refused is not None:
            assert refused.errno == errno.EMFILE
            assert running is None
            assert left < 8
        assert by_poll(vpoll.fileno()) == IN


@pytest.mark.parametrize("killed", [False, True])
def test_a_number_that_has_become_somebody_elses_is_not_closed(killed: bool) -> None:
    vpoll = VPoll(IN, backend="fuse")
    number = vpoll.fileno()
    if killed:
        kill_the_daemon()
    reader, writer = os.pipe()
    os.dup2(writer, number)
    with pytest.raises(OSError) as fault:
        vpoll.close()
    assert fault.value.errno == errno.EBADF
    assert os.write(number, b"!") == 1
    for fd in (reader, writer, number):
        os.close(fd)


def ordinary_user(program: str, *capabilities: str) -> subprocess.CompletedProcess[str]:
    """Run `program` as the owner of /dev/fuse without the capabilities of root."""
    kept = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return subprocess.run(
        ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


USE = """
import os, select
from vpoll_asyncio import VPoll
from vpoll_asyncio.backends.fuse import current_daemon
with VPoll(5, backend="fuse") as vpoll, select.epoll() as epoll:
    epoll.register(vpoll, 0xFFFF)
    daemon = current_daemon()
    print(vpoll.set_events(0x27FF), [events for _, events in epoll.poll(0)])
    for name in ("ns/mnt", "ns/user"):
        print(os.readlink(f"/proc/{daemon}/{name}") == os.readlink(f"/proc/self/{name}"))
    print(open(f"/proc/{daemon}/mountinfo").read() == open("/proc/self/mountinfo").read())
"""


@pytest.mark.needs("root", "userns")
def test_without_privileges_a_user_namespace_serves_that_the_daemon_is_not_in() -> None:
    # Who maps root's own id into a namespace needs setfcap; no other user does.
    done = ordinary_user(USE, "setfcap")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["10239 [10239]", "True", "True", "True"]


@pytest.mark.needs("root", "userns")
def test_a_user_namespace_that_is_refused_is_the_reason() -> None:
    done = ordinary_user(
        "from vpoll_asyncio import backends\n"
        "print([b.why for b in backends() if b.name == 'fuse'][0])"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no daemon: write /proc/self/uid_map: Operation not permitted\n"


@pytest.mark.needs("root")
def test_a_device_that_this_user_may_not_open_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "fuse"
    device.touch(mode=0o600)
    monkeypatch.setattr(fuse, "DEVICE", str(device))

    def child() -> None:
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        assert FuseBackend().missing().startswith(f"{device}: Permission denied: ")

    in_child(child)


def test_a_kernel_without_the_device_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "DEVICE", "/dev/no-such-device")
    assert FuseBackend().missing().startswith("/dev/no-such-device: No such file or directory: ")


@pytest.mark.parametrize("need", [HUP, EventMask.RDHUP | IN, EventMask.RDBAND, EventMask.NVAL])
def test_a_need_that_no_pair_covers_takes_what_is_one_kernel_object(
    monkeypatch: pytest.MonkeyPatch, need: int
) -> None:
    monkeypatch.delenv("VPOLL_BACKEND", raising=False)
    with VPoll(need, need=need) as vpoll:
        assert by_epoll(vpoll.fileno()) == need
        better = [info.name for info in backends() if info.available and info.exact == KEPT]
        better.remove("virtual")
        assert vpoll.backend == [*better, "fuse"][0]


def test_a_wrong_choice_of_the_daemon_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "interpreted")
    assert "'interpreted': expected compiled or python" in FuseBackend().missing()


def without_compiler(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def with_a_program_that_does_not_start(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    cache.write_bytes(b"\x7fELF of some other machine")
    cache.chmod(0o700)
    monkeypatch.setattr(native, "build", lambda name: cache)


@pytest.mark.parametrize("spoil", [without_compiler, with_a_program_that_does_not_start])
def test_python_is_the_daemon_where_a_compiled_one_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spoil: Callable[[pytest.MonkeyPatch, Path], None],
) -> None:
    monkeypatch.delenv(CHOICE)
    spoil(monkeypatch, tmp_path / "cache")
    with VPoll(IN, backend="fuse") as vpoll:
        assert by_poll(vpoll.fileno()) == IN
        line = Path(f"/proc/{the_daemon()}/cmdline").read_bytes().split(b"\0")
        assert os.path.basename(line[3]) == b"fuse_daemon.py"
    with pytest.raises(OSError):
        fuse_launch.launch(fuse_launch.COMPILED)


def test_looking_for_the_backend_starts_nothing_that_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []

    def launch(kind: str | None) -> fuse_launch.Daemon:
        daemon = fuse_launch.launch(kind)
        started.append(daemon.pid)
        return daemon

    monkeypatch.setattr(fuse, "launch", launch)
    backend = FuseBackend()
    assert backend.missing() == backend.missing() == ""
    assert current_daemon() is None
    [daemon] = started
    wait_for_end_of(daemon)
