"""One direction, as much as flow control lets through, between two protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..clock import now
from ..contenders import Contender, Sample, running, sampler
from ..protocols import Paced, connect_pair


class _Source(Paced):
    def __init__(self, piece: bytes) -> None:
        super().__init__()
        self._piece = piece
        self._left = 0

    def start(self, pieces: int) -> None:
        self._left = pieces
        self._fill()

    def _fill(self) -> None:
        write, piece = self.transport.write, self._piece
        while self.writable and self._left:
            self._left -= 1
            write(piece)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._fill()


class _Sink(Paced):
    def __init__(self) -> None:
        super().__init__()
        self._left = 0
        self._done: asyncio.Future[None]

    def expect(self, size: int) -> asyncio.Future[None]:
        self._left = size
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0:
            self._done.set_result(None)


@contextmanager
def bulk(
    contender: Contender, *, megabytes: int, piece: int = 65536, tls: bool = False
) -> Iterator[Sample]:
    """Measure a byte of `megabytes` (of 10^6 bytes) that are written `piece` by `piece`."""
    source: _Source
    sink: _Sink
    pieces = max(1, megabytes * 1_000_000 // piece)
    with running(contender) as runner:

        async def connect() -> None:
            nonlocal source, sink
            source, sink = _Source(bytes(piece)), _Sink()
            await connect_pair(contender.via, lambda: sink, lambda: source, tls)

        async def measure() -> dict[str, float]:
            start = now()
            received = sink.expect(pieces * piece)
            source.start(pieces)
            await received
            return {"byte": (now() - start) / (pieces * piece)}

        async def close() -> None:
            source.transport.close()
            await asyncio.gather(source.closed, sink.closed)

        runner.run(connect())
        try:
            yield sampler(runner, measure)
        finally:
            runner.run(close())
