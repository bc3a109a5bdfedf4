"""Router discovery (RFC 4861) and stateless addresses (RFC 4862), which lwIP does by itself.

Nobody tells when lwIP has an address of a prefix, so that is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .core import Core
from .ports import Port

__all__ = ["RouterDiscovery"]

# Seconds between two looks: lwIP itself acts once a second.
_LOOK: Final = 0.1


class RouterDiscovery:
    """Asks for the routers of one interface, and looks until there is an address.

    found -- called once there is one

    Raises OSError (ENODEV, ENETDOWN).  Its methods may be called from any thread.
    """

    def __init__(self, core: Core, port: Port, found: Callable[[], None]) -> None:
        self.port = port
        self._core = core
        self._found = found
        core.solicit_routers(port)
        core.timers.set(self._look, core.timers.now() + _LOOK)

    @property
    def configured(self) -> bool:
        """Whether there is an address of a prefix that a router has advertised."""
        return bool(self._core.learned(self.port))

    @property
    def tried(self) -> str:
        """What was done, for a message."""
        return "routers were solicited"

    def _look(self) -> None:
        if self.configured:
            self._found()
        else:
            self._core.timers.set(self._look, self._core.timers.now() + _LOOK)

    def close(self) -> None:
        """Look no more; lwIP goes on."""
        self._core.timers.set(self._look, float("inf"))
