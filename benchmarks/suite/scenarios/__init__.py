"""What is measured, one file a family; `SCENARIOS` has them by name."""

from __future__ import annotations

from ..contenders import Scenario
from .bulk import bulk
from .connections import connection_memory, connections, handshakes
from .echo import echo
from .events import event
from .streams import streams
from .tap import remote_connections, remote_echo
from .threads import flood, wake
from .watched import watched

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        bulk,
        connection_memory,
        connections,
        echo,
        event,
        flood,
        handshakes,
        remote_connections,
        remote_echo,
        streams,
        wake,
        watched,
    )
}
