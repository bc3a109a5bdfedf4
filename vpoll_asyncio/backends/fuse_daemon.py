"""The daemon behind the `fuse` backend where there is no compiler: a program of its own.

Started as ``python -I -S fuse_daemon.py SOCKET``; the package is not imported, so the
file stands alone.  It does what the C sources in ``native/fuse`` do, which say why.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["Server", "main", "make_mount"]

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC: Final = 1
_CONFIG_FLAG, _CONFIG_STRING, _CONFIG_CREATE = 0, 1, 6
_ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 2, 4, 8
_NEWNS: Final = 0x00020000
_NEWUSER: Final = 0x10000000

_SET_NAME: Final = 15

_SOCKET: Final = 3


class StepFailed(Exception):
    """A step of making the mount failed: (errno, step)."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _system_call(step: str, number: int, *arguments: int | bytes | None) -> int:
    # Variadic: an int that is not widened leaves the upper half of its register undefined.
    wide = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    call = _libc().syscall
    call.restype = ctypes.c_long
    result: int = call(ctypes.c_long(number), *wide)
    if result < 0:
        raise StepFailed(ctypes.get_errno(), step)
    return result


def _mount_here(uid: int, gid: int, *, others: bool) -> tuple[int, int]:
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StepFailed(error.errno, "open /dev/fuse") from None
    try:
        context = _system_call("fsopen fuse", _FSOPEN, b"fuse", _CLOSE_ON_EXEC)
        try:
            for key, value in (
                (b"fd", f"{device}"),
                (b"rootmode", "40700"),
                (b"user_id", f"{uid}"),
                (b"group_id", f"{gid}"),
            ):
                _configure(context, _CONFIG_STRING, key, value.encode())
            if others:
                _configure(context, _CONFIG_FLAG, b"allow_other", None)
            _configure(context, _CONFIG_CREATE, None, None)
            attributes = _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC
            directory = _system_call("fsmount fuse", _FSMOUNT, context, _CLOSE_ON_EXEC, attributes)
            return device, directory
        finally:
            os.close(context)
    except StepFailed:
        os.close(device)
        raise


def _configure(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _system_call("fsconfig fuse", _FSCONFIG, context, command, key, value, 0)


def _enter_namespaces(uid: int, gid: int) -> None:
    if _libc().unshare(_NEWUSER | _NEWNS):
        raise StepFailed(ctypes.get_errno(), "unshare a user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise StepFailed(error.errno, f"write /proc/self/{name}") from None


def _mount_in_namespaces(uid: int, gid: int) -> tuple[int, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        _mount_and_send(theirs, uid, gid)
    theirs.close()
    with ours:
        message, fds, _, _ = socket.recv_fds(ours, 256, 2, socket.MSG_CMSG_CLOEXEC)
    os.waitpid(child, 0)
    if len(fds) == 2:
        return fds[0], fds[1]
    if not message:
        raise StepFailed(errno.EPIPE, "mount in a user namespace")
    raise StepFailed(struct.unpack_from("=i", message)[0], message[4:].decode())


def _mount_and_send(sock: socket.socket, uid: int, gid: int) -> None:
    try:
        try:
            _enter_namespaces(uid, gid)
            mounted = _mount_here(uid, gid, others=False)
        except StepFailed as failure:
            number, step = failure.args
            sock.send(struct.pack("=i", number) + step.encode())
        else:
            socket.send_fds(sock, [struct.pack("=i", 0)], mounted)
    finally:
        os._exit(0)


def make_mount() -> tuple[int, int]:
    """Return (/dev/fuse, root of a mount that no mount table shows).

    Raises StepFailed.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        return _mount_here(uid, gid, others=True)
    except StepFailed as failure:
        if failure.args[0] != errno.EPERM:
            raise
    return _mount_in_namespaces(uid, gid)


_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _WRITE, _RELEASE = 1, 2, 3, 14, 15, 16, 18
_INIT, _DESTROY, _IOCTL, _POLL, _BATCH_FORGET = 26, 38, 39, 40, 42
_NOTIFY_POLL: Final = 1
_ROOT, _FILE = 1, 2
_FILE_NAME: Final = b"vpoll"
_FOR_EVER: Final = 1 << 30
# DIRECT_IO, NONSEEKABLE, STREAM, NOFLUSH, PARALLEL_DIRECT_WRITES
_OPEN_FLAGS: Final = 1 | 4 | 16 | 32 | 64
_KEPT: Final = 0x0FFF_FFFF
_WORD: Final = 0xFFFF_FFFF
_ADD, _DEL, _SET = 1, 2, 3

_in_header: Final = struct.Struct("=IIQQIIIHH")
_out_header: Final = struct.Struct("=IiQ")
_init_out: Final = struct.Struct("=IIIIHHIIHH32x")
_attr: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_entry_out: Final = struct.Struct("=QQQQII")
_attr_out: Final = struct.Struct("=QII")
_open_out: Final = struct.Struct("=QIi")
_transfer_in: Final = struct.Struct("=QQIIQII")
_write_out: Final = struct.Struct("=II")
_ioctl_in: Final = struct.Struct("=QIIQII")
_ioctl_out: Final = struct.Struct("=iIII")
_poll_in: Final = struct.Struct("=QQII")
_poll_out: Final = struct.Struct("=II")
_word: Final = struct.Struct("=Q")


class Refused(Exception):
    """A request is answered with an error: (errno,)."""


class Server:
    """Answers the kernel's requests on `device`: every open file is a vpoll."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._events: dict[int, int] = {}
        self._kernel_handles: dict[int, int] = {}
        self._next_handle = 1
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            _POLL: self._poll,
            _IOCTL: self._ioctl,
            _WRITE: self._write,
            _READ: self._read,
            _OPEN: self._open,
            _RELEASE: self._release,
            _LOOKUP: self._look_up,
            _GETATTR: self._get_attributes,
            _INIT: self._initialize,
            _DESTROY: lambda node, body: b"",
        }

    def run(self) -> int:
        """Answer until the mount is gone; return the exit status."""
        while True:
            try:
                request = os.read(self._device, 16384)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return 0 if error.errno == errno.ENODEV else 1
            if len(request) < _in_header.size:
                return 0
            _, opcode, unique, node, *_ = _in_header.unpack_from(request)
            if opcode in (_FORGET, _BATCH_FORGET):
                continue
            self._answer(opcode, unique, node, request[_in_header.size :])
            if opcode == _DESTROY:
                return 0

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        try:
            answer = self._answers.get(opcode, self._unknown)(node, body)
        except Refused as refusal:
            self._send(unique, -refusal.args[0])
            return
        if not self._send(unique, 0, answer) and opcode == _OPEN:
            self._events.pop(_open_out.unpack(answer)[0], None)

    def _send(self, unique: int, error: int, body: bytes = b"") -> bool:
        message = _out_header.pack(_out_header.size + len(body), error, unique) + body
        try:
            os.write(self._device, message)
        except OSError as failure:
            return failure.errno != errno.ENOENT
        return True

    def _unknown(self, node: int, body: bytes) -> bytes:
        raise Refused(errno.ENOSYS)

    def _initialize(self, node: int, body: bytes) -> bytes:
        minor = struct.unpack_from("=II", body)[1]
        return _init_out.pack(7, min(minor, 31), 0, 0, 0, 0, 4096, 1, 0, 0)

    def _attributes(self, node: int) -> bytes:
        root = node == _ROOT
        mode = stat.S_IFDIR | 0o700 if root else stat.S_IFREG | 0o600
        owner = (os.geteuid(), os.getegid())
        size = 0 if root else _word.size
        links = 2 if root else 1
        return _attr.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, links, *owner, 0, 4096, 0)

    def _look_up(self, node: int, body: bytes) -> bytes:
        if node != _ROOT or body.rstrip(b"\0") != _FILE_NAME:
            raise Refused(errno.ENOENT)
        return _entry_out.pack(_FILE, 0, _FOR_EVER, _FOR_EVER, 0, 0) + self._attributes(_FILE)

    def _get_attributes(self, node: int, body: bytes) -> bytes:
        return _attr_out.pack(_FOR_EVER, 0, 0) + self._attributes(node)

    def _open(self, node: int, body: bytes) -> bytes:
        if node != _FILE:
            raise Refused(errno.EISDIR)
        handle = self._next_handle
        self._next_handle += 1
        self._events[handle] = 0
        return _open_out.pack(handle, _OPEN_FLAGS, 0)

    def _release(self, node: int, body: bytes) -> bytes:
        handle = _word.unpack_from(body)[0]
        self._events.pop(handle, None)
        self._kernel_handles.pop(handle, None)
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        handle, _, size, *_ = _transfer_in.unpack_from(body)
        if size != _word.size:
            raise Refused(errno.EINVAL)
        return _word.pack(self._events[handle])

    def _write(self, node: int, body: bytes) -> bytes:
        handle, _, size, *_ = _transfer_in.unpack_from(body)
        if size != _word.size:
            raise Refused(errno.EINVAL)
        word = _word.unpack_from(body, _transfer_in.size)[0]
        self._operate(handle, word >> 32, word & _WORD)
        return _write_out.pack(_word.size, 0)

    def _ioctl(self, node: int, body: bytes) -> bytes:
        handle, _, request, argument, _, _ = _ioctl_in.unpack_from(body)
        command = request - (ord("^") << 8)
        if command not in (_ADD, _DEL, _SET):
            raise Refused(errno.ENOTTY)
        return _ioctl_out.pack(self._operate(handle, command, argument & _WORD), 0, 0, 0)

    def _operate(self, handle: int, command: int, argument: int) -> int:
        events = self._events[handle]
        if argument & ~_KEPT:
            raise Refused(errno.EINVAL)
        if command == _ADD:
            events |= argument
        elif command == _DEL:
            events &= ~argument
        elif command == _SET:
            events = argument
        else:
            raise Refused(errno.EINVAL)
        self._events[handle] = events
        kernel_handle = self._kernel_handles.get(handle)
        if kernel_handle is not None:
            self._send(0, _NOTIFY_POLL, _word.pack(kernel_handle))
        return events

    def _poll(self, node: int, body: bytes) -> bytes:
        handle, kernel_handle, _, _ = _poll_in.unpack_from(body)
        self._kernel_handles[handle] = kernel_handle
        return _poll_out.pack(self._events[handle], 0)


def _detach(sock: int) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.setsid()
    except PermissionError:
        pass
    os.chdir("/")
    _libc().prctl(_SET_NAME, b"vpoll-fuse", 0, 0, 0)
    if sock != _SOCKET:
        os.dup2(sock, _SOCKET)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(_SOCKET):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > _SOCKET:
            try:
                os.close(int(name))
            except OSError:
                pass


def main(argv: list[str]) -> int:
    """Be the daemon that reports to the UNIX socket whose number is the first argument."""
    _detach(int(argv[1]))
    with socket.socket(fileno=_SOCKET) as sock:
        try:
            device, directory = make_mount()
        except StepFailed as failure:
            number, step = failure.args
            sock.send(struct.pack("=ii", number, os.getpid()) + step.encode())
            return 1
        socket.send_fds(sock, [struct.pack("=ii", 0, os.getpid())], [directory])
    os.close(directory)
    return Server(device).run()


if __name__ == "__main__":
    os._exit(main(sys.argv))
