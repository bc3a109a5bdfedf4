"""What asyncio and ssl keep private and we depend on, in one place.

tests/test_asyncio_private.py checks each of these on every Python version.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from asyncio import (
    base_events,
    constants,
    format_helpers,
    selector_events,
    sslproto,
    transports,
    unix_events,
)
from collections import deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import IO, Any, Final

# These callers of fileno() would do harm with a descriptor that only signals: os.sendfile
# would write the file into it, SSLSocket would speak TLS to it, the pipes' transports and
# the child process would read and write it.
SENDFILE_CALLER: Final[CodeType] = (
    unix_events._UnixSelectorEventLoop._sock_sendfile_native_impl.__code__  # type: ignore[attr-defined]
)
SSL_CALLER: Final[CodeType] = ssl.SSLSocket._create.__func__.__code__  # type: ignore[attr-defined]
CHILD_CALLER: Final[CodeType] = subprocess.Popen._get_handles.__code__  # type: ignore[attr-defined]
READ_PIPE_CALLER: Final[CodeType] = unix_events._UnixReadPipeTransport.__init__.__code__  # type: ignore[attr-defined]
WRITE_PIPE_CALLER: Final[CodeType] = unix_events._UnixWritePipeTransport.__init__.__code__  # type: ignore[attr-defined]

# It asks a socket for its protocol, and then the host for the name that it was given.
_SOCK_CONNECT: Final[CodeType] = selector_events.BaseSelectorEventLoop.sock_connect.__code__


def address_to_look_up(caller: FrameType) -> Any:
    """Return what asyncio's ``sock_connect`` was given, if `caller` is that; else None."""
    return caller.f_locals.get("address") if caller.f_code is _SOCK_CONNECT else None


def encode_hostname(context: ssl.SSLContext, server_hostname: str | None) -> str | None:
    """Return a host name as OpenSSL takes it and `ssl.SSLSocket.server_hostname` tells it."""
    private: Any = context
    encoded: str | None = private._encode_hostname(server_hostname)
    return encoded


def tls_over_buffers(
    context: ssl.SSLContext,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    server_side: bool,
    server_hostname: str | None,
    owner: object,
    session: ssl.SSLSession | None,
) -> Any:
    """Return what `ssl.SSLObject` holds inside, which callbacks see as `owner`.

    `SSLContext.wrap_bio` would have them see the SSLObject.  Only a weak reference to
    `owner` is kept; `server_hostname` is as `encode_hostname` returns it.  Raises as
    `SSLContext.wrap_bio`.
    """
    private: Any = context
    return private._wrap_bio(
        incoming,
        outgoing,
        server_side=server_side,
        server_hostname=server_hostname,
        owner=owner,
        session=session,
    )


class FlowControl(transports._FlowControlMixin):
    """Flow control as asyncio's own transports have it: loop.sendfile and TLS look for this.

    What the constructors above would do, without the calls; and ``get_extra_info`` is its
    subclasses', which have a ``__dict__``.
    """

    __slots__ = ()

    # Most connections never change them; they hide the slots of the class above.
    _protocol_paused = False
    _high_water = 64 * 1024
    _low_water = 16 * 1024

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop


# What loop.sendfile of a stock loop looks for: a transport that is written to block by block.
SENDFILE_BY_WRITING: Final = constants._SendfileMode.FALLBACK


def ssl_transport(protocol: sslproto.SSLProtocol) -> asyncio.Transport:
    """Return the transport that the application behind `protocol` writes to."""
    transport: asyncio.Transport = protocol._get_app_transport()  # type: ignore[attr-defined]
    return transport


def can_start_tls(transport: asyncio.BaseTransport) -> bool:
    """Return whether `transport` says that TLS can be laid over it."""
    return bool(getattr(transport, "_start_tls_compatible", False))


def can_send_files(transport: asyncio.BaseTransport) -> bool:
    """Return whether `transport` says that a file can be sent over it by `write`."""
    return getattr(transport, "_sendfile_compatible", None) is SENDFILE_BY_WRITING


async def send_file_by_writing(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.WriteTransport,
    file: IO[bytes],
    offset: int,
    count: int | None,
) -> int:
    """Send `file` through `transport.write` under flow control; return the count.

    Reading is paused meanwhile.  Raises ConnectionError when the connection ends.
    """
    fallback: Any = base_events.BaseEventLoop._sendfile_fallback  # type: ignore[attr-defined]
    sent: int = await fallback(loop, transport, file, offset, count)
    return sent


# Seconds that a loop sleeps at most, and when cancelled timers are dropped wherever they are
# in the heap: where they are more than this share of more than so many.
LONGEST_SLEEP: Final[float] = base_events.MAXIMUM_SELECT_TIMEOUT  # type: ignore[attr-defined]
FEW_TIMERS: Final[int] = base_events._MIN_SCHEDULED_TIMER_HANDLES  # type: ignore[attr-defined]
CANCELLED_SHARE: Final[float] = base_events._MIN_CANCELLED_TIMER_HANDLES_FRACTION  # type: ignore[attr-defined]

# Runs a handle's callback in its context; exceptions go to the loop's handler.
run_handle: Final[Callable[[asyncio.Handle], None]] = asyncio.Handle._run
init_handle: Final[Callable[..., None]] = asyncio.Handle.__init__


def report_exception(handle: asyncio.Handle, exc: BaseException) -> None:
    """Tell a handle's loop of what its callback raised, in the words of `asyncio.Handle`."""
    private: Any = handle
    loop = private._loop
    # From 3.13 on arguments are shown in debug mode only.
    options = {"debug": loop.get_debug()} if sys.version_info >= (3, 13) else {}
    source = format_helpers._format_callback_source(private._callback, private._args, **options)
    report = {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}
    if private._source_traceback:
        report["source_traceback"] = private._source_traceback
    loop.call_exception_handler(report)


def ready_queue(loop: asyncio.SelectorEventLoop) -> deque[Any]:
    """Return the queue from which asyncio's loop takes the handles that it runs next.

    It lives as long as the loop; appending to it is safe from any thread.
    """
    queue: deque[Any] = loop._ready  # type: ignore[attr-defined]
    return queue


def is_queued(loop: asyncio.SelectorEventLoop, callback: Callable[..., object]) -> bool:
    """Return whether a handle in the loop's ready queue calls `callback`."""
    return any(getattr(handle, "_callback", None) == callback for handle in ready_queue(loop))


def signal_pipe(loop: asyncio.SelectorEventLoop) -> int:
    """Return the descriptor through which signals wake asyncio's loop."""
    fd: int = loop._csock.fileno()  # type: ignore[attr-defined]
    return fd


def handles_signals(loop: asyncio.SelectorEventLoop) -> bool:
    """Return whether the loop has signal handlers (`add_signal_handler`)."""
    return bool(loop._signal_handlers)  # type: ignore[attr-defined]


def disown(loop: asyncio.SelectorEventLoop) -> None:
    """Have asyncio take `loop`, whose constructor failed, for closed when it is collected."""
    loop._closed = True  # type: ignore[attr-defined]


def set_default_loop_factory(factory: Callable[[], asyncio.AbstractEventLoop]) -> Any:
    """Make `factory` what asyncio's default policy makes its loops with; return the previous one.

    It holds for every policy of that class, made before or afterwards.
    """
    policy: Any = asyncio.DefaultEventLoopPolicy
    previous = policy.__dict__["_loop_factory"]
    policy._loop_factory = factory if isinstance(factory, type) else staticmethod(factory)
    return previous
