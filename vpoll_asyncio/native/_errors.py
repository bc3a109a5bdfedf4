"""The error of native helpers."""

from __future__ import annotations


class NativeError(OSError):
    """A native helper cannot be had: ENOPKG, EPERM or EIO, with what to do about it."""
