"""Programs of socket calls as data, and what a stack makes of one compared with the kernel.

`socket_programs` generates them, `compare` runs one.  They are for tests of a stack's own: the
suite's random programs (`ProgramTests`) reach further, and are state machines.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import strategies as st

from .lab import BOUND, FIONREAD, Hosts, Lab, ask, error_of, linger_zero
from .oracle import Both, Oracle, Outcome, outcome, told

__all__ = [
    "DATAGRAM_CALLS",
    "STREAM_CALLS",
    "Mismatch",
    "SocketStep",
    "compare",
    "socket_programs",
]

_T = TypeVar("_T")

_CONNECTED: Final = frozenset({"pair", "datagram_pair"})
_MAKERS: Final = _CONNECTED | {"listener", "refused", "connect"}
_DATA: Final = frozenset({"send", "send_urgent"})
_SIZED: Final = frozenset({"recv", "peek"})
_CLOSES: Final = frozenset({"close", "reset"})
_ENDS: Final = _CLOSES | {"shutdown"}
_HOW: Final = {
    socket.SHUT_RD: "SHUT_RD",
    socket.SHUT_WR: "SHUT_WR",
    socket.SHUT_RDWR: "SHUT_RDWR",
}
_COMMON: Final = ("send", "recv", "peek", "shutdown", "take_error", "close")

STREAM_CALLS: Final = (
    "pair",
    *_COMMON,
    "reset",
    "refused",
    "listener",
    "connect",
    "accept",
    "send_urgent",
    "recv_urgent",
)
"""The calls of programs with streams, simple ones first."""

DATAGRAM_CALLS: Final = ("datagram_pair", *_COMMON)
"""The calls of programs with datagrams, simple ones first."""

# Above this a backlog is full, and the kernel tries again after a second.
_MOST_STEPS: Final = 100


class SocketStep(NamedTuple):
    """One step of a program.

    call -- of `STREAM_CALLS` or `DATAGRAM_CALLS`.  ``pair`` and ``datagram_pair`` make two
        connected sockets, ``listener`` one that listens, ``refused`` one that connects to where
        nobody listens, ``connect`` one that connects to a listener.  ``reset`` closes with
        linger 0.
    sock -- which of the sockets that are open, for ``connect`` of those that listen, counted
        from the oldest, modulo their number
    argument -- the bytes to send; how many to receive, or the ``how`` of shutdown(2); else None

    A step does nothing while there is no socket for it.
    """

    call: str
    sock: int = 0
    argument: bytes | int | None = None


class Mismatch(AssertionError):
    """A stack does otherwise than the kernel: what was done until then, and how both answered.

    steps -- a line for each step until the one that shows it
    difference -- what the stack and the kernel answered, or show
    """

    def __init__(self, steps: Sequence[str], difference: str) -> None:
        super().__init__("\n".join((*steps, f"# {difference}")))
        self.steps = tuple(steps)
        self.difference = difference


def socket_programs(
    calls: Sequence[str] = STREAM_CALLS, *, max_size: int = 12
) -> st.SearchStrategy[list[SocketStep]]:
    """Generate programs: lists of at most `max_size` steps with `calls`.

    calls -- some of `STREAM_CALLS` and `DATAGRAM_CALLS`: leave out what the stack does not have.
        One that makes sockets is the first step of every program, if there is one among them

    Programs shrink towards fewer steps, calls that come first in `calls`, older sockets, no bytes
    and sizes of 1.  Raises ValueError for an unknown call, and when there are more than 100 steps
    or none.
    """
    known = {*STREAM_CALLS, *DATAGRAM_CALLS}
    if not calls or not known >= set(calls):
        raise ValueError(f"calls={calls!r}: expected some of {', '.join(sorted(known))}")
    if not 1 <= max_size <= _MOST_STEPS:
        raise ValueError(f"max_size={max_size}: expected 1 to {_MOST_STEPS} steps")
    step = st.one_of(*map(_step, calls))
    makers = [call for call in calls if call in _MAKERS and call != "connect"]
    if not makers:
        return st.lists(step, max_size=max_size)
    first = st.sampled_from(makers).map(SocketStep)
    rest = st.lists(step, max_size=max_size - 1)
    return st.builds(lambda one, more: [one, *more], first, rest)


def _step(call: str) -> st.SearchStrategy[SocketStep]:
    which = st.integers(0, 7)
    if call in _DATA:
        return st.builds(SocketStep, st.just(call), which, st.binary(max_size=8))
    if call in _SIZED:
        return st.builds(SocketStep, st.just(call), which, st.integers(1, 8))
    if call == "shutdown":
        return st.builds(SocketStep, st.just(call), which, st.sampled_from([1, 0, 2]))
    if call in _MAKERS and call != "connect":
        return st.just(SocketStep(call))
    return st.builds(SocketStep, st.just(call), which)


def compare(
    hosts: Hosts,
    program: Iterable[SocketStep],
    *,
    ignore: int = 0,
    bound: float = BOUND,
) -> list[str]:
    """Run `program` on a stack and on the host's kernel; return a line for each step.

    hosts -- two hosts of the stack: sockets connect from the client host to the server host
    ignore -- events that are not compared
    bound -- seconds in which the event masks of both must have become the same, and in which
        a connection of the stack must have been made

    After each step its results, errors by their number, and then the event masks and FIONREAD
    of every socket must be the same on both.  Raises `Mismatch` when they are not, or when the
    stack cannot make what the kernel makes.  Closes every socket.  Nothing leaves the machine:
    the kernel's sockets are at 127.0.0.1.
    """
    with _Run(hosts, bound, ignore) as run:
        for step in program:
            try:
                run.do(step)
                run.masks_agree()
                run.counts_agree()
            except AssertionError as exc:
                raise Mismatch(run.lines, str(exc)) from None
        return run.lines


def _no_delay(sock: socket.socket) -> None:
    """Let small pieces go out at once, where the stack keeps any."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Run(Oracle):
    """One run of a program."""

    def __init__(self, hosts: Hosts, bound: float, ignore: int) -> None:
        super().__init__(hosts, bound)
        self.lines: list[str] = []
        self._ignore = ignore
        self._made = 0
        self._names: dict[Both, str] = {}
        self._listening: list[Both] = []

    def not_compared(self, both: Both) -> int:
        return self._ignore

    def name(self, both: Both) -> str:
        return self._names[both]

    def do(self, step: SocketStep) -> None:
        if step.call in _CONNECTED:
            self._pair(step.call)
        elif step.call in ("listener", "refused"):
            self._single(step.call)
        elif step.call == "connect":
            if self._listening:
                self._connect(self._listening[step.sock % len(self._listening)])
        elif self.socks:
            both = self.socks[step.sock % len(self.socks)]
            if step.call == "accept":
                self._accept(both)
            else:
                self._call(both, step)

    def _keep(self, *new: Both) -> str:
        """Give `new` sockets names; return these."""
        for both in new:
            self._names[both] = f"s{self._made}"
            self._made += 1
        return ", ".join(self._names[both] for both in new)

    def _make(self, call: str, count: int, make: Callable[[Lab], _T]) -> tuple[_T, _T]:
        """Let `make` make `count` sockets in each lab; what the stack cannot make is told."""
        stack, kernel = self.labs
        stack.patience = self.patience
        try:
            made = make(stack)
        except (AssertionError, OSError) as exc:
            Oracle.failed = True
            names = ", ".join(f"s{self._made + number}" for number in range(count))
            self.lines.append(f"{names} = {call}()")
            raise AssertionError(f"on the stack {call}() fails: {exc}") from exc
        return made, make(kernel)

    def _pair(self, call: str) -> None:
        (client, server), (host_client, host_server) = self._make(call, 2, _PAIRS[call])
        new = [(client, host_client), (server, host_server)]
        self.socks.extend(new)
        self.lines.append(f"{self._keep(*new)} = {call}()")

    def _single(self, call: str) -> None:
        def make(lab: Lab) -> socket.socket:
            if call == "listener":
                return lab.listener()
            client = lab.stream()
            client.connect_ex(lab.refusing_address())
            return client

        both = self._make(call, 1, make)
        self.socks.append(both)
        if call == "listener":
            self._listening.append(both)
        self.lines.append(f"{self._keep(both)} = {call}()")

    def _connect(self, to: Both) -> None:
        targets = [outcome(sock.getsockname) for sock in to]
        made = [lab.stream() for lab in self.labs]
        both = made[0], made[1]
        self.lines.append(f"{self._keep(both)} = connect({self.name(to)})")
        self.socks.append(both)
        by_socket = dict(zip(both, targets, strict=True))
        self.same(both, lambda sock: sock.connect_ex(by_socket[sock][1]))
        for sock in both:
            _no_delay(sock)

    def _accept(self, listener: Both) -> None:
        line = f"{self.name(listener)}.accept()"
        results = [outcome(sock.accept) for sock in listener]
        kinds = [(kind, value if kind == "failed" else "a connection") for kind, value in results]
        if kinds[0] != kinds[1]:
            self.lines.append(line)
            raise AssertionError(f"stack {told(kinds[0])}, kernel {told(kinds[1])}")
        if kinds[0][0] == "failed":
            self._line(line, kinds[0])
            return
        new = [lab.keep(value[0]) for lab, (_, value) in zip(self.labs, results, strict=True)]
        for sock in new:
            _no_delay(sock)
        both = new[0], new[1]
        self.socks.append(both)
        self.lines.append(f"{self._keep(both)} = {line}")

    def _line(self, line: str, result: Outcome) -> None:
        kind, value = result
        if kind == "failed":
            self.lines.append(f"{line}  # {errno.errorcode.get(value, value)}")
        else:
            self.lines.append(line if value is None else f"{line}  # {value!r}")

    def _call(self, both: Both, step: SocketStep) -> None:
        text, call = _call_of(step)
        line = f"{self.name(both)}.{text}"
        try:
            result = self.same(both, call)
        except AssertionError:
            self.lines.append(line)
            raise
        if step.call in _ENDS and both in self._listening:
            # Its port may be another's from now on.
            self._listening.remove(both)
        if step.call in _CLOSES:
            self.socks.remove(both)
        self._line(line, result)

    def counts_agree(self) -> None:
        """Wait until as many bytes wait on the stack as on the kernel, where both tell that."""
        for both in self.socks:
            self._count(both)

    def _count(self, both: Both) -> None:
        def counts() -> list[Outcome]:
            return [outcome(ask, sock, FIONREAD) for sock in both]

        if any(kind == "failed" for kind, _ in counts()):
            return
        lab = self.labs[0]
        lab.patience = self.patience
        try:
            lab.until(lambda: len({value for _, value in counts()}) == 1)
        except AssertionError:
            Oracle.failed = True
            (_, one), (_, other) = counts()
            raise AssertionError(
                f"{self.name(both)}: on the stack {one} bytes wait, on the kernel {other}"
            ) from None


def _connected_streams(lab: Lab) -> tuple[socket.socket, socket.socket]:
    ends = lab.pair()
    for sock in ends:
        _no_delay(sock)
    return ends


def _connected_datagrams(lab: Lab) -> tuple[socket.socket, socket.socket]:
    client, server = lab.bound(lab.datagram()), lab.receiver()
    client.connect(server.getsockname())
    server.connect(client.getsockname())
    return client, server


_PAIRS: Final[dict[str, Callable[[Lab], tuple[socket.socket, socket.socket]]]] = {
    "pair": _connected_streams,
    "datagram_pair": _connected_datagrams,
}


def _reset(sock: socket.socket) -> None:
    linger_zero(sock)
    sock.close()


def _call_of(step: SocketStep) -> tuple[str, Callable[[socket.socket], Any]]:
    """Return a step in words, and what it does to a socket."""
    what: Any = step.argument
    match step.call:
        case "send":
            return f"send({what!r})", lambda sock: sock.send(what)
        case "send_urgent":
            return f"send({what!r}, MSG_OOB)", lambda sock: sock.send(what, socket.MSG_OOB)
        case "recv":
            return f"recv({what})", lambda sock: sock.recv(what)
        case "peek":
            return f"recv({what}, MSG_PEEK)", lambda sock: sock.recv(what, socket.MSG_PEEK)
        case "recv_urgent":
            return "recv(1, MSG_OOB)", lambda sock: sock.recv(1, socket.MSG_OOB)
        case "shutdown":
            return f"shutdown({_HOW[what]})", lambda sock: sock.shutdown(what)
        case "take_error":
            return "getsockopt(SOL_SOCKET, SO_ERROR)", error_of
        case "close":
            return "close()", lambda sock: sock.close()
        case "reset":
            return "close()  # linger 0", _reset
    raise ValueError(f"{step!r}: expected a call of STREAM_CALLS or DATAGRAM_CALLS")
