"""The network of the processes that a program starts.

A child of fork(2) has what its stack leaves it.  Python children that are executed read in
their environment what they shall have, as ``startup/sitecustomize.py`` does for them; other
programs are put into a stack's network namespace where they are started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ..kernel import KernelSocket
from ..stacks import Stack
from ..stacks.current import set_default_stack
from ..stacks.host import is_host
from ..stacks.kernelsocket import StackSocket
from .startup.sitecustomize import enter

__all__ = ["CHILDREN", "children_placed", "network_allowed"]

CHILDREN: Final = ("stack", "refuse", "host")

_STARTUP: Final = str(Path(__file__).with_name("startup"))
_WISH: Final = "VPOLL_CHILDREN"
_PATH: Final = "PYTHONPATH"
# The place of preexec_fn among the arguments of Popen behind the command.
_PREEXEC: Final = 5

_in_child: Callable[[], None] | None = None
"""What a forked child does, once it is one."""


def _forked() -> None:
    if _in_child is not None:
        _in_child()


os.register_at_fork(after_in_child=_forked)


def _choose(choice: str | None, stack: Stack) -> str:
    if is_host(stack):
        return "host"
    enterable = getattr(stack, "helper", None) is not None
    if choice is None:
        return "stack" if enterable else "refuse"
    if choice not in CHILDREN:
        raise ValueError(f"--children {choice!r}: expected one of {', '.join(CHILDREN)}")
    if choice == "stack" and not enterable:
        raise ValueError(
            f"--children stack: the {stack.name} stack is in one process alone: expected refuse or "
            "host, or a stack that is a network namespace (stack=vdestack)"
        )
    return choice


def _network_of(stack: Any) -> tuple[int, int]:
    """Return the process that keeps the namespace of `stack`, and its inode number."""
    return stack.helper, os.stat(f"/proc/{stack.helper}/ns/net").st_ino


@contextlib.contextmanager
def _environment(wish: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (_WISH, _PATH)}
    os.environ[_WISH] = wish
    os.environ[_PATH] = os.pathsep.join(filter(None, [_STARTUP, before[_PATH]]))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def network_allowed() -> Iterator[None]:
    """Lift what a process of `children_placed` has refused to this one, its child."""
    wish = os.environ.pop(_WISH, None)
    try:
        yield
    finally:
        if wish is not None:
            os.environ[_WISH] = wish


@contextlib.contextmanager
def _forks_do(action: Callable[[], None]) -> Iterator[None]:
    global _in_child
    before, _in_child = _in_child, action
    try:
        yield
    finally:
        _in_child = before


@contextlib.contextmanager
def _commands_do(action: Callable[[], None]) -> Iterator[None]:
    """Have the children of `subprocess.Popen` call `action` before they execute anything."""
    before: Any = subprocess.Popen.__init__

    def started(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        given = list(rest)
        positional = len(given) > _PREEXEC
        own = given[_PREEXEC] if positional else options.get("preexec_fn")

        def both() -> None:
            action()
            if own is not None:
                own()

        if positional:
            given[_PREEXEC] = both
        else:
            options["preexec_fn"] = both
        before(self, args, *given, **options)

    setattr(subprocess.Popen, "__init__", started)  # noqa: B010
    try:
        yield
    finally:
        setattr(subprocess.Popen, "__init__", before)  # noqa: B010


def _rebuilt(descriptor: Any, family: int, kind: int, proto: int) -> Any:
    return socket.socket(family, kind, proto, fileno=descriptor.detach())


def _reduced(sock: Any) -> tuple[Any, ...]:
    from multiprocessing import reduction

    descriptor = reduction.DupFd(sock.fileno())
    return _rebuilt, (descriptor, sock.family, sock.type, sock.proto)


def _make_sockets_picklable() -> None:
    """Let `multiprocessing` hand over kernel sockets, as it does with `socket.socket`.

    It knows that class by the name, which `install` gives to another one.
    """
    from multiprocessing import reduction

    for kind in (KernelSocket, StackSocket):
        reduction.register(kind, _reduced)


@contextlib.contextmanager
def children_placed(choice: str | None, stack: Stack) -> Iterator[None]:
    """Give the processes that are started meanwhile a network, or none.

    choice -- ``"stack"``: that of `stack`, which must be a network namespace;
        ``"refuse"``: none, to Python children; ``"host"``: the host's; None: the first
        of the first two that `stack` allows

    Nothing is done where `stack` is the host's.  Enter it after `install`.

    Raises ValueError for another choice and for one that `stack` does not allow.
    """
    _make_sockets_picklable()
    chosen = _choose(choice, stack)
    with contextlib.ExitStack() as undo:
        if chosen == "host" and not is_host(stack):
            undo.enter_context(_forks_do(lambda: (set_default_stack(None), None)[1]))
        elif chosen == "refuse":
            undo.enter_context(_environment(f"refuse:{stack.name}:{os.getpid()}"))
        elif chosen == "stack":
            pid, net = _network_of(stack)
            undo.enter_context(_environment(f"enter:{pid}:{net}"))
            undo.enter_context(_forks_do(lambda: enter(pid, net)))
            undo.enter_context(_commands_do(lambda: enter(pid, net)))
        yield
