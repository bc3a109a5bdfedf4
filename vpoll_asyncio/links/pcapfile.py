"""Writing captures: the file format, and a writer that nothing else ever waits for.

The format is libpcap's classic one with nanoseconds, pcap-savefile(5): a header of 24
bytes, then 16 bytes and the frame for each frame.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from ..kernel import KernelSocket
from .base import Medium

__all__ = ["SNAPLEN", "File", "PcapWriter"]

_log = logging.getLogger(__name__)

SNAPLEN: Final = 262144
"""Most bytes that are kept of a frame by default; Wireshark's own limit."""

_MAGIC_NANOSECONDS: Final = 0xA1B23C4D
# https://www.tcpdump.org/linktypes.html
_LINKTYPE: Final[dict[Medium, int]] = {"ethernet": 1, "ip": 101}
_HEADER: Final = struct.Struct("<IHHiIII")
_RECORD: Final = struct.Struct("<IIII")
_BACKLOG: Final = 1 << 20
"""Bytes that may wait for a slow reader."""

_WOULD_BLOCK: Final = (errno.EAGAIN, errno.EINTR)


class BinaryFile(Protocol):
    """What a capture needs of a file object; a `flush` is called too where there is one."""

    def write(self, data: bytes, /) -> int | None:
        """Write, as `io.RawIOBase` and `io.BufferedIOBase` do."""


File = str | os.PathLike[str] | int | BinaryFile
"""A path, the number of a descriptor, or a binary file object."""


class PcapWriter:
    """Appends frames to a capture, and gives the capture up rather than hold anybody up.

    Parameters:
    file -- a path (made or emptied; a FIFO needs a reader), a binary file object, or the
        number of a descriptor; objects and descriptors stay the caller's and open
    medium -- what a frame is
    snaplen -- most bytes that are kept of a frame

    A pipe, FIFO or socket is never waited for: `missed` counts the frames that a slow
    reader has not got.  The first failure (the reader is gone, the disk is full) ends the
    capture: it is logged, once, and kept in `error`.  SIGPIPE does not come.

    May be called from any thread and from signal handlers.  Raises ValueError for a bad
    snaplen, TypeError for a file that is none, and the OSError of opening the file or of
    writing the header; ENXIO: nobody reads the FIFO.
    """

    def __init__(self, file: File, *, medium: Medium, snaplen: int) -> None:
        self._close: Callable[[], object] | None = None
        if not 1 <= snaplen <= 0x7FFFFFFF:
            raise ValueError(f"snaplen {snaplen!r}: expected at least one byte of every frame")
        self.missed = 0
        """Frames that a slow reader has not got."""
        self.error: OSError | None = None
        """What ended the capture, or None while it goes on."""
        self.name = repr(file) if isinstance(file, str | int) else str(file)
        self.snaplen = snaplen
        self.regular_fd: int | None = None
        """The file's descriptor, where a write to it neither waits nor raises SIGPIPE."""
        self._pid = os.getpid()
        self._pending: deque[bytes] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._write = self._open(file)
        try:
            head = _HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, snaplen, _LINKTYPE[medium])
            self._pending.append(head)
            self._waiting = len(head)
            self._write_some()
        except BaseException:
            self._give_back()
            raise

    def _open(self, file: File) -> Callable[[bytes], int | None]:
        if isinstance(file, int):
            return self._open_descriptor(os.dup(file))
        if isinstance(file, str | os.PathLike):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                return self._open_descriptor(os.open(file, flags, 0o666))
            except OSError as error:
                hint = (
                    " (no program has opened it for reading)" if error.errno == errno.ENXIO else ""
                )
                text = f"cannot capture to {os.fspath(file)!r}: {error.strerror}{hint}"
                raise OSError(error.errno, text) from error
        if isinstance(file, io.FileIO | io.BufferedWriter | io.BufferedRandom):
            file.flush()
            return self._open_descriptor(os.dup(file.fileno()))
        given: Any = file
        if not hasattr(given, "write") or isinstance(given, io.TextIOBase):
            raise TypeError(f"file={file!r}: expected a path, a binary file object or a descriptor")
        flush = getattr(file, "flush", None)

        def write(data: bytes) -> int | None:
            written = file.write(data)
            if flush is not None:
                flush()
            return written

        return write

    def _open_descriptor(self, fd: int) -> Callable[[bytes], int]:
        """Return what writes to `fd` without waiting; `fd` is ours."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            sock = KernelSocket(fileno=fd)
            self._close = sock.close
            return lambda data: sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if not stat.S_ISREG(mode) and os.get_blocking(fd):
            fd = _not_blocking(fd)
        self._close = lambda: os.close(fd)
        if stat.S_ISFIFO(mode):
            return lambda data: _write_to_pipe(fd, data)
        if stat.S_ISREG(mode):
            self.regular_fd = fd
        return lambda data: os.write(fd, data)

    def add(self, frames: Iterable[bytes]) -> None:
        """Write `frames`, of one moment, with one write."""
        if self.error is not None:
            return
        now = time.time_ns()
        seconds, nanoseconds = divmod(now, 1_000_000_000)
        seconds &= 0xFFFFFFFF
        pack, snaplen = _RECORD.pack, self.snaplen
        parts: list[bytes] = []
        for frame in frames:
            length = len(frame)
            if length > snaplen:
                parts += pack(seconds, nanoseconds, snaplen, length), frame[:snaplen]
            else:
                parts += pack(seconds, nanoseconds, length, length), frame
        if not parts:
            return
        if self._waiting > _BACKLOG:
            self._flush()
            if self._waiting > _BACKLOG:
                self.missed += len(parts) // 2
                return
        data = b"".join(parts)
        self._pending.append(data)
        self._waiting += len(data)
        self._flush()

    def _flush(self) -> None:
        # Another thread, or the code that this handler has interrupted, looks again.
        while self._pending and self._lock.acquire(blocking=False):
            try:
                if not self._write_some():
                    return
            except (OSError, ValueError) as error:
                # ValueError: the file object is closed.
                self.fail(error)
            finally:
                self._lock.release()

    def _write_some(self) -> bool:
        """Write what waits; return whether all of it went."""
        pending = self._pending
        while pending:
            data = pending[0]
            try:
                written = self._write(data)
            except OSError as error:
                if error.errno in _WOULD_BLOCK:
                    return False
                raise
            if written is None:
                # A raw file object that would block.
                return False
            self._waiting -= written
            if written < len(data):
                pending[0] = data[written:]
            else:
                pending.popleft()
        return True

    def fail(self, error: OSError | ValueError) -> None:
        """End the capture for `error`: log it, once, and keep it."""
        self._pending.clear()
        self._waiting = 0
        if self.error is None:
            number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.error = OSError(number, why)
            _log.warning("the capture to %s has ended: %s", self.name, why)

    def _give_back(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()

    def close(self) -> None:
        """Write what can be written without waiting, and let the file go."""
        if os.getpid() == self._pid:
            self._flush()
        self._pending.clear()
        self.regular_fd = None
        if self.error is None:
            self.error = OSError(errno.EBADF, "the capture is closed")
        self._give_back()


def _not_blocking(fd: int) -> int:
    """Return a non-blocking descriptor of the same file, and close `fd`.

    The flag is the open file's, which others may share: it is opened a second time.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _write_to_pipe(fd: int, data: bytes) -> int:
    if signal.getsignal(signal.SIGPIPE) in (signal.SIG_IGN, None):
        return os.write(fd, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    if signal.SIGPIPE in before:
        return os.write(fd, data)
    try:
        return os.write(fd, data)
    except BrokenPipeError:
        signal.sigtimedwait({signal.SIGPIPE}, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
