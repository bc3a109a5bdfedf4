"""What programs see of a transport's socket."""

from __future__ import annotations

from asyncio.trsock import TransportSocket

from ..sockets import UserSocket

__all__ = ["SocketView"]


class SocketView(TransportSocket):
    """A user socket as `get_extra_info` ("socket") gives it, without its reads and writes.

    It has the methods of `asyncio.trsock.TransportSocket`.  Printing it makes no
    descriptor; only `fileno` does.
    """

    __slots__ = ("_shown",)

    def __init__(self, sock: UserSocket) -> None:
        super().__init__(sock)
        self._shown = sock

    def fileno(self) -> int:
        """Return a descriptor that shows the socket's events, on every loop; -1 once closed.

        The transport keeps the socket to itself, so nobody takes it for a socket's own.
        """
        vpoll = self._shown.vpoll
        return -1 if vpoll.closed else vpoll.fileno()

    def __repr__(self) -> str:
        sock = self._shown
        parts = [f"stack={sock.stack.name}", f"family={sock.family!s}", f"type={sock.type!s}"]
        for name, ask in (("laddr", sock.getsockname), ("raddr", sock.getpeername)):
            try:
                parts.append(f"{name}={ask()}")
            except OSError:
                pass
        return f"<TransportSocket {', '.join(parts)}>"
