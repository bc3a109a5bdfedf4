"""Says whose network this process has: the stack's at 10.9.0.1, the host's, or none."""

from __future__ import annotations

import errno
import socket
import sys


def network(port: int) -> str:
    """Return ``"stack"``, ``"host"`` where something listens at `port`, or an error's name."""
    try:
        with socket.socket() as sock:
            sock.bind(("10.9.0.1", 0))
            return "stack"
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            return errno.errorcode[error.errno or 0]
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return "host"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


if __name__ == "__main__":
    print(network(int(sys.argv[1])))
