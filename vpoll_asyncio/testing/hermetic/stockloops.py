"""Event loops that know nothing of stacks, made to ask for the current one.

A stock asyncio loop looks names up in threads, which see no context, and stock uvloop makes
its sockets in C.  What they do for connections, servers and names is handed to the
transports of this package wherever the current stack is not the host's, whoever made the
loop, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from asyncio import selector_events
from collections.abc import Callable, Iterator
from typing import Any, Final

from ... import transports
from ...events import IN, OUT
from ...program.loops import uvloop_module
from ...sockets import UserSocket
from ...stacks.base import Stack
from ...stacks.current import current_stack
from ...stacks.host import is_host
from ...transports import sockops
from ...vpoll import VPoll
from ...watch import Watch

__all__ = ["stock_loops_dispatching"]

_Stock = Callable[..., Any]


def _other_stack(sock: object, family: int) -> Stack | None:
    """Return the stack that a call is for, None when the loop itself carries it out."""
    if isinstance(sock, UserSocket):
        return sock.stack
    if sock is not None or family == socket.AF_UNIX:
        return None
    stack = current_stack()
    return None if is_host(stack) else stack


def _serve(loop: asyncio.AbstractEventLoop, factory: Any, *where: Any, **options: Any) -> Any:
    if options["stack"].kernel:
        options.pop("sock", None)
        return transports.create_kernel_server(loop, factory, *where, **options)
    return transports.create_server(loop, factory, *where, **options)


def _making(stock: _Stock, ours: Callable[..., Any]) -> Any:
    @functools.wraps(stock)
    async def make(self: Any, factory: Any, *where: Any, **options: Any) -> Any:
        stack = _other_stack(options.get("sock"), options.get("family", 0))
        if stack is None:
            return await stock(self, factory, *where, **options)
        return await ours(self, factory, *where, stack=stack, **options)

    return make


def _accepted(stock: _Stock) -> Any:
    @functools.wraps(stock)
    async def connect(self: Any, protocol_factory: Any, sock: Any, **options: Any) -> Any:
        if isinstance(sock, UserSocket):
            ours = transports.connect_accepted_socket
            return await ours(self, protocol_factory, sock, **options)
        return await stock(self, protocol_factory, sock, **options)

    return connect


def _over(stock: _Stock, ours: Callable[..., Any]) -> Any:
    @functools.wraps(stock)
    async def over(self: Any, transport: Any, *args: Any, **options: Any) -> Any:
        is_transport = isinstance(transport, asyncio.BaseTransport)
        if is_transport and isinstance(transport.get_extra_info("socket"), transports.SocketView):
            return await ours(self, transport, *args, **options)
        return await stock(self, transport, *args, **options)

    return over


def _sock(stock: _Stock, ours: Callable[..., Any]) -> Any:
    @functools.wraps(stock)
    async def operate(self: Any, sock: Any, *args: Any, **options: Any) -> Any:
        if isinstance(sock, UserSocket):
            return await ours(self, sock, *args, **options)
        return await stock(self, sock, *args, **options)

    return operate


def _look_up(stock: _Stock) -> Any:
    @functools.wraps(stock)
    async def getaddrinfo(self: Any, host: Any, port: Any, **options: Any) -> Any:
        stack = current_stack()
        if is_host(stack):
            return await stock(self, host, port, **options)
        return await stack.agetaddrinfo(host, port, **options)

    return getaddrinfo


def _name(stock: _Stock) -> Any:
    @functools.wraps(stock)
    async def getnameinfo(self: Any, sockaddr: Any, flags: int = 0) -> Any:
        stack = current_stack()
        if is_host(stack):
            return await stock(self, sockaddr, flags)
        return await stack.agetnameinfo(sockaddr, flags)

    return getnameinfo


_watches: Final[dict[asyncio.AbstractEventLoop, dict[tuple[VPoll, int], Watch]]] = {}
"""The readers (IN) and writers (OUT) that user sockets have on stock uvloop's loops."""


def _watched_of(loop: asyncio.AbstractEventLoop) -> dict[tuple[VPoll, int], Watch]:
    if loop not in _watches:
        for other in [known for known in _watches if known.is_closed()]:
            _unwatch(_watches.pop(other))
    return _watches.setdefault(loop, {})


def _unwatch(watches: dict[tuple[VPoll, int], Watch]) -> None:
    while watches:
        watches.popitem()[1].cancel()


def _adding(stock: _Stock, interest: int) -> Any:
    @functools.wraps(stock)
    def add(self: Any, fileobj: Any, callback: Callable[..., object], *args: Any) -> Any:
        if not isinstance(fileobj, UserSocket):
            return stock(self, fileobj, callback, *args)
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        watches = _watched_of(self)
        new = Watch(self, fileobj.vpoll, interest, callback, args=args)
        old = watches.pop((fileobj.vpoll, interest), None)
        watches[fileobj.vpoll, interest] = new
        if old is not None:
            old.cancel()
        return None

    return add


def _removing(stock: _Stock, interest: int) -> Any:
    @functools.wraps(stock)
    def remove(self: Any, fileobj: Any) -> Any:
        if not isinstance(fileobj, UserSocket):
            return stock(self, fileobj)
        watch = _watches.get(self, {}).pop((fileobj.vpoll, interest), None)
        if watch is not None:
            watch.cancel()
        return watch is not None

    return remove


# libuv would poll a descriptor of the socket's, and there is none that it could not misuse.
_OF_UVLOOP: Final[dict[str, Callable[[_Stock], Any]]] = {
    "add_reader": lambda stock: _adding(stock, IN),
    "add_writer": lambda stock: _adding(stock, OUT),
    "remove_reader": lambda stock: _removing(stock, IN),
    "remove_writer": lambda stock: _removing(stock, OUT),
}

_REPLACEMENTS: Final[dict[str, Callable[[_Stock], Any]]] = {
    "create_connection": lambda stock: _making(stock, transports.create_connection),
    "create_server": lambda stock: _making(stock, _serve),
    "create_datagram_endpoint": lambda stock: _making(stock, transports.create_datagram_endpoint),
    "connect_accepted_socket": _accepted,
    "start_tls": lambda stock: _over(stock, transports.start_tls),
    "sendfile": lambda stock: _over(stock, transports.sendfile),
    "getaddrinfo": _look_up,
    "getnameinfo": _name,
    "sock_recv": lambda stock: _sock(stock, sockops.sock_recv),
    "sock_recv_into": lambda stock: _sock(stock, sockops.sock_recv_into),
    "sock_recvfrom": lambda stock: _sock(stock, sockops.sock_recvfrom),
    "sock_recvfrom_into": lambda stock: _sock(stock, sockops.sock_recvfrom_into),
    "sock_sendall": lambda stock: _sock(stock, sockops.sock_sendall),
    "sock_sendto": lambda stock: _sock(stock, sockops.sock_sendto),
    "sock_connect": lambda stock: _sock(stock, sockops.sock_connect),
    "sock_accept": lambda stock: _sock(stock, sockops.sock_accept),
    "sock_sendfile": lambda stock: _sock(stock, sockops.sock_sendfile),
}

_lock: Final = threading.Lock()
_depth = 0
_undo: Final = contextlib.ExitStack()


def _dispatch(cls: Any, replacements: dict[str, Callable[[_Stock], Any]]) -> None:
    for name, replacement in replacements.items():
        stock = getattr(cls, name)
        if name in vars(cls):
            _undo.callback(setattr, cls, name, stock)
        else:
            _undo.callback(delattr, cls, name)
        setattr(cls, name, replacement(stock))


@contextlib.contextmanager
def stock_loops_dispatching() -> Iterator[None]:
    """Have stock asyncio's and uvloop's loops ask for the current stack, for the whole process.

    Loops that exist already are covered, as are classes derived from theirs.  uvloop's then
    take user sockets in `add_reader` and `add_writer`, as asyncio's do by the descriptor.
    Unix sockets, pipes, processes and kernel sockets that a program hands in stay the
    loop's own.
    Entering it imports uvloop where it is installed: enter it before
    `vpoll_asyncio.install`, since uvloop takes the kernel's names from the socket module.
    Nests; may be entered from any thread.
    """
    global _depth
    with _lock:
        if not _depth:
            _dispatch(selector_events.BaseSelectorEventLoop, _REPLACEMENTS)
            uvloop = uvloop_module()
            if uvloop is not None:
                _dispatch(uvloop.Loop, {**_REPLACEMENTS, **_OF_UVLOOP})
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _undo.close()
                while _watches:
                    _unwatch(_watches.popitem()[1])
