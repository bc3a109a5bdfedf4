"""The calls of every message, which are compiled (native/lwip/masks.c and calls.c).

Sockets outlive their stack, so the masks are those of an instance of the C side, and no stack's.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
from typing import Any, Protocol

from ...vpoll import VPoll

__all__ = ["Masks", "Reader", "Stream", "calls_of", "masks_of"]


class Masks(Protocol):
    """Keeps the vpolls of the C side's sockets at their masks.  Thread-safe."""

    @property
    def busy(self) -> bool:
        """Whether masks are on their way to their vpolls; `publish` waits for them."""

    def register(self, handle: int, vpoll: VPoll, /) -> None:
        """Let `vpoll` have the mask of socket `handle` from now on."""

    def forget(self, handle: int, /) -> None:
        """Socket `handle` is closed."""

    def publish(self) -> None:
        """Bring every vpoll whose socket has changed up to date.

        One thread at a time; the others wait for it.  Inside a waiter, or a signal
        handler, it is left to the call that was interrupted.  What a waiter that raises
        has kept from being shown is shown by the next call.
        """

    def turn(self, readable: int, /) -> None:
        """Let the stack work once, as ``vp_turn`` does, and show what has changed by it.

        readable -- the index of the interface whose link is, 0 for none

        What changes meanwhile is left to `publish`.
        """

    def after_fork(self) -> None:
        """Start with a lock that nobody holds, in the child."""


class Stream(Protocol):
    """What a transport calls for every message of a socket."""

    def receive(self, size: int, /) -> bytes:
        """Return what waits, as `SocketHooks.do_recv_some`.

        The events that end by it are taken off the vpoll without a call of its waiters.
        """

    def send(self, data: Any, flags: int, address: Any, /) -> int:
        """Send, as `SocketHooks.do_send`."""


class Reader(Protocol):
    """What a loop calls when a link's descriptor is readable."""

    def read(self) -> None:
        """Let the stack take a batch, then run what hops that has pushed onto the relay."""


@functools.cache
def calls_of(native: Any) -> Any:
    """Return the module of the compiled calls, which is in the file of the helper `native`.

    Its classes are made as ``Masks()``, ``Stream(masks, settle, sock, vpoll, handle)`` and
    ``Reader(masks, settle, relay, None, index)``, where `settle` is `Core.settle` and `index` the
    interface's.
    """
    name, path = "_vpoll_lwip_calls", native.__file__
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@functools.cache
def masks_of(native: Any) -> Masks:
    """Return the one `Masks` of the helper `native`."""
    masks: Masks = calls_of(native).Masks()
    return masks
