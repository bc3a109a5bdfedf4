"""Refusing the kernel's network to what goes round `vpoll_asyncio.install`.

``from socket import socket`` before the test, and classes that programs derive from
`socket.socket`, make kernel sockets whatever the current stack is.  An audit hook hears of
them.  It cannot be removed again: it does nothing while nothing is guarded.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from ...stacks.current import current_stack
from ...stacks.kernelsocket import StackSocket
from .refusal import CLOSED_FAMILIES, RefusingStack

__all__ = ["kernel_network_refused"]

_CALLS: Final = frozenset(("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"))
_NAMES: Final = frozenset(
    ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
)
_OURS: Final = "vpoll_asyncio."
# It makes what a program asked for; every other module of ours makes what it needs itself.
_ON_BEHALF: Final = "vpoll_asyncio.install"

_lock: Final = threading.Lock()
_depth = 0
_heard = False


def _refused(what: str) -> OSError:
    stack = current_stack()
    if isinstance(stack, RefusingStack):
        return OSError(errno.ENETDOWN, f"{what}: {stack.reason}")
    return OSError(
        errno.ENETDOWN,
        f"{what}: the kernel's network is closed here, and this call goes round the {stack.name} "
        "stack: call socket.socket() and socket.getaddrinfo() through the module, since names "
        "taken from it before (`from socket import socket`) and subclasses of socket.socket are "
        "the kernel's; or make it the host's on purpose: "
        "`with vpoll_asyncio.open_stack('host').activate():`",
    )


def _is_ours(frame: FrameType | None) -> bool:
    """Return whether a module of this package calls, for its own purposes."""
    while frame is not None and frame.f_globals.get("__name__") == "socket":
        frame = frame.f_back
    name = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return name.startswith(_OURS) and name != _ON_BEHALF


def _takes_over(frame: FrameType) -> bool:
    """Return whether `frame`, of ``socket.socket.__init__``, makes an object for a descriptor."""
    return frame.f_locals.get("fileno") is not None


def _is_name(host: Any) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if not isinstance(text, str) or text in ("", "localhost", "<broadcast>"):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text.partition("%")[0])
        except OSError:
            continue
        return False
    return True


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if not _depth or event[:7] != "socket.":
        return
    caller = sys._getframe(1)
    if event == "socket.__new__":
        if given[1] not in CLOSED_FAMILIES or _takes_over(caller):
            return
        what = "socket.socket()"
    elif event in _CALLS:
        sock = given[0]
        if sock.family not in CLOSED_FAMILIES or isinstance(sock, StackSocket):
            return
        what = f"{event.partition('.')[2]}() of a kernel socket"
    elif event in _NAMES:
        host = given[0][0] if event == "socket.getnameinfo" else given[0]
        if not _is_name(host):
            return
        what = f"{event}({host!r})"
    else:
        return
    if not _is_ours(caller) and not current_stack().kernel:
        raise _refused(what)


@contextlib.contextmanager
def kernel_network_refused() -> Iterator[None]:
    """Refuse kernel sockets of AF_INET, AF_INET6 and AF_PACKET, and names, to the process.

    Making, binding, connecting and sending raise OSError (ENETDOWN), unless the current
    stack is the host's or another one whose sockets are the kernel's.  What this package
    makes for itself, a stack's link or a backend's pair, is not refused, nor is what the
    kernel accepts.  C code is not heard.  Nests; may be entered from any thread.
    """
    global _depth, _heard
    with _lock:
        _depth += 1
        if not _heard:
            _heard = True
            sys.addaudithook(_hear)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
