"""Event loops that know vpolls, user sockets and stacks, and how to run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .eventloop import EventLoop
from .run import new_event_loop, run

if TYPE_CHECKING:
    from .uvloop import UvloopEventLoop

__all__ = ["EventLoop", "UvloopEventLoop", "new_event_loop", "run"]


def __getattr__(name: str) -> Any:
    # uvloop is an extra: only who asks for its loop needs it.
    if name == "UvloopEventLoop":
        try:
            from .uvloop import UvloopEventLoop
        except ModuleNotFoundError as exc:
            if exc.name != "uvloop":
                raise
            raise ImportError(
                "vpoll_asyncio.UvloopEventLoop needs uvloop: pip install 'vpoll-asyncio[uvloop]'"
            ) from exc
        return UvloopEventLoop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
