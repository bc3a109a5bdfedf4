"""Transports over user sockets, on any loop that has ``call_soon``.

They wait on the wait queue of the socket's vpoll and need no descriptor.  The
coroutine functions here do what the loop methods of the same names do, for a loop
given as the first argument; `sockops` has the ``sock_*`` methods.
"""

from .alive import attach, release
from .connect import connect_accepted_socket, create_connection
from .datagram import DatagramTransport, create_datagram_endpoint
from .listen import create_kernel_server, create_server
from .server import Server
from .stream import StreamTransport
from .tls import sendfile, start_tls
from .view import SocketView

__all__ = [
    "DatagramTransport",
    "Server",
    "SocketView",
    "StreamTransport",
    "attach",
    "connect_accepted_socket",
    "create_connection",
    "create_datagram_endpoint",
    "create_kernel_server",
    "create_server",
    "release",
    "sendfile",
    "start_tls",
]
