"""What a running forward offers, whatever its protocol."""

from __future__ import annotations

import abc
import asyncio
import logging
from types import TracebackType
from typing import Any, Self

from .address import End

__all__ = ["Forward", "logger"]

logger = logging.getLogger("vpoll_asyncio.forward")


class Forward(abc.ABC):
    """A port that is being forwarded; leaving ``async with`` ends it.

    All methods are to be called in the loop's thread.
    """

    def __init__(self, source: End, target: End) -> None:
        self._source = source
        self._target = target
        self._done = asyncio.Event()
        self._closing = False

    @property
    @abc.abstractmethod
    def sockets(self) -> tuple[Any, ...]:
        """The sockets that are listened on; empty once closed."""

    @property
    def sockname(self) -> Any:
        """The address that is listened on, the first one of several.

        Raises OSError once closed.
        """
        sockets = self.sockets
        if not sockets:
            raise OSError("the forward is closed")
        return sockets[0].getsockname()

    @property
    @abc.abstractmethod
    def connections(self) -> int:
        """How many connections, or clients for UDP, are being forwarded."""

    @property
    def closing(self) -> bool:
        """Whether `close` has been called."""
        return self._closing

    def close(self) -> None:
        """Stop listening and reset what is being forwarded.  Closing twice is allowed."""
        if not self._closing:
            self._closing = True
            self._close()

    @abc.abstractmethod
    def _close(self) -> None: ...

    async def wait_closed(self) -> None:
        """Wait until the forward is closed and nothing of it is left."""
        await self._done.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        state = "closed" if self._done.is_set() else "closing" if self._closing else "running"
        listening = "" if self._closing or not self.sockets else f" on port {self.sockname[1]}"
        return f"<{type(self).__name__} {state}{listening}: {self._source} to {self._target}>"
