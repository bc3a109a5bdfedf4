"""Hypothesis strategies for streams of bytes, and how they are cut when sent and received."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

from hypothesis import strategies as st

__all__ = ["ByteStream", "byte_streams", "chunkings"]

# A prime: no piece of a power of two ends where the pattern does.
_PATTERN: Final = bytes(range(251))
# Up to here the bytes themselves are drawn.
_DRAWN: Final = 64


class ByteStream(NamedTuple):
    """What is sent over a stream, in which pieces, and how many bytes the receiver asks for."""

    payload: bytes
    sends: tuple[int, ...]
    """The sizes of the pieces, together `payload`'s."""
    receives: tuple[int, ...]
    """The sizes that are asked for, one after the other and then from the beginning."""

    def pieces(self) -> list[bytes]:
        """Return `payload` as it is to be sent, piece by piece."""
        ends = itertools.accumulate(self.sends)
        return [self.payload[end - size : end] for size, end in zip(self.sends, ends, strict=True)]

    def sizes(self) -> Iterator[int]:
        """Yield the sizes that the receiver asks for, without end."""
        return itertools.cycle(self.receives)


def chunkings(length: int, *, max_pieces: int = 16) -> st.SearchStrategy[tuple[int, ...]]:
    """Generate the ways to cut `length` bytes into at most `max_pieces` pieces, none empty.

    Values are the pieces' sizes; no bytes have no piece.  They shrink towards one piece, then
    towards short ones first.  Raises ValueError for a negative length and for fewer than one
    piece.
    """
    if length < 0:
        raise ValueError(f"length={length}: expected 0 bytes or more")
    if max_pieces < 1:
        raise ValueError(f"max_pieces={max_pieces}: expected 1 piece or more")
    if length < 2:
        return st.just((length,) * length)
    cuts = st.lists(st.integers(1, length - 1), unique=True, max_size=max_pieces - 1)

    def sizes(found: list[int]) -> tuple[int, ...]:
        ends = [0, *sorted(found), length]
        return tuple(end - start for start, end in itertools.pairwise(ends))

    return cuts.map(sizes)


def byte_streams(
    *, max_size: int = 4096, max_pieces: int = 16, max_receive: int | None = None
) -> st.SearchStrategy[ByteStream]:
    """Generate payloads of at most `max_size` bytes with the ways to send and to receive them.

    max_pieces -- how many pieces are sent at the most
    max_receive -- the most bytes that the receiver asks for at once; by default `max_size`

    Short payloads have any bytes; long ones repeat a pattern of 251, in which a byte that is
    lost, doubled or out of its place shows.  Streams shrink towards no bytes, one piece, and a
    receiver that asks for one byte at a time.  Raises ValueError for a bound below 1.
    """
    most = max_size if max_receive is None else max_receive
    for name, bound in (
        ("max_size", max_size),
        ("max_pieces", max_pieces),
        ("max_receive", most),
    ):
        if bound < 1:
            raise ValueError(f"{name}={bound}: expected 1 or more")
    payloads = st.binary(max_size=min(max_size, _DRAWN))
    if max_size > _DRAWN:
        payloads |= st.integers(_DRAWN + 1, max_size).map(_pattern)
    receives = st.lists(st.integers(1, most), min_size=1, max_size=4).map(tuple)

    def with_cuts(payload: bytes) -> st.SearchStrategy[ByteStream]:
        sends = chunkings(len(payload), max_pieces=max_pieces)
        return st.builds(ByteStream, st.just(payload), sends, receives)

    return payloads.flatmap(with_cuts)


def _pattern(size: int) -> bytes:
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]
