"""What Python children of ``vpoll-asyncio run`` import first: they get their network here.

`site` imports a module of this name from PYTHONPATH, which `children.children_placed`
extends.  The environment variable VPOLL_CHILDREN says what is wanted:

``enter:PID:NET`` -- enter the network namespace with the inode number NET, in which the
    process PID is, and its user namespace
``refuse:STACK:PID`` -- have no network: the stack is in the process PID alone

Any Python imports this, whether or not it has the package, so it needs the standard
library only.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

_WISH = "VPOLL_CHILDREN"
_NEWNET = 0x40000000
_NEWUSER = 0x10000000


def _setns(fd: int, kind: int) -> None:
    own: Any = getattr(os, "setns", None)
    if own is not None:
        own(fd, kind)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, kind):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter(pid: int, net: int) -> None:
    """Enter the network namespace `net`, an inode number, of the process `pid`.

    Raises OSError: ESRCH when it has ended, or another one is in its place, and
    setns(2)'s.
    """
    if os.stat("/proc/self/ns/net").st_ino == net:
        return
    opened = []
    try:
        for kind, name in ((_NEWUSER, "user"), (_NEWNET, "net")):
            try:
                fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise OSError(errno.ESRCH, "the stack's network has ended") from None
            opened.append(fd)
            own = os.stat(f"/proc/self/ns/{name}").st_ino
            if kind == _NEWNET and os.fstat(fd).st_ino != net:
                raise OSError(errno.ESRCH, "the stack's network has ended")
            if kind == _NEWUSER and os.fstat(fd).st_ino == own:
                continue
            _setns(fd, kind)
    finally:
        for fd in opened:
            os.close(fd)


def _numeric(host: Any) -> bool:
    import _socket

    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if not isinstance(text, str) or text in ("", "localhost", "<broadcast>"):
        return True
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text.partition("%")[0])
        except OSError:
            continue
        return True
    return False


# SOCK_TYPE_MASK of <linux/net.h>: the other bits are flags.
_KIND = 0xF
_CALLS = frozenset(("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"))
_NAMES = frozenset(
    ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
)


def refuse(stack: str, pid: str) -> None:
    """Refuse what would bring a socket to a network, and names.

    stack, pid -- what the errors say that has the network

    It ends when VPOLL_CHILDREN changes: then a stack has been opened in this process.
    Those of AF_UNIX and AF_NETLINK, and numeric addresses, stay.
    """
    text = (
        f"the {stack} stack is in process {pid} alone, and its child processes have no network: "
        "`vpoll-asyncio run --children host` gives them the host's"
    )

    wish = os.environ.get(_WISH)

    def in_force() -> bool:
        return os.environ.get(_WISH) == wish

    def refused() -> OSError:
        return OSError(errno.ENETDOWN, text)

    def hear(event: str, given: tuple[Any, ...]) -> None:
        if not event.startswith("socket.") or not in_force():
            return
        import _socket

        if event == "socket.__new__":
            # These hear the network without another call.  For the others this would be too
            # early: asyncio's create_server() skips families whose sockets cannot be made.
            if given[1] == _socket.AF_PACKET or given[2] & _KIND == _socket.SOCK_RAW:
                raise refused()
        elif event in _CALLS:
            if given[0].family in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_PACKET):
                raise refused()
        elif event in _NAMES:
            host = given[0][0] if event == "socket.getnameinfo" else given[0]
            if not _numeric(host):
                raise _socket.gaierror(_socket.EAI_AGAIN, text)

    sys.addaudithook(hear)
    sys.meta_path.insert(0, _UvloopRefuser(in_force, refused))


class _UvloopRefuser:
    """Finds uvloop, whose C code makes sockets that no audit hook hears of."""

    def __init__(self, in_force: Callable[[], bool], refused: Callable[[], OSError]) -> None:
        self._in_force = in_force
        self._refused = refused

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of uvloop, whose loops refuse, and None for all else."""
        if name != "uvloop":
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                self._close(module.Loop)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010
        return spec

    def _close(self, loop: Any) -> None:
        def closed(name: str) -> Any:
            stock = getattr(loop, name)

            async def refusing(self_: Any, *args: Any, **options: Any) -> Any:
                # The socket that a program gives has been asked for already.
                if options.get("sock") is None and self._in_force():
                    raise self._refused()
                return await stock(self_, *args, **options)

            return refusing

        for name in (
            "create_connection",
            "create_server",
            "create_datagram_endpoint",
            "getaddrinfo",
            "getnameinfo",
        ):
            setattr(loop, name, closed(name))


def _obey(wish: str) -> None:
    kind, _, rest = wish.partition(":")
    first, _, second = rest.partition(":")
    if kind == "refuse":
        refuse(first, second)
        return
    try:
        enter(int(first), int(second))
    except OSError as error:
        # Without the stack's network there is none: the host's is not meant.
        sys.stderr.write(f"vpoll-asyncio: cannot enter the stack's network: {error}\n")
        refuse("vdestack", first)


def _give_way() -> None:
    """Import the module of this name that is there without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    ours = sys.modules.pop(__name__, None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules[__name__] = ours


if __name__ == "sitecustomize":
    if _WISH in os.environ:
        _obey(os.environ[_WISH])
    _give_way()
