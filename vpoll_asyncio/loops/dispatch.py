"""What our loops have in common: who carries out a call, the kernel's loop or we.

Vpolls and user sockets are waited for on their wait queues; connections, servers and
names go to the current stack.  Everything else falls through to the loop that the
class is mixed into.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import socket
import warnings
from collections.abc import Callable, Coroutine
from typing import IO, TYPE_CHECKING, Any, Protocol

from .. import transports
from ..events import IN, OUT
from ..relay import relay_of
from ..selector import vpoll_of
from ..sockets import UserSocket
from ..stacks.base import Stack
from ..stacks.current import current_stack
from ..stacks.host import host_is_meant, host_stack, is_host
from ..stacks.kernelsocket import stack_of_socket
from ..transports import sockops
from ..vpoll import VPoll
from .pollers import Pollers

__all__ = ["DispatchMixin", "Watcher"]

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    _Base = asyncio.AbstractEventLoop
else:
    _Base = object


def _is_ours(transport: object) -> bool:
    return isinstance(transport, asyncio.BaseTransport) and isinstance(
        transport.get_extra_info("socket"), transports.SocketView
    )


def _warn_of_host(call: str, sock: object) -> None:
    """Warn where a plain kernel socket is used and the current stack is another's.

    Such a program has the sockets of its stack in mind, and its data go to the real network.
    """
    if not isinstance(sock, socket.socket) or stack_of_socket(sock) is not None:
        return
    stack = current_stack()
    if is_host(stack) or not stack.claims(sock.family) or host_is_meant():
        return
    warnings.warn(
        f"{call}() got a socket of the host, and the current stack is {stack.name}: its data go "
        "through the host's network. Make it with the stack's socket(), or under "
        "vpoll_asyncio.install(); if the host is meant, call this within "
        "open_stack('host').activate()",
        RuntimeWarning,
        stacklevel=3,
    )


class Watcher(Protocol):
    """What calls back while an event is pending."""

    def cancel(self) -> None:
        """End it: no call comes any more."""


class DispatchMixin(_Base):
    """Mixed into an event loop: takes vpolls and user sockets wherever descriptors are taken.

    The class must set `stack` aside with `init_dispatch`, implement `start_watch`, and
    call `shut_dispatch` in `close`.
    """

    def init_dispatch(self, stack: Stack | None) -> None:
        """Begin with `stack` as the loop's own, and drive it."""
        if stack is not None and not isinstance(stack, Stack):
            raise TypeError(f"stack must be what open_stack() returns, not {stack!r}")
        self._stack = stack
        self._readers: dict[VPoll, Watcher] = {}
        self._writers: dict[VPoll, Watcher] = {}
        self._numbers: dict[int, VPoll] = {}
        self._pollers = Pollers()
        self._attached: set[Stack] = set()
        if stack is not None:
            self.attach_stack(stack)

    @property
    def stack(self) -> Stack | None:
        """The stack that calls in this loop mean when the context names none."""
        return self._stack

    def attach_stack(self, stack: Stack) -> None:
        """Drive `stack` (`Stack.attach`) until the loop is closed.

        Raises RuntimeError as `Stack.attach` does.
        """
        stack.attach(self)
        if stack not in self._attached:
            self._attached = {known for known in self._attached if not known.closed}
            self._attached.add(stack)

    def shut_dispatch(self, close: Callable[[], None]) -> None:
        """Cancel all watches, give up the stacks, then call `close`."""
        with contextlib.ExitStack() as steps:
            steps.callback(relay_of(self).close)
            steps.callback(transports.release, self)
            steps.callback(close)
            for stack in self._attached:
                steps.callback(stack.detach, self)
            self._attached = set()
            steps.callback(self._pollers.clear)
            for table in (self._readers, self._writers):
                while table:
                    table.popitem()[1].cancel()
            self._numbers.clear()

    # Readers and writers.

    @abc.abstractmethod
    def start_watch(
        self, vpoll: VPoll, interest: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> Watcher:
        """Call `callback(*args)` in each turn while an event of `interest` is pending."""

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` while `fd` is readable: IN, ERR or HUP is pending.

        fd -- a descriptor or file object of the kernel's, or a VPoll, a user socket or a
            virtual number, which need no descriptor

        It replaces the reader that `fd` had.  Raises RuntimeError when the loop is
        closed, OSError (EBADF) when the vpoll is.
        """
        vpoll = vpoll_of(fd)
        if vpoll is None:
            super().add_reader(fd, callback, *args)
        else:
            self._watch(self._readers, fd, vpoll, IN, callback, args)

    def add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` while `fd` is writable: OUT, ERR or HUP is pending.

        As `add_reader`.
        """
        vpoll = vpoll_of(fd)
        if vpoll is None:
            super().add_writer(fd, callback, *args)
        else:
            self._watch(self._writers, fd, vpoll, OUT, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        """Stop calling the reader of `fd`, open or closed; return whether there was one.

        For descriptors of the kernel uvloop returns None.
        """
        return self._unwatch(self._readers, fd, super().remove_reader)

    def remove_writer(self, fd: Any) -> bool:
        """Stop calling the writer of `fd`, open or closed; return whether there was one.

        As `remove_reader`.
        """
        return self._unwatch(self._writers, fd, super().remove_writer)

    def _watch(
        self,
        table: dict[VPoll, Watcher],
        fd: Any,
        vpoll: VPoll,
        interest: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        new = self.start_watch(vpoll, interest, callback, args)
        old = table.get(vpoll)
        table[vpoll] = new
        if isinstance(fd, int):
            self._numbers[fd] = vpoll
        if old is not None:
            old.cancel()

    def _unwatch(self, table: dict[VPoll, Watcher], fd: Any, remove: Callable[[Any], bool]) -> bool:
        vpoll = self._numbers.get(fd) if isinstance(fd, int) else None
        if vpoll is None:
            try:
                vpoll = vpoll_of(fd)
            except OSError:
                # A number that has gone: nothing can be registered for it.
                return False
            if vpoll is None:
                return remove(fd)
        watcher = table.pop(vpoll, None)
        if watcher is None:
            return False
        watcher.cancel()
        if vpoll not in self._readers and vpoll not in self._writers:
            self._numbers = {n: known for n, known in self._numbers.items() if known is not vpoll}
        return True

    def add_poller(
        self, fileobj: FileDescriptorLike, mask: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call ``callback(*args, seen)`` in each turn while an event of `mask` is pending.

        fileobj -- a descriptor or an object with ``fileno()``; or a VPoll, a user socket or
            a virtual number, which need no descriptor
        mask -- any events (`EventMask`, ``select.EPOLL*``), bits 0 to 27: PRI alone, say
        seen -- what is pending of them, and ERR and HUP, as an EventMask

        Level-triggered, as readers are, and independent of the readers and writers and
        of the transport that `fileobj` may have.  It replaces the poller that `fileobj`
        had.  A descriptor of the kernel takes one more, of an epoll.  Once it is closed
        its poller hears of nothing more, but must be removed.

        Raises ValueError for other bits, RuntimeError when the loop is closed, OSError:
        EBADF when `fileobj` is closed, EPERM for a file that is always ready (one on
        disk), EMFILE, ENFILE; TypeError for what is no file.
        """
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        self._pollers.add(self, fileobj, mask, callback, args)

    def remove_poller(self, fileobj: FileDescriptorLike) -> bool:
        """Stop calling the poller of `fileobj`, open or closed; return whether there was one."""
        return self._pollers.remove(fileobj)

    # Connections, servers, names: the stack's or the kernel's.

    def _stack_of(self, sock: Any, family: int = 0) -> Stack | None:
        """Return the stack that a call is for, None when the loop itself carries it out."""
        if isinstance(sock, UserSocket):
            return sock.stack
        if sock is not None or family == socket.AF_UNIX:
            return None
        stack = current_stack()
        return None if is_host(stack) else stack

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect on the current stack, or take over `sock`, a user socket or a kernel's.

        A socket of the host is a RuntimeWarning where the current stack is another.
        """
        stack = self._stack_of(sock)
        if stack is None:
            _warn_of_host("create_connection", sock)
            return await super().create_connection(
                protocol_factory, host, port, sock=sock, **options
            )
        return await transports.create_connection(
            self, protocol_factory, host, port, stack=stack, sock=sock, **options
        )

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """Listen on the current stack, or take over `sock`, a user socket or a kernel's."""
        stack = self._stack_of(sock)
        if stack is None:
            return await super().create_server(protocol_factory, host, port, sock=sock, **options)
        if stack.kernel:
            return await transports.create_kernel_server(
                self, protocol_factory, host, port, stack=stack, **options
            )
        return await transports.create_server(
            self, protocol_factory, host, port, stack=stack, sock=sock, **options
        )

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Make a datagram endpoint on the current stack, or take over `sock`.

        A socket of the host is a RuntimeWarning where the current stack is another.
        """
        stack = self._stack_of(sock, family)
        if stack is None:
            _warn_of_host("create_datagram_endpoint", sock)
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, family=family, sock=sock, **options
            )
        return await transports.create_datagram_endpoint(
            self,
            protocol_factory,
            local_addr,
            remote_addr,
            stack=stack,
            family=family,
            sock=sock,
            **options,
        )

    async def connect_accepted_socket(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Take over `sock`, which a server outside asyncio accepted."""
        if self._stack_of(sock) is None:
            return await super().connect_accepted_socket(protocol_factory, sock, **options)
        return await transports.connect_accepted_socket(self, protocol_factory, sock, **options)

    async def start_tls(
        self, transport: Any, protocol: asyncio.BaseProtocol, sslcontext: Any, **options: Any
    ) -> Any:
        """Upgrade `transport`, ours or the kernel's, to TLS; return the new transport."""
        if _is_ours(transport):
            return await transports.start_tls(self, transport, protocol, sslcontext, **options)
        return await super().start_tls(transport, protocol, sslcontext, **options)

    async def sendfile(
        self,
        transport: Any,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send `file` over `transport`; return the count of bytes."""
        if _is_ours(transport):
            return await transports.sendfile(
                self, transport, file, offset, count, fallback=fallback
            )
        return await super().sendfile(transport, file, offset, count, fallback=fallback)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Resolve by the current stack, the kernel's in an executor."""
        stack = current_stack()
        if not is_host(stack):
            return await stack.agetaddrinfo(host, port, family, type, proto, flags)
        return await self.kernel_getaddrinfo(host, port, family, type, proto, flags)

    async def kernel_getaddrinfo(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> Any:
        """Resolve by the kernel's names, whatever the process default is."""
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Name an address by the current stack."""
        stack = current_stack()
        if not is_host(stack):
            return await stack.agetnameinfo(sockaddr, flags)
        return await self.kernel_getnameinfo(sockaddr, flags)

    async def kernel_getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Name an address by the kernel's names, whatever the process default is."""
        return await super().getnameinfo(sockaddr, flags)

    # Sockets.

    def sock_recv(self, sock: socket.socket, nbytes: int) -> Coroutine[Any, Any, bytes]:
        """Receive up to `nbytes` bytes."""
        if isinstance(sock, UserSocket):
            return sockops.sock_recv(self, sock, nbytes)
        return super().sock_recv(sock, nbytes)

    def sock_recv_into(self, sock: socket.socket, buf: Any) -> Coroutine[Any, Any, int]:
        """Receive into `buf`; return the count."""
        if isinstance(sock, UserSocket):
            return sockops.sock_recv_into(self, sock, buf)
        return super().sock_recv_into(sock, buf)

    def sock_recvfrom(
        self, sock: socket.socket, bufsize: int
    ) -> Coroutine[Any, Any, tuple[bytes, Any]]:
        """Receive a datagram; return (data, sender)."""
        if isinstance(sock, UserSocket):
            return sockops.sock_recvfrom(self, sock, bufsize)
        return super().sock_recvfrom(sock, bufsize)

    def sock_recvfrom_into(
        self, sock: socket.socket, buf: Any, nbytes: int = 0
    ) -> Coroutine[Any, Any, tuple[int, Any]]:
        """Receive a datagram into `buf`; return (count, sender)."""
        if isinstance(sock, UserSocket):
            return sockops.sock_recvfrom_into(self, sock, buf, nbytes)
        return super().sock_recvfrom_into(sock, buf, nbytes)

    def sock_sendall(self, sock: socket.socket, data: Any) -> Coroutine[Any, Any, None]:
        """Send all of `data`."""
        if isinstance(sock, UserSocket):
            return sockops.sock_sendall(self, sock, data)
        return super().sock_sendall(sock, data)

    def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> Coroutine[Any, Any, int]:
        """Send a datagram; return the count.  A name is resolved by the socket's own stack."""
        if isinstance(sock, UserSocket):
            return sockops.sock_sendto(self, sock, data, address)
        stack = stack_of_socket(sock)
        if stack is None:
            return super().sock_sendto(sock, data, address)
        return self._sendto_on(stack, sock, data, address)

    async def _sendto_on(self, stack: Stack, sock: socket.socket, data: Any, address: Any) -> int:
        return await super().sock_sendto(sock, data, await self._numeric(stack, sock, address))

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect `sock`; a name in `address` is resolved by the socket's own stack.

        A socket of the host is a RuntimeWarning where the current stack is another.
        """
        if isinstance(sock, UserSocket):
            await sockops.sock_connect(self, sock, address)
            return
        _warn_of_host("sock_connect", sock)
        stack = stack_of_socket(sock)
        if stack is not None:
            address = await self._numeric(stack, sock, address)
        with host_stack().activate():
            await super().sock_connect(sock, address)

    async def _numeric(self, stack: Stack, sock: socket.socket, address: Any) -> Any:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
            return address
        with stack.activate():
            found = await self.getaddrinfo(
                *address[:2], family=sock.family, type=sock.type, proto=sock.proto
            )
        # Flow information and scope id are the caller's.
        return (*found[0][4][:2], *(address[2:] or found[0][4][2:]))

    def sock_accept(self, sock: socket.socket) -> Coroutine[Any, Any, tuple[socket.socket, Any]]:
        """Accept a connection; return (socket, peer)."""
        if isinstance(sock, UserSocket):
            return sockops.sock_accept(self, sock)
        return super().sock_accept(sock)

    def sock_sendfile(
        self,
        sock: socket.socket,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> Coroutine[Any, Any, int]:
        """Send `file` over `sock`; return the count of bytes."""
        if isinstance(sock, UserSocket):
            return sockops.sock_sendfile(self, sock, file, offset, count, fallback=bool(fallback))
        return super().sock_sendfile(sock, file, offset, count, fallback=bool(fallback))
