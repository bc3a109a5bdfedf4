"""The library of Virtual Distributed Ethernet, by dlopen.

The C interface is vdeplug4's ``libvdeplug.h``.  Calls through ctypes release the GIL.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import threading
from pathlib import Path
from typing import Final

__all__ = ["BUFFER_SIZE", "PLUGIN_PACKAGES", "Library", "load", "plugin_path"]

SONAME: Final = "libvdeplug.so.2"
_INTERFACE_VERSION: Final = 1
# VDE_ETHBUFSIZE: VDE_MAXMTU and a header with an 802.1Q tag.
BUFFER_SIZE: Final = 9216 + 14 + 4

# The library appends user, pid and SSH_CLIENT to it in a buffer of 128 bytes.
_DESCRIPTION: Final = b"vpoll_asyncio"

PLUGIN_PACKAGES: Final = {
    "agno": "libvdeplug-agno",
    "bonding": "libvdeplug2",
    "cmd": "libvdeplug2",
    "hub": "libvdeplug2",
    "multi": "libvdeplug2",
    "null": "libvdeplug2",
    "pcap": "libvdeplug-pcap",
    "ptp": "libvdeplug2",
    "seqpacket": "libvdeplug2",
    "slirp": "libvdeplug-slirp",
    "switch": "libvdeplug2",
    "udp": "libvdeplug2",
    "vde": "libvdeplug2",
    "vdesl": "libvdeplug-vdesl",
    "vlan": "libvdeplug-vlan",
    "vxlan": "libvdeplug2",
    "vxvde": "libvdeplug2",
}
"""Debian's package of each plugin that Debian has."""


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    ]


class Library:
    """libvdeplug's functions, typed.

    A connection is the address of a C object and is used from one thread at a time.
    `recv` and `send` return what the C functions return, -1 for an error, whose
    number `ctypes.get_errno` then has.
    """

    def __init__(self) -> None:
        """Raises OSError when the dynamic linker does not find the library."""
        # Plugins that nest (vlan, agno) call it without naming it as a library of theirs.
        library = ctypes.CDLL(SONAME, ctypes.RTLD_GLOBAL, use_errno=True)
        self._open = library.vde_open_real
        self._open.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        self._open.restype = ctypes.c_void_p
        self.recv = library.vde_recv
        self.send = library.vde_send
        for function in (self.recv, self.send):
            function.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
            function.restype = ctypes.c_ssize_t
        self.datafd = library.vde_datafd
        self.ctlfd = library.vde_ctlfd
        self.close = library.vde_close
        for function in (self.datafd, self.ctlfd, self.close):
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_int
        self.recv_address: int = ctypes.cast(self.recv, ctypes.c_void_p).value or 0
        self.send_address: int = ctypes.cast(self.send, ctypes.c_void_p).value or 0

    def open(self, vnl: str, *, block_signals: bool) -> int:
        """Return a connection to `vnl`.

        block_signals -- threads that the plugin starts get no signals: they would
            otherwise take the process's, and the thread that sleeps in its event
            loop would not be woken; and a SIGPIPE of theirs would be the process's end

        Raises OSError with the plugin's errno.
        """
        ctypes.set_errno(0)
        before = (
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            if block_signals
            else None
        )
        try:
            connection = self._open(os.fsencode(vnl), _DESCRIPTION, _INTERFACE_VERSION, None)
            number = ctypes.get_errno()
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not connection:
            # Some plugins say only that they failed (udp:// without an arrow).
            number = number or errno.EINVAL
            raise OSError(number, os.strerror(number))
        return int(connection)

    @functools.cached_property
    def directory(self) -> Path | None:
        """Where the library itself is, or None where the linker does not say."""
        info = _DlInfo()
        try:
            found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(self.recv_address), ctypes.byref(info))
        except (AttributeError, OSError):
            return None
        return Path(os.fsdecode(info.dli_fname)).parent if found else None


_lock = threading.Lock()
_loaded: Library | None = None


def load() -> Library:
    """Return the library, loaded at the first call.

    Raises OSError (ELIBACC), naming the package, where it cannot be loaded.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            try:
                _loaded = Library()
            except OSError as error:
                raise OSError(
                    errno.ELIBACC,
                    f"{SONAME} cannot be loaded: install the Debian package libvdeplug2 ({error})",
                ) from error
        return _loaded


def plugin_path(scheme: str) -> Path | None:
    """Return the file of the plugin for `scheme`, or None where none is installed.

    Looks where the library looks: in the folders of ``VDEPLUGIN_PATH``, then beside
    the library.  Raises OSError as `load` does.
    """
    home = load().directory
    folders = [Path(p) for p in os.environ.get("VDEPLUGIN_PATH", "").split(":") if p]
    if home is not None:
        folders += [home / "vdeplug", home]
    for folder in folders:
        path = folder / f"libvdeplug_{scheme}.so"
        if path.is_file():
            return path
    return None
