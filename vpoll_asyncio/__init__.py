"""Let asyncio and uvloop treat any user-space protocol object as a file descriptor."""

from .backends import BackendInfo, backends
from .events import EventMask
from .vpoll import VPoll

__version__ = "0.1.0.dev0"

__all__ = ["BackendInfo", "EventMask", "VPoll", "backends"]
