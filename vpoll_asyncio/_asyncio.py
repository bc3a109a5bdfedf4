"""What asyncio and ssl keep private and we depend on, in one place.

tests/test_asyncio_private.py checks each of these on every Python version.
"""

from __future__ import annotations

import ssl
from asyncio import unix_events
from types import CodeType
from typing import Final

# Two callers of fileno() would do harm with a descriptor that only signals: os.sendfile
# would write the file into it, SSLSocket would speak TLS to it.
SENDFILE_CALLER: Final[CodeType] = (
    unix_events._UnixSelectorEventLoop._sock_sendfile_native_impl.__code__  # type: ignore[attr-defined]
)
SSL_CALLER: Final[CodeType] = ssl.SSLSocket._create.__func__.__code__  # type: ignore[attr-defined]
