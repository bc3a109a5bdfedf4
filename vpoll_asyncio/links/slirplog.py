"""libslirp's complaints go to Python's logging instead of standard error.

libslirp reports through GLib, and a frame that it cannot hand over (its reader is slow,
or has just closed) as critical, a line each.  On a network a lost frame is ordinary.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import threading
from typing import Any, Final

__all__ = ["capture"]

logger: Final = logging.getLogger("vpoll_asyncio.slirp")

_DOMAIN: Final = b"Slirp"
# GLogLevelFlags from CRITICAL to DEBUG; ERROR stays GLib's, which then ends the process.
_LEVELS: Final = 0b1111_1000
_HANDLER: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
)

_lock = threading.Lock()
_captured = False


def _log(domain: bytes, level: int, message: bytes, data: Any) -> None:
    # Called in libslirp's own threads.
    logger.info("%s", message.decode(errors="replace"))


_handler: Final = _HANDLER(_log)


def capture() -> None:
    """Send libslirp's messages to the logger ``vpoll_asyncio.slirp``, as INFO, from now on.

    Does nothing when called again, or where GLib cannot be loaded by its name.
    """
    global _captured
    with _lock:
        if _captured:
            return
        _captured = True
        try:
            glib = ctypes.CDLL("libglib-2.0.so.0")
            set_handler = glib.g_log_set_handler
            remove_handler = glib.g_log_remove_handler
        except (OSError, AttributeError):
            return
        set_handler.argtypes = [ctypes.c_char_p, ctypes.c_int, _HANDLER, ctypes.c_void_p]
        set_handler.restype = ctypes.c_uint
        remove_handler.argtypes = [ctypes.c_char_p, ctypes.c_uint]
        remove_handler.restype = None
        number = set_handler(_DOMAIN, _LEVELS, _handler, None)
        # A link left open must not call into an interpreter that is gone.
        atexit.register(remove_handler, _DOMAIN, number)
