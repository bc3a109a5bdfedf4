"""The process that keeps a network namespace, and asking it for sockets.

``native/vdestack`` has the program and the messages.  It is nobody's child, and ends
with the process that started it, whatever that one's end is.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import threading
from typing import Any, Final

from ... import native
from ...backends.fuse_launch import run_in_background

__all__ = ["INTERFACE", "Namespace"]

INTERFACE: Final = "vde0"
"""The name of the namespace's interface."""

_SOCKET, _CHANNEL, _END = 1, 2, 3
_START_TIMEOUT: Final = 60.0
_END_TIMEOUT: Final = 10.0

_head: Final = struct.Struct("=ii")
_request: Final = struct.Struct("=iiiii")
_answer: Final = struct.Struct("=ii")
_ONE_FD: Final = socket.CMSG_SPACE(struct.calcsize("i"))

_HINTS: Final = {
    (errno.EPERM, "unshare a user namespace"): "unprivileged user namespaces are switched off: "
    "sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
    (errno.ENOSPC, "unshare a user namespace"): "see sysctl user.max_user_namespaces",
    (errno.ENOSPC, "unshare a network namespace"): "see sysctl user.max_net_namespaces",
    (errno.ENOENT, "open /dev/net/tun"): "the kernel's tun module is missing: modprobe tun",
    (errno.EACCES, "open /dev/net/tun"): "its mode must let this user write: chmod 666",
}

# Taken before `install` replaces the name.
_KernelSocket: Final = socket.socket


def _receive(sock: socket.socket, size: int) -> tuple[bytes, int]:
    """Return a message, empty at the end, and the descriptor that came with it, or -1."""
    data, ancillary, _, _ = sock.recvmsg(size, _ONE_FD, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            if fds:
                return data, fds[0]
    return data, -1


class _Channel:
    """Asks the helper for sockets; threads and signal handlers may ask at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.RLock()
        self._number = 0
        # A signal handler that asks may receive what the code below it waits for.
        self._waiting: dict[int, tuple[int, int] | None] = {}

    def ask(self, family: int, kind: int, proto: int) -> tuple[int, int]:
        """Return (errno, descriptor).  Raises OSError or EOFError when the helper is gone."""
        with self._lock:
            self._number = number = self._number + 1 & 0x7FFFFFFF
            self._waiting[number] = None
            try:
                self.sock.send(_request.pack(_SOCKET, number, family, kind, proto))
                while (answer := self._waiting[number]) is None:
                    data, fd = _receive(self.sock, _answer.size)
                    if not data:
                        raise EOFError
                    got, error = _answer.unpack(data)
                    if got in self._waiting:
                        self._waiting[got] = (error, fd)
                    elif fd >= 0:
                        os.close(fd)
                self._waiting[number] = None
                return answer
            finally:
                left = self._waiting.pop(number, None)
                if left is not None and left[1] >= 0:
                    os.close(left[1])

    def another(self) -> _Channel:
        """Return a channel of a forked child's own, in place of this one of its parent's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                message = _request.pack(_CHANNEL, 0, 0, 0, 0)
                socket.send_fds(self.sock, [message], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        self.sock.close()
        return _Channel(ours)


class Namespace:
    """A network namespace with one interface.

    Parameters:
    packets -- whether the interface carries bare IP packets rather than Ethernet frames

    `device` is the interface's descriptor, which is the caller's to close.

    Raises OSError: ENOPKG without a compiler, EPERM, ENOENT … with the step that failed
    and what would help.
    """

    def __init__(self, packets: bool) -> None:
        program = native.build("vdestack")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.getpid()
        self._process = -1
        try:
            with theirs:
                kind = "tun" if packets else "tap"
                command = [str(program), str(theirs.fileno()), INTERFACE, kind]
                run_in_background(command, theirs.fileno())
            ours.settimeout(_START_TIMEOUT)
            message, self.device = _receive(ours, 4096)
            self.helper = self._started(message)
            ours.settimeout(None)
            # A kernel before 5.3 has no descriptors of processes.
            with contextlib.suppress(OSError):
                self._process = os.pidfd_open(self.helper)
        except BaseException:
            ours.close()
            raise
        self._channel = _Channel(ours)
        self._inherited = False

    def _started(self, message: bytes) -> int:
        if not message:
            raise OSError(errno.ENOEXEC, "the helper process ended without a word")
        code, pid = _head.unpack_from(message)
        if code:
            step = message[_head.size :].decode()
            hint = _HINTS.get((code, step))
            text = f"{step}: {os.strerror(code)}" + (f" ({hint})" if hint else "")
            raise OSError(code, f"no network namespace: {text}")
        if self.device < 0:
            # The kernel cuts off the descriptors for which there is no room.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return int(pid)

    def socket(self, family: int, kind: int, proto: int) -> int:
        """Return the descriptor of a new socket.  Raises OSError: socket(2)'s, ENETDOWN."""
        try:
            if self._inherited:
                self._channel, self._inherited = self._channel.another(), False
            error, fd = self._channel.ask(family, kind, proto)
        except (EOFError, ConnectionError):
            raise OSError(
                errno.ENETDOWN, "the process that makes the vdestack's sockets has ended"
            ) from None
        if error:
            raise OSError(error, os.strerror(error))
        if fd < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fd

    def after_fork(self) -> None:
        """Adapt to being in a forked child, whose parent goes on using the namespace."""
        self._channel = _Channel(self._channel.sock)
        self._inherited = True

    def let_go(self) -> None:
        """Close the socket that the helper is asked over, and no more."""
        self._channel.sock.close()

    def close(self) -> None:
        """End the helper, and wait for its end; in a forked child, only let go of it."""
        channel: Any = self._channel.sock
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                channel.send(_request.pack(_END, 0, 0, 0, 0), socket.MSG_NOSIGNAL)
        channel.close()
        process, self._process = self._process, -1
        if process < 0:
            return
        try:
            if os.getpid() == self._pid:
                ended = select.poll()
                ended.register(process, select.POLLIN)
                if not ended.poll(_END_TIMEOUT * 1000):
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
