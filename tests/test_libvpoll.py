"""libvpoll's names: none of the faults of its emulation, and C's errors and descriptors.

Each fault is one short program.  It runs over every backend of ours that shows the events
in question, and over Debian's libvpoll0, which must show the fault: that proves that the
program can tell.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from exact_backends import over_backends, showing
from needs import missing
from vpoll_asyncio import EventMask, backends, libvpoll
from vpoll_asyncio.libvpoll import (
    FD_CLOEXEC,
    VPOLL_CTL_ADDEVENTS,
    VPOLL_CTL_DELEVENTS,
    VPOLL_CTL_SETEVENTS,
    vpoll_close,
    vpoll_create,
    vpoll_ctl,
)
from vpoll_helpers import by_epoll, descriptors_left, in_child, open_descriptors

ADD, DEL, SET = VPOLL_CTL_ADDEVENTS, VPOLL_CTL_DELEVENTS, VPOLL_CTL_SETEVENTS
IN, OUT, PRI, ERR, HUP = (
    int(event)
    for event in (EventMask.IN, EventMask.OUT, EventMask.PRI, EventMask.ERR, EventMask.HUP)
)
RDHUP = int(EventMask.RDHUP)
EVERY = sum(EventMask)


class DebiansLibvpoll:
    """Debian's libvpoll0 with errors as OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libvpoll.so.0", use_errno=True)
        self._library.vpoll_create.argtypes = [ctypes.c_uint32, ctypes.c_int]
        self._library.vpoll_ctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint32]

    def _call(self, name: str, *arguments: int) -> int:
        result = int(getattr(self._library, name)(*arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def vpoll_create(self, init_events: int, flags: int) -> int:
        return self._call("vpoll_create", init_events, flags)

    def vpoll_ctl(self, fd: int, op: int, events: int) -> int:
        return self._call("vpoll_ctl", fd, op, events)

    def vpoll_close(self, fd: int) -> int:
        return self._call("vpoll_close", fd)


Library = ModuleType | DebiansLibvpoll


class Fault(NamedTuple):
    program: Callable[[Library], object]
    """What a program sees."""
    right: object
    emulated: object
    """What it sees of Debian's emulation, if that has the fault."""
    in_kernel: object
    """What it sees of Debian's library on a kernel with EFD_VPOLL."""
    events: int
    """What a backend must show exactly to be right."""


def shown(library: Library, initial: int, *steps: tuple[int, int], look: int = EVERY) -> int:
    """The events of `look` that a vpoll shows after `steps`, each an operation and a mask."""
    fd = library.vpoll_create(initial, FD_CLOEXEC)
    try:
        for operation, mask in steps:
            assert library.vpoll_ctl(fd, operation, mask) == 0
        return by_epoll(fd) & look
    finally:
        library.vpoll_close(fd)


def read_then_operate(library: Library) -> int:
    """IN and OUT after a stranger's read and an operation that concerns OUT only."""
    fd = library.vpoll_create(0, FD_CLOEXEC)
    try:
        library.vpoll_ctl(fd, ADD, IN)
        os.set_blocking(fd, False)
        try:
            os.read(fd, 8)
        except OSError:
            # As good: the descriptor refuses to be read.
            pass
        library.vpoll_ctl(fd, ADD, OUT)
        return by_epoll(fd) & (IN | OUT)
    finally:
        library.vpoll_close(fd)


def read_and_look(library: Library) -> int:
    """IN after a stranger's read."""
    fd = library.vpoll_create(0, FD_CLOEXEC)
    try:
        library.vpoll_ctl(fd, ADD, IN)
        os.set_blocking(fd, False)
        try:
            os.read(fd, 8)
        except OSError:
            pass
        return by_epoll(fd) & IN
    finally:
        library.vpoll_close(fd)


def closes_on_exec(library: Library) -> bool:
    fd = library.vpoll_create(0, os.O_CLOEXEC)
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GETFD) & FD_CLOEXEC)
    finally:
        library.vpoll_close(fd)


def ignored(event: int) -> Fault:
    return Fault(lambda lib: shown(lib, 0, (ADD, event), look=event), event, 0, event, event)


FAULTS = {
    "five adds need five deletes": Fault(
        lambda lib: shown(lib, 0, *[(ADD, IN)] * 5, (DEL, IN), look=IN), 0, IN, 0, IN
    ),
    "three deletes need more than one add": Fault(
        lambda lib: shown(lib, OUT, *[(DEL, OUT)] * 3, (ADD, OUT), look=OUT), OUT, 0, OUT, OUT
    ),
    **{
        f"{EventMask(event).name} is ignored": ignored(event)
        for event in EventMask
        if event & ~(IN | OUT | HUP | RDHUP | EventMask.RDNORM | EventMask.WRNORM | 0x200)
    },
    "HUP raises IN": Fault(
        lambda lib: shown(lib, 0, (ADD, HUP), look=IN | HUP), HUP, IN | HUP, HUP, IN | HUP
    ),
    "HUP stays for ever": Fault(
        lambda lib: shown(lib, 0, (ADD, HUP), (DEL, HUP), look=HUP | RDHUP), 0, HUP | RDHUP, 0, 0
    ),
    "RDHUP raises IN": Fault(
        lambda lib: shown(lib, 0, (ADD, RDHUP), look=IN | RDHUP),
        RDHUP,
        IN | RDHUP,
        RDHUP,
        IN | RDHUP,
    ),
    "a read clears IN": Fault(read_and_look, IN, 0, IN, EVERY),
    "after a read IN stays away": Fault(read_then_operate, IN | OUT, OUT, IN | OUT, IN | OUT),
    "O_CLOEXEC is ignored": Fault(closes_on_exec, True, False, False, 0),
    "the first events are dropped by the kernel": Fault(
        lambda lib: shown(lib, IN | OUT, look=IN | OUT), IN | OUT, IN | OUT, 0, IN | OUT
    ),
}


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VPOLL_BACKEND", request.param)
    return str(request.param)


@pytest.fixture(params=showing(0))
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VPOLL_BACKEND", request.param)
    return str(request.param)


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize(
    ("fault", "backend"),
    [param for name, f in FAULTS.items() for param in over_backends(name, f, f.events)],
    indirect=["backend"],
)
def test_fault_of_the_emulation_is_not_ours(fault: Fault, backend: str) -> None:
    assert fault.program(libvpoll) == fault.right


@pytest.mark.needs("libvpoll")
@pytest.mark.parametrize("name", FAULTS)
def test_debians_library_has_the_fault(name: str) -> None:
    fault = FAULTS[name]
    emulated = missing("efd_vpoll") is not None
    assert fault.program(DebiansLibvpoll()) == (fault.emulated if emulated else fault.in_kernel)


def test_each_fault_shows_somewhere() -> None:
    for name, fault in FAULTS.items():
        assert (fault.emulated, fault.in_kernel) != (fault.right, fault.right), name


# The manual's program: a child raises events, its parent disarms what it gets.

MANUALS_EVENTS = [IN, IN, OUT, HUP]


def manuals_program(library: Library) -> list[int]:
    fd = library.vpoll_create(0, FD_CLOEXEC)
    told, tell = os.pipe()
    got: list[int] = []
    with select.epoll() as epoll:
        epoll.register(fd, IN | RDHUP | ERR | OUT | HUP | PRI)
        assert epoll.poll(0) == []
        child = os.fork()
        if not child:
            try:
                for event in MANUALS_EVENTS:
                    assert os.read(told, 1)
                    library.vpoll_ctl(fd, ADD, event)
            except BaseException:
                os._exit(1)
            os._exit(0)
        for _ in MANUALS_EVENTS:
            os.write(tell, b"!")
            [(_, seen)] = epoll.poll(20)
            got.append(seen)
            library.vpoll_ctl(fd, DEL, seen)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(told)
    os.close(tell)
    library.vpoll_close(fd)
    return got


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("backend", showing(EVERY), indirect=True)
def test_manuals_program_sees_what_the_manual_promises(backend: str) -> None:
    assert manuals_program(libvpoll) == [0x1, 0x1, 0x4, 0x10]


@pytest.mark.needs("libvpoll")
def test_manuals_program_sees_more_of_debians_emulation() -> None:
    emulated = missing("efd_vpoll") is not None
    last = 0x2011 if emulated else 0x10
    assert manuals_program(DebiansLibvpoll()) == [0x1, 0x1, 0x4, last]


# Constants and errors are C's.


def test_constants_are_those_of_the_header() -> None:
    assert (ADD, DEL, SET, FD_CLOEXEC) == (1, 2, 3, 1)


def test_set_replaces_the_events(each_backend: str) -> None:
    assert shown(libvpoll, IN, (SET, OUT), look=IN | OUT) == OUT


def fails(number: int, call: Callable[..., object], *arguments: Any) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("events", [1 << 28, 1 << 31, -1])
def test_events_that_no_vpoll_keeps_are_einval(each_backend: str, events: int) -> None:
    fails(errno.EINVAL, vpoll_create, events, 0)
    fd = vpoll_create(IN, FD_CLOEXEC)
    for operation in (ADD, DEL, SET):
        fails(errno.EINVAL, vpoll_ctl, fd, operation, events)
    assert by_epoll(fd) & (IN | OUT) == IN
    vpoll_close(fd)


@pytest.mark.parametrize("flags", [2, os.O_NONBLOCK, FD_CLOEXEC | 4, -1])
def test_unknown_flags_are_einval(flags: int) -> None:
    fails(errno.EINVAL, vpoll_create, 0, flags)


@pytest.mark.parametrize("operation", [0, 4, -1, 1 << 32])
def test_unknown_operation_is_einval_and_the_next_one_works(
    each_backend: str, operation: int
) -> None:
    fd = vpoll_create(0, FD_CLOEXEC)
    fails(errno.EINVAL, vpoll_ctl, fd, operation, IN)
    assert by_epoll(fd) & IN == 0
    vpoll_ctl(fd, ADD, IN)
    assert by_epoll(fd) & IN
    vpoll_close(fd)


def test_descriptor_of_something_else_is_ebadf(each_backend: str) -> None:
    reader, writer = os.pipe()
    for number in (-1, reader, 1 << 20):
        fails(errno.EBADF, vpoll_ctl, number, ADD, IN)
        fails(errno.EBADF, vpoll_close, number)
    os.close(reader)
    os.close(writer)


def test_closed_descriptor_is_ebadf(each_backend: str) -> None:
    fd = vpoll_create(0, FD_CLOEXEC)
    assert vpoll_close(fd) == 0
    fails(errno.EBADF, vpoll_ctl, fd, ADD, IN)
    fails(errno.EBADF, vpoll_close, fd)
    fails(errno.EBADF, os.fstat, fd)


@pytest.mark.usefixtures("no_fd_leak")
def test_number_that_another_file_got_is_never_closed(each_backend: str) -> None:
    fd = vpoll_create(0, FD_CLOEXEC)
    os.close(fd)
    stranger = os.open("/dev/null", os.O_RDONLY)
    if stranger != fd:
        os.dup2(stranger, fd)
    fails(errno.EBADF, vpoll_ctl, fd, ADD, IN)
    fails(errno.EBADF, vpoll_close, fd)
    assert os.read(fd, 1) == b""
    for number in {fd, stranger}:
        os.close(number)


@pytest.mark.usefixtures("no_fd_leak")
def test_number_that_is_handed_out_again_is_the_new_vpoll(each_backend: str) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    met = False
    # A vpoll's own descriptors take the lowest numbers: with as many free the next is `fd`.
    for free in range(8):
        fillers = [os.dup(null) for _ in range(8)]
        fd = vpoll_create(IN, FD_CLOEXEC)
        os.close(fd)
        for filler in fillers[:free]:
            os.close(filler)
        again = vpoll_create(0, FD_CLOEXEC)
        if again == fd:
            met = True
            vpoll_ctl(fd, ADD, OUT)
            assert by_epoll(fd) & (IN | OUT) == OUT
        else:
            # Whatever has the number now, this forgets the vpoll that had it.
            fails(errno.EBADF, vpoll_close, fd)
        vpoll_close(again)
        for filler in fillers[free:]:
            os.close(filler)
    os.close(null)
    assert met


@pytest.mark.usefixtures("no_fd_leak")
@pytest.mark.parametrize("left", [0, 1])
def test_want_of_descriptors_is_an_error_that_leaks_nothing(each_backend: str, left: int) -> None:
    kept = vpoll_create(0, FD_CLOEXEC)
    before = open_descriptors()
    with descriptors_left(left):
        with pytest.raises(OSError, match="Too many open files"):
            vpoll_create(0, FD_CLOEXEC)
    assert open_descriptors() == before
    vpoll_close(kept)


# Descriptors are inherited as C's are.


@pytest.mark.parametrize("flags", [0, FD_CLOEXEC])
def test_flag_says_whether_a_program_inherits_it(each_backend: str, flags: int) -> None:
    fd = vpoll_create(IN, flags)
    program = (
        "import select, sys\n"
        "poll = select.poll()\n"
        f"poll.register({fd}, select.POLLIN)\n"
        "print(poll.poll(0)[0][1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], close_fds=False, capture_output=True, text=True
    )
    vpoll_close(fd)
    assert done.stdout == f"{select.POLLNVAL if flags else select.POLLIN}\n"


@pytest.mark.usefixtures("no_fd_leak")
def test_child_closes_its_own_copy_only(each_backend: str) -> None:
    fd = vpoll_create(IN, FD_CLOEXEC)
    in_child(lambda: vpoll_close(fd))
    assert by_epoll(fd) & IN
    vpoll_ctl(fd, DEL, IN)
    assert by_epoll(fd) & IN == 0
    vpoll_close(fd)


def test_events_come_from_any_thread(each_backend: str) -> None:
    fd = vpoll_create(0, FD_CLOEXEC)
    with select.epoll() as epoll:
        epoll.register(fd, IN)
        thread = threading.Thread(target=vpoll_ctl, args=(fd, ADD, IN))
        thread.start()
        assert epoll.poll(20) == [(fd, IN)]
        thread.join()
    vpoll_close(fd)


def test_program_that_closes_nothing_ends_without_a_warning(each_backend: str) -> None:
    program = "from vpoll_asyncio.libvpoll import *; vpoll_create(1, 0); vpoll_create(0, 1)"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("no_fd_leak")
def test_most_exact_backend_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOLL_BACKEND", raising=False)
    best = next(
        mask
        for mask in (EVERY, IN | OUT | PRI | ERR)
        if any(
            backend.available and backend.name != "virtual" and not mask & ~backend.exact
            for backend in backends()
        )
    )
    fd = vpoll_create(0, FD_CLOEXEC)
    for event in EventMask:
        if event & best:
            vpoll_ctl(fd, SET, event)
            assert by_epoll(fd) & best == event
    vpoll_close(fd)
