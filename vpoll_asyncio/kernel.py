"""The kernel's own socket class, whatever `install` has put into the `socket` module.

What the package makes for itself, a backend's pair or a link's endpoint, is the kernel's
on whatever stack the program is.  It is `socket.socket` as it was when the package was
imported.
"""

from __future__ import annotations

from socket import socket as KernelSocket

__all__ = ["KernelSocket"]
