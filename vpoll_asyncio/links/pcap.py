"""A tee that records what passes through a link, for Wireshark, tshark and tcpdump."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Link
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

    A compiled stack moves its frames through Python here, where it would go round it on
    the inner link alone.

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
        self._writer = PcapWriter(file, medium=inner.medium, snaplen=snaplen)

    @property
    def error(self) -> OSError | None:
        """What ended the capture (EPIPE: its reader has gone), or None while it goes on."""
        return self._writer.error

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
            self._writer.close()

    def __repr__(self) -> str:
        ended = f" ended: {self.error.strerror}" if self.error is not None else ""
        return f"<PcapLink {self._writer.name}{ended} inner={self.inner!r}>"


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
