"""What every stack whose streams are like TCP's needs, for the authors of protocols.

`StreamSocket` has the calls of a socket, and their errors in each state, over `StreamEnd`: one
end of a connection, to which a protocol adds how it sends and which it tells what has arrived.
A `StreamTable` says who has which port and who is connected with whom.  Everything happens
under a `StreamLock`.
"""

from __future__ import annotations

from .buffer import ReceiveBuffer
from .end import StreamEnd, StreamState
from .sockets import StreamSocket
from .table import StreamLock, StreamTable

__all__ = [
    "ReceiveBuffer",
    "StreamEnd",
    "StreamLock",
    "StreamSocket",
    "StreamState",
    "StreamTable",
]
