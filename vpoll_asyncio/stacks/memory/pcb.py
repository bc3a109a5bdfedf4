"""What stream and datagram endpoints have in common: a protocol control block.

A block belongs to its socket and, when that is closed, to whoever still refers to
it.  Blocks never refer to the socket object, so a socket that nobody uses any more
is collected, as a kernel socket is.

A network has one lock.  State changes under it, each leaving `Pcb.mask` at what the
kernel's socket would show, and is told to the vpoll after it has been released, so
that no waiter runs under the lock.  Sections under the lock hold together when a
signal handler or a finalizer interrupts them in the same thread: they test, then
change, and masks are computed from the state rather than from one another.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from ...events import HUP, RDHUP
from ...hot.pipe import RCV, SND, PipeState, R, W
from ...vpoll import VPoll
from .addresses import ANY, ANY6, is_six, oserror

if TYPE_CHECKING:
    from .network import Host
    from .ports import PortTable

__all__ = [
    "ADDR_LOCKED",
    "BOTH",
    "DEAD",
    "PORT_LOCKED",
    "RCV",
    "SND",
    "Pcb",
    "R",
    "W",
    "publish",
]

DEAD: Final = R | W | HUP | RDHUP

# The kernel's SHUTDOWN_MASK.
BOTH: Final = 3

# SOCK_BINDADDR_LOCK and SOCK_BINDPORT_LOCK.
ADDR_LOCKED: Final = 4
PORT_LOCKED: Final = 8


class Pcb(PipeState):
    """One endpoint.  Everything but `publish` is called under `lock`."""

    __slots__ = (
        "held",
        "host",
        "key",
        "laddr",
        "locked",
        "lport",
        "options",
        "raddr",
        "reuse",
        "reuseport",
        "rport",
        "six",
        "table",
        "v6only",
    )

    host: Host
    six: bool
    """Whether the socket is of AF_INET6."""
    locked: int
    """What bind(2) has fixed: ADDR_LOCKED, PORT_LOCKED."""
    laddr: str
    lport: int
    """The local port as getsockname(2) tells it."""
    raddr: str
    rport: int
    vpoll: VPoll | None
    key: tuple[str, int, str, int] | None
    """What the host holds for a connection, so that no second one is like it."""
    held: int
    v6only: bool
    reuse: bool
    reuseport: bool
    table: PortTable[Any] | None
    """Where the local port `held` is to be given back; None while none is held."""
    options: dict[tuple[int, int], int | bytes] | None

    def __init__(self, host: Host, six: bool) -> None:
        super().__init__()
        self.host = host
        self.lock = host.network.lock
        self.six = six
        self.laddr = ANY6 if six else ANY
        self.lport = 0
        self.raddr = ""
        self.rport = 0
        self.key = None
        self.table = None
        self.held = 0
        self.locked = 0
        self.v6only = self.reuse = self.reuseport = False
        self.options = None

    def take_error(self) -> int:
        """Return the pending error and forget it (sock_error)."""
        number = self.error
        if number:
            self.error = 0
            self.refresh()
        return number

    def show(self) -> None:
        publish(self)

    def check_up(self) -> None:
        """Raise OSError (ENETDOWN) when the stack has been closed."""
        if self.host.down:
            raise OSError(errno.ENETDOWN, "the memory stack of this socket is closed")

    def abandon(self, touched: list[Pcb]) -> None:
        """The stack is closed under the socket."""
        raise NotImplementedError

    def bind(self, address: str, port: int) -> None:
        """Bind to the local `address` and `port`; port 0 chooses one (inet_bind)."""
        host = self.host
        if self.six and self.v6only and ":" not in address:
            raise oserror(errno.EINVAL)
        if address not in (ANY, ANY6) and not host.owns(address) and not self.may_bind(address):
            raise oserror(errno.EADDRNOTAVAIL)
        if self.table is not None or self.closed_to_bind():
            raise oserror(errno.EINVAL)
        self.laddr = address
        try:
            self.take_port(port)
        except OSError:
            # Not what it was before (inet_reset_saddr).
            self.laddr = ANY6 if self.six else ANY
            raise
        # What an earlier bind(2) has fixed stays so.
        if address not in (ANY, ANY6):
            self.locked |= ADDR_LOCKED
            if is_six(address):
                # __inet6_bind() does so.
                self.v6only = True
        if port:
            self.locked |= PORT_LOCKED

    def named(self, address: str) -> str:
        """Return the destination that `address` stands for: a wildcard is the host itself."""
        laddr = self.laddr
        if address == ANY:
            own = not is_six(laddr) and self.host.owns(laddr)
            return laddr if own else "127.0.0.1"
        if address == ANY6:
            return "::1" if is_six(laddr) else "127.0.0.1"
        return address

    def check_mapped(self, address: str) -> None:
        """Raise OSError (ENETUNREACH) when a socket of AF_INET6 cannot reach this IPv4 address."""
        if self.six and self.v6only and not is_six(address):
            raise oserror(errno.ENETUNREACH)

    def check_native(self, address: str) -> None:
        """Raise OSError (EAFNOSUPPORT) for an IPv6 address and a socket at an IPv4 one."""
        if is_six(address) and not is_six(self.laddr):
            raise oserror(errno.EAFNOSUPPORT)

    def may_bind(self, address: str) -> bool:
        """Return whether an address that the host does not own may be bound all the same."""
        return False

    def closed_to_bind(self) -> bool:
        """Return whether the state forbids bind(2)."""
        return False

    def ports(self) -> PortTable[Any]:
        """Return the host's table of the protocol's ports."""
        raise NotImplementedError

    def take_port(self, port: int) -> None:
        """Take `port` of the local address, or a free one for 0.  Raises OSError (EADDRINUSE)."""
        table = self.ports()
        self.lport = self.held = table.take(self, port)
        self.table = table

    def release_port(self) -> None:
        """Give the local port back."""
        table = self.table
        if table is not None:
            self.table = None
            table.remove(self, self.held)


def publish(*blocks: Pcb) -> None:
    """Show each block's mask on its vpoll and wake the waiters.

    Called without the lock.  Of several threads that publish, the last one to set
    looks again and finds what it has set, so the mask ends right in any order.
    """
    for pcb in blocks:
        vpoll = pcb.vpoll
        if vpoll is None:
            continue
        mask = -1
        try:
            while pcb.mask != mask:
                file = vpoll.file
                if file is None or file.pending is not None:
                    mask = pcb.mask
                    vpoll.set_events(mask)
                else:
                    # The same without a call, as in `PipeState.send`.
                    mask = file.mask = pcb.mask
                    for waiter in file.waiters:
                        waiter(mask)
        except OSError as exc:
            # The socket has been closed meanwhile: nobody waits any more.  Or its kernel
            # object is gone, of which its own waiters, and not its peer, have been told.
            if exc.errno != errno.EBADF and vpoll.failure is None:
                raise
