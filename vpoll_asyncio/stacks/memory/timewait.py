"""TIME_WAIT: the ports that a connection keeps for a minute after its end.

Who closes first keeps its port, as with Linux: bind(2) without SO_REUSEADDR finds it
taken.  A connection that is made anew between the same two ports replaces the record
(net.ipv4.tcp_tw_reuse, tcp_timewait_state_process).  Nothing drives a memory network,
so records end when somebody next asks for a port.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .network import Network
    from .opening import StreamPcb
    from .ports import PortTable
    from .tcp import Connection

__all__ = ["MOST", "SECONDS", "Key", "TimeWait", "TimeWaits"]

Key = tuple[str, int, str, int]
"""Local address and port, remote address and port."""

SECONDS: Final = 60.0
"""TCP_TIMEWAIT_LEN, and net.ipv4.tcp_fin_timeout."""

MOST: Final = 4096
"""Records that a host keeps (net.ipv4.tcp_max_tw_buckets): connections beyond leave none."""


class TimeWait:
    """A port that is kept, as the table of ports sees it."""

    __slots__ = ("laddr", "lport", "reuse", "reuseport", "until", "v6only")

    key: Final = ()
    """Not None, as for a connection: only an equal one is in the way of another."""
    listening: Final = False

    def __init__(self, ended: Connection, until: float) -> None:
        self.laddr = ended.laddr
        self.lport = ended.held
        self.v6only = ended.v6only
        self.reuse = ended.reuse
        self.reuseport = ended.reuseport
        self.until = until


class TimeWaits:
    """The records of one host, the oldest first.  Called under the network's lock.

    ports -- the host's
    network -- whose time it is
    """

    __slots__ = ("_network", "_next", "_ports", "_records")

    def __init__(self, ports: PortTable[StreamPcb | TimeWait], network: Network) -> None:
        self._ports = ports
        self._network = network
        self._records: OrderedDict[Key, TimeWait] = OrderedDict()
        self._next = 0.0

    def add(self, ended: Connection) -> None:
        """Keep the port that `ended` has held, after its end."""
        records = self._records
        if len(records) >= MOST:
            self.expire()
            if len(records) >= MOST:
                return
        key = (ended.laddr, ended.held, ended.raddr, ended.rport)
        known = records.get(key)
        if known is not None:
            # Its FIN has been waited for, and the minute begins anew.
            known.until = self._network.time() + SECONDS
            records.move_to_end(key)
            return
        record = TimeWait(ended, self._network.time() + SECONDS)
        records[key] = record
        self._ports.add(record, record.lport)

    def remove(self, key: Key) -> None:
        """Forget the record of that connection, if there is one."""
        record = self._records.pop(key, None) if self._records else None
        if record is not None:
            self._ports.remove(record, record.lport)

    def expire(self) -> None:
        """Forget what is over."""
        records = self._records
        if not records:
            return
        now = self._network.time()
        if now < self._next:
            return
        while records:
            key, record = records.popitem(last=False)
            if record.until > now:
                records[key] = record
                records.move_to_end(key, last=False)
                self._next = record.until
                return
            self._ports.remove(record, record.lport)
