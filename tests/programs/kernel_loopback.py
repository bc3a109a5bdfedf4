"""Say how the kernel answers a connection to its own loopback address."""

from __future__ import annotations

import errno
import socket

with socket.socket() as sock:
    print(errno.errorcode.get(sock.connect_ex(("127.0.0.1", 80)), "connected"))
