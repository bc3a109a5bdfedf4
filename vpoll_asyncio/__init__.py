"""Let asyncio and uvloop treat any user-space protocol object as a file descriptor.

Where to begin:

- `open_stack` opens a network stack in the process, `run` runs a coroutine on it;
  ``vpoll-asyncio run --stack CONFIG SCRIPT`` runs a whole program that knows nothing of it.
- `open_connection`, `start_server` and their like take ``stack=`` on any running loop;
  `install` lets ``socket.socket()`` make a stack's sockets.
- `VPoll` is an event of one's own that every poller sees, `wait_events` waits for any event of
  anything, `UserSocket` is what to derive a socket from and `Stack` what to derive a stack from.
- `open_link` and the link classes are where a stack's frames go.

``vpoll-asyncio info`` tells what is available here, and what to install for the rest.
"""

from typing import TYPE_CHECKING, Any

from . import requirements as requirements
from .backends import BackendInfo, backends
from .events import EventMask
from .forward import Forward, forward
from .install import install
from .links import FdLink, Link, NetemLink, PacketLink, PcapLink, open_link
from .loops import EventLoop, new_event_loop, run
from .selector import VPollSelector
from .sockets import UserSocket, would_block
from .stacks import Stack, open_stack
from .stacks.current import current_stack
from .stacks.named import stack_named
from .streams import (
    create_connection,
    create_datagram_endpoint,
    create_server,
    open_connection,
    start_server,
)
from .vpoll import VPoll
from .waiting import wait_events

if TYPE_CHECKING:
    from .loops import UvloopEventLoop

__version__ = "0.1.0.dev0"

__all__ = [
    "BackendInfo",
    "EventLoop",
    "EventMask",
    "FdLink",
    "Forward",
    "Link",
    "NetemLink",
    "PacketLink",
    "PcapLink",
    "Stack",
    "UserSocket",
    "UvloopEventLoop",
    "VPoll",
    "VPollSelector",
    "backends",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "current_stack",
    "forward",
    "install",
    "new_event_loop",
    "open_connection",
    "open_link",
    "open_stack",
    "run",
    "stack_named",
    "start_server",
    "wait_events",
    "would_block",
]


def __getattr__(name: str) -> Any:
    # uvloop is an extra: importing this package must not need it.
    if name == "UvloopEventLoop":
        from .loops import UvloopEventLoop

        return UvloopEventLoop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
