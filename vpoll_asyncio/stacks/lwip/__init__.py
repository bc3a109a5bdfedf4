"""lwIP, driven by the loop and without its thread.

The work is done in C (`vpoll_asyncio.native`, helper ``lwip``): a frame goes from the
link's descriptor through lwIP to a socket's queue, and back, without Python.  Python
is told once per batch which sockets changed, and wakes their waiters.
"""

from __future__ import annotations

from .options import LwipOptions
from .sockets import LwipSocket
from .stack import LwipStack

__all__ = ["LwipOptions", "LwipSocket", "LwipStack"]
