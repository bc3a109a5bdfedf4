"""A tee that records what passes through a link, for Wireshark, tshark and tcpdump."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .. import native
from .base import Link, NativePort
from .limits import longest_frame, shortest_frame
from .nesting import split_path
from .pcapfile import SNAPLEN, File, PcapWriter
from .wrapper import LinkWrapper

__all__ = ["PcapLink", "parse_pcap"]

_STDOUT = 1


class PcapLink(LinkWrapper):
    """A link that records the frames of another one, both directions, in a pcap file.

    Parameters:
    inner -- the link that is recorded; it is closed together with this one, and when
        the capture cannot be opened it is still the caller's
    file -- a path (a file that is there is emptied; a FIFO must have its reader), a binary
        file object, or the number of a descriptor; an object or descriptor stays the
        caller's and must be open as long as the link
    snaplen -- most bytes that are kept of a frame

    The records of one batch have one time and go to the file in one write, at once.  A
    frame is recorded as sent when the inner link has taken it and the medium can carry
    it; one that is lost on the other side of that (a cable that is unplugged) is among
    them.  A failure ends the capture and never the network: see `error`.

    A compiled stack goes round Python as it does on the inner link alone, where the file
    is a regular one and there is a C compiler (or ``python -m vpoll_asyncio build`` has
    been run): each frame is then a write of its own, with its own time.

    Raises ValueError for a bad snaplen, TypeError for a file that is none, and the
    OSError of opening the file.
    """

    def __init__(
        self,
        inner: Link,
        file: File,
        *,
        snaplen: int = SNAPLEN,
    ) -> None:
        super().__init__(inner)
        self._shortest = shortest_frame(inner.medium)
        self._longest = longest_frame(inner.medium, inner.mtu)
        self._tee: _Tee | None = None
        self._writer = PcapWriter(file, medium=inner.medium, snaplen=snaplen)

    @property
    def error(self) -> OSError | None:
        """What ended the capture (EPIPE: its reader has gone), or None while it goes on."""
        self._look_at_tee()
        return self._writer.error

    def _look_at_tee(self) -> None:
        """Hear of a failure that compiled code has met: it cannot say so itself."""
        tee, writer = self._tee, self._writer
        if tee is not None and writer.error is None and (number := tee.error):
            writer.fail(OSError(number, os.strerror(number)))

    @property
    def native(self) -> NativePort | None:
        file = self._writer.regular_fd
        port = self.inner.native
        if port is None or file is None:
            return None
        if self._tee is None:
            try:
                module = native.load("tee")
            except OSError:
                # There is no compiler; Python does it.
                return None
            self._tee = _Tee(
                module, port, file, self._writer.snaplen, self._shortest, self._longest
            )
        return self._tee.port

    @property
    def missed(self) -> int:
        """Frames that passed and that a slow reader of the capture has not got."""
        return self._writer.missed

    def recv_batch(self, limit: int = 64) -> list[bytes]:
        frames = self.inner.recv_batch(limit)
        if frames:
            self._writer.add(frames)
        return frames

    def send_batch(self, frames: Sequence[bytes]) -> int:
        taken = self.inner.send_batch(frames)
        if taken:
            shortest, longest = self._shortest, self._longest
            self._writer.add(
                [frame for frame in frames[:taken] if shortest <= len(frame) <= longest]
            )
        return taken

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            self._look_at_tee()
            tee, self._tee = self._tee, None
            self._writer.close()
            if tee is not None:
                tee.close()

    def __repr__(self) -> str:
        ended = f" ended: {self.error.strerror}" if self.error is not None else ""
        return f"<PcapLink {self._writer.name}{ended} inner={self.inner!r}>"


class _Tee:
    """The compiled tee of one link; the port of `PcapLink.native`."""

    def __init__(
        self,
        module: Any,
        port: NativePort,
        file: int,
        snaplen: int,
        shortest: int,
        longest: int,
    ) -> None:
        self._module = module
        self._address: int = module.new(
            port.fd, port.recv, port.send, port.context, file, snaplen, shortest, longest
        )
        self.port = NativePort(port.fd, module.recv, module.send, self._address, port.batch)

    @property
    def error(self) -> int:
        """The errno that ended the capture, or 0."""
        return int(self._module.error(self._address))

    def close(self) -> None:
        """Give the memory back; nobody may use the port any more."""
        self._module.free(self._address)


def parse_pcap(arguments: str) -> tuple[str | int, int]:
    """Return (file, snaplen) of ``pcap://FILE[snaplen=BYTES]{…}``; ``-`` is standard output.

    Raises ValueError.
    """
    path, options = split_path(arguments)
    if not path:
        raise ValueError("pcap:// needs a file: pcap:///tmp/net.pcap{slirp://}")
    snaplen = SNAPLEN
    for name, value in options:
        if name != "snaplen" or not value.isdecimal():
            raise ValueError(f"option {name}={value}: pcap:// has snaplen=BYTES")
        snaplen = int(value)
    return (_STDOUT if path == "-" else path), snaplen
