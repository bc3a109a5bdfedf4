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
# Seconds: it may have to wait for the kernel to take other namespaces apart.
_START_TIMEOUT: Final = 60.0
_ANSWER_TIMEOUT: Final = 15.0
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

# Of a descriptor of our own, in a forked child.
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

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


class _Answer:
    """What the helper has said so far: `error` is None until it has said all."""

    __slots__ = ("error", "fd")

    def __init__(self) -> None:
        self.error: int | None = None
        self.fd = -1


class _Channel:
    """Asks the helper for sockets; threads and signal handlers may ask at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.RLock()
        self._number = 0
        # A signal handler that asks may receive what the code below it waits for.
        self._waiting: dict[int, _Answer] = {}

    def ask(self, family: int, kind: int, proto: int) -> tuple[int, int]:
        """Return (errno, descriptor).

        Raises OSError or EOFError when the helper is gone, TimeoutError when it is silent.
        """
        with self._lock:
            self._number = number = self._number + 1 & 0x7FFFFFFF
            answer = self._waiting[number] = _Answer()
            try:
                self.sock.send(_request.pack(_SOCKET, number, family, kind, proto))
                while answer.error is None:
                    data, fd = _receive(self.sock, _answer.size)
                    if not data:
                        raise EOFError
                    got, error = _answer.unpack(data)
                    asked = self._waiting.get(got)
                    if fd < 0:
                        # The last of it: the helper has closed its own descriptor.
                        if asked is not None:
                            asked.error = error
                    elif asked is not None:
                        asked.fd = fd
                    else:
                        os.close(fd)
                fd, answer.fd = answer.fd, -1
                return answer.error, fd
            finally:
                del self._waiting[number]
                if answer.fd >= 0:
                    os.close(answer.fd)

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
        self._process = self.device = -1
        try:
            ours.settimeout(_START_TIMEOUT)
            with theirs:
                kind = "tun" if packets else "tap"
                command = [str(program), str(theirs.fileno()), INTERFACE, kind]
                run_in_background(command, theirs.fileno())
            message, self.device = _receive(ours, 4096)
            self.helper = self._started(message, str(program))
            ours.settimeout(_ANSWER_TIMEOUT)
            # A kernel before 5.3 has no descriptors of processes.
            with contextlib.suppress(OSError):
                self._process = os.pidfd_open(self.helper)
        except TimeoutError:
            ours.close()
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"no network namespace: the helper process {program} has not answered for "
                f"{_START_TIMEOUT:g} s: is it stopped (state T in ps)?",
            ) from None
        except BaseException:
            ours.close()
            if self.device >= 0:
                os.close(self.device)
            raise
        self._channel = _Channel(ours)
        self._inherited = False

    def _started(self, message: bytes, program: str) -> int:
        if not message:
            raise OSError(
                errno.ENETDOWN,
                "no network namespace: the helper process ended without a word; it was killed, or "
                f"{program} cannot be executed (is its file system mounted noexec?)",
            )
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
        """Return the descriptor of a new socket.

        Raises OSError: socket(2)'s, ENETDOWN when the helper has ended, ETIMEDOUT when it
        does not answer.
        """
        try:
            if self._inherited:
                self._channel, self._inherited = self._channel.another(), False
            error, fd = self._channel.ask(family, kind, proto)
        except TimeoutError:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"the process {self.helper}, which makes the vdestack's sockets, has not answered "
                f"for {_ANSWER_TIMEOUT:g} s: is it stopped (state T in ps)?",
            ) from None
        except (EOFError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno in _SHORTAGES:
                raise
            raise OSError(
                errno.ENETDOWN,
                f"the process {self.helper}, which makes the vdestack's sockets, has ended: "
                "close the stack and open another",
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
            # A thread that asks for a socket at this moment waits no longer.
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
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
                    ended.poll(_END_TIMEOUT * 1000)
        finally:
            os.close(process)
