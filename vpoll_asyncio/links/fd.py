"""Links over a descriptor that keeps packet bounds.

One ``read(2)`` is one frame: datagram and seqpacket sockets, TAP and TUN devices.
A byte stream is none of these, and neither is a pipe.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Final, get_args

from ..ending import unclosed
from ..kernel import KernelSocket
from .base import Link, Medium, NativePort
from .limits import FRAME_LOST, check_mtu, closed_error, longest_frame, shortest_frame

__all__ = ["FdLink"]

_BATCH: Final = 64
_PACKET_TYPES: Final = (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW)

# What a connected datagram socket reports when nobody listened to an earlier frame, and
# what a UNIX or seqpacket socket reports when its peer is gone for good.
_NOBODY_LISTENS: Final = (errno.ECONNREFUSED, errno.ECONNRESET)
_GONE: Final = (*_NOBODY_LISTENS, errno.EPIPE, errno.ENOTCONN)


class FdLink(Link):
    """A link over a descriptor of the kernel's that keeps packet bounds.

    Parameters:
    fd -- a connected SOCK_DGRAM, SOCK_SEQPACKET or SOCK_RAW socket object, or the number
        of such a socket or of a character device (TAP, TUN).  It becomes non-blocking.
    medium -- ``"ethernet"`` or ``"ip"``: what one frame is
    mtu -- most bytes of IP packet in one frame
    closefd -- whether `close` closes the descriptor; the link owns it by default

    On UNIX and seqpacket sockets a peer that has gone makes both directions raise
    ConnectionResetError.  Elsewhere, nobody listening is a cable that is unplugged:
    the frame is dropped and counted.

    Raises ValueError for a descriptor that does not keep packet bounds, a wrong
    medium or mtu, and OSError (EBADF) for one that is not open.  When it raises, the
    descriptor is still the caller's.
    """

    def __init__(
        self,
        fd: int | socket.socket,
        *,
        medium: Medium = "ethernet",
        mtu: int = 1500,
        closefd: bool = True,
    ) -> None:
        self._fd = -1
        if medium not in get_args(Medium):
            raise ValueError(f"medium {medium!r}: expected one of {', '.join(get_args(Medium))}")
        self.medium = medium
        self.mtu = check_mtu(mtu)
        self._longest = longest_frame(medium, mtu)
        self._shortest = shortest_frame(medium)
        self._closefd = closefd
        self._error: OSError | None = None
        self._socket: socket.socket | None = None
        self._peer_can_go = self._ends_with_empty = self._loses_peer = False
        self._read: Callable[[int], bytes]
        self._write: Callable[[bytes], int]
        number = fd if isinstance(fd, int) else fd.fileno()
        mode = os.fstat(number).st_mode
        if stat.S_ISSOCK(mode):
            self._take_socket(fd)
        elif stat.S_ISCHR(mode):
            os.set_blocking(number, False)
            self._read = functools.partial(os.read, number)
            self._write = functools.partial(os.write, number)
        else:
            raise ValueError(
                f"descriptor {number} is neither a socket nor a TAP or TUN device, and would "
                "not keep packet bounds"
            )
        self._fd = number

    def _take_socket(self, fd: int | socket.socket) -> None:
        sock = KernelSocket(fileno=fd) if isinstance(fd, int) else fd
        if sock.type not in _PACKET_TYPES:
            number = sock.detach() if isinstance(fd, int) else sock.fileno()
            raise ValueError(
                f"descriptor {number} is a socket of type {sock.type!r}, which does not keep "
                "packet bounds: use a SOCK_DGRAM or SOCK_SEQPACKET socket"
            )
        sock.setblocking(False)
        self._socket = sock
        self._read, self._write = sock.recv, sock.send
        self._ends_with_empty = sock.type == socket.SOCK_SEQPACKET
        self._peer_can_go = self._ends_with_empty or sock.family == socket.AF_UNIX
        self._loses_peer = sock.family == socket.AF_UNIX and _has_peer(sock)

    @property
    def pollable(self) -> int:
        if self._fd < 0:
            raise closed_error(self)
        return self._fd

    def recv_batch(self, limit: int = _BATCH) -> list[bytes]:
        self._check()
        frames: list[bytes] = []
        read, longest = self._read, self._longest
        for _ in range(limit):
            try:
                frame = read(longest + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if self._is_passing(error):
                    continue
                self._error = self._gone(error)
                break
            if not frame and self._ends_with_empty:
                self._error = self._gone(None)
                break
            if 0 < len(frame) <= longest:
                frames.append(frame)
            else:
                self.dropped += 1
        if not frames:
            self._look_for_peer()
            self._check()
        return frames

    def _look_for_peer(self) -> None:
        """Notice the end that a write of compiled code has met, and only that write saw.

        The kernel then disconnects a UNIX datagram socket (net/unix/af_unix.c).
        """
        sock = self._socket
        if self._loses_peer and sock is not None and not _has_peer(sock):
            self._error = self._gone(None)

    def send_batch(self, frames: Sequence[bytes]) -> int:
        self._check()
        write, shortest, longest = self._write, self._shortest, self._longest
        taken = 0
        for frame in frames:
            if not shortest <= len(frame) <= longest:
                self.dropped += 1
            else:
                try:
                    write(frame)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError as error:
                    if error.errno not in FRAME_LOST and not self._is_passing(error):
                        self._error = self._gone(error)
                        raise self._error from error
                    self.dropped += 1
            taken += 1
        return taken

    def _check(self) -> None:
        if self._fd < 0:
            raise closed_error(self)
        if self._error is not None:
            raise self._error

    def _is_passing(self, error: OSError) -> bool:
        return error.errno in _NOBODY_LISTENS and not self._peer_can_go

    def _gone(self, error: OSError | None) -> OSError:
        if error is None or (self._peer_can_go and error.errno in _GONE):
            return ConnectionResetError(errno.ECONNRESET, f"the other end of {self!r} has gone")
        return OSError(error.errno, f"{error.strerror} on {self!r}")

    @property
    def native(self) -> NativePort | None:
        return None if self._fd < 0 else NativePort(self._fd, 0, 0, 0, _BATCH)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        sock, self._socket = self._socket, None
        if sock is None:
            if self._closefd:
                os.close(fd)
        elif self._closefd:
            sock.close()
        else:
            sock.detach()

    def _let_go(self) -> None:
        """Keep the socket's object from warning as well: the process's end closes it."""
        if self._socket is not None:
            self._socket.detach()

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def _where(self) -> str:
        return f"fd={self._fd}"

    def __repr__(self) -> str:
        where = self._where() if self._fd >= 0 else "closed"
        return (
            f"<{type(self).__name__} {where} medium={self.medium} mtu={self.mtu} "
            f"dropped={self.dropped}>"
        )

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if getattr(self, "_fd", -1) >= 0 and self._closefd:
            _unclosed(self, self.close, at_end=self._let_go)


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
